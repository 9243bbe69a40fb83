"""Sound files of the datasets: finds a clip, and makes the example that all datasets of sound share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs import sources
from beam_jobs.dead_letters import about
from beam_jobs.image_files import read_file
from beam_jobs.sound_files import as_wav
from beam_jobs.tf_example import Example
from uio2.pipeline.places import AnyPlace

# What a sound file's name may end with where a table leaves that out.
SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".wma", ".webm", ".mp4", ".mkv",
)  # fmt: skip


def suffixes_in(root: AnyPlace) -> tuple[str, ...]:
    """Those of `SUFFIXES` that files below a folder have: fewer names to look for, where most clips are not there."""
    found = {path.suffix.lower() for path in sources.walk(root)}
    return tuple(suffix for suffix in SUFFIXES if suffix in found)


def youtube_names(name: str, *, start: float, end: float) -> list[str]:
    """Names, without suffix, that tools which fetch AudioSet or AudioCaps give a part of a video."""
    tails = ("", f"_{start:.0f}", f"_{start:.0f}_{end:.0f}", f"_{start:.3f}_{end:.3f}", f"_{1000 * start:.0f}",
             f"_{1000 * start:.0f}_{1000 * end:.0f}")  # fmt: skip
    return [f"{stem}{tail}" for stem in (name, f"Y{name}") for tail in tails]


def read_clip(
    bases: Sequence[str], names: Sequence[str], *, suffixes: Sequence[str] = SUFFIXES, must_exist: bool = True
) -> bytes:
    """The bytes of a clip; a name without a suffix is looked for with each of `suffixes`.

    Raises:
      BadRecord: `path_escape`, `audio_missing` or `unreadable`.
    """
    tried = [n + s for n in names for s in (("",) if n.lower().endswith(SUFFIXES) else ("", *suffixes))]
    return read_file(bases, tried, kind="audio", must_exist=must_exist)


def clip_example(key: str, data: bytes, *, max_seconds: float, texts: Mapping[str, Sequence[str]]) -> bytes:
    """The serialized example of a sound file and what is said of it, by feature name; raises as `as_wav`."""
    with about(data):
        sound = as_wav(data, max_seconds=max_seconds)
    return Example(
        ints={"sample_rate": [sound.rate]}, strings={"key": [key], "audio": [sound.data], **texts}
    ).to_bytes()


def clip_features(texts: Mapping[str, Any]) -> Any:
    """The TFDS features of `clip_example`; `texts` are those of its texts."""
    import numpy as np
    import tensorflow_datasets as tfds

    f = tfds.features
    clip = {"key": f.Text(), "audio": f.Tensor(shape=(), dtype=np.str_), "sample_rate": np.int64}
    return f.FeaturesDict({**clip, **texts})
