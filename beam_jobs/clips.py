"""Sound files: finds a clip, and checks a WAV file through without changing it.

Datasets hold PCM WAV, which the standard library reads. Nothing that is installed decodes Ogg, MP3, FLAC or AAC
(`soundfile` would), so such a file is dropped as `not_wav` with its container's name.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.dead_letters import BadRecord, about
from beam_jobs.image_files import read_file
from beam_jobs.tf_example import Example

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
_CONTAINERS = {
    b"OggS": "Ogg",
    b"fLaC": "FLAC",
    b"ID3": "MP3",
    b"\xff\xfb": "MP3",
    b"\xff\xf3": "MP3",
    b"\xff\xf2": "MP3",
    b"<": "HTML or XML",
}


def read_clip(bases: Sequence[str], names: Sequence[str], *, must_exist: bool = True) -> bytes:
    """The bytes of a clip; a name without a suffix is looked for with each known one.

    Raises:
      BadRecord: `path_escape`, `audio_missing` or `unreadable`.
    """
    tried = [n + s for n in names for s in (("",) if n.lower().endswith(SUFFIXES) else ("", *SUFFIXES))]
    return read_file(bases, tried, kind="audio", must_exist=must_exist)


def check_wav(data: bytes, *, max_seconds: float) -> int:
    """Reads a WAV through and returns its sample rate.

    Raises:
      BadRecord: `empty_file`, `not_wav`, `bad_rate`, `bad_width`, `no_samples`, `cut_short` or `too_long`.
    """
    if not data:
        raise BadRecord("empty_file", "the file has no bytes")
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, frames, width = file.getframerate(), file.getnframes(), file.getsampwidth() * file.getnchannels()
            if rate < 1:
                raise BadRecord("bad_rate", f"sample rate {rate}")
            if file.getsampwidth() > 4:
                raise BadRecord("bad_width", f"{file.getsampwidth()} bytes per sample; at most 4 can be read later")
            if frames < 1:
                raise BadRecord("no_samples", "the header promises no samples")
            # Before the length: a header that a streaming writer never completed promises days of sound.
            if len(data) < frames * width or len(file.readframes(frames)) < frames * width:
                raise BadRecord("cut_short", f"{len(data)} bytes; the header promises {frames} samples")
    except (wave.Error, EOFError) as e:
        raise BadRecord("not_wav", f"{_container(data)}: {type(e).__name__}: {e}; expected PCM WAV") from e
    if frames / rate > max_seconds:
        raise BadRecord("too_long", f"{frames / rate:.1f} s is above max_seconds = {max_seconds}")
    return rate


def clip_example(key: str, data: bytes, *, max_seconds: float, texts: Mapping[str, Sequence[str]]) -> bytes:
    """The serialized example of a checked WAV and what is said of it, by feature name; raises as `check_wav`."""
    with about(data):
        rate = check_wav(data, max_seconds=max_seconds)
    return Example(ints={"sample_rate": [rate]}, strings={"key": [key], "audio": [data], **texts}).to_bytes()


def clip_features(texts: Mapping[str, Any]) -> Any:
    """The TFDS features of `clip_example`; `texts` are those of its texts."""
    import numpy as np
    import tensorflow_datasets as tfds

    f = tfds.features
    clip = {"key": f.Text(), "audio": f.Tensor(shape=(), dtype=np.str_), "sample_rate": np.int64}
    return f.FeaturesDict({**clip, **texts})


def _container(data: bytes) -> str:
    known = next((name for start, name in _CONTAINERS.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp":
        known = "MPEG-4"
    return known or f"starts with {data[:12]!r}"
