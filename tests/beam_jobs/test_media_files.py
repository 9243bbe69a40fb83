"""Films and sounds of any container: which frames are taken, what becomes of samples, what is refused and why."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_jobs.dead_letters import BadRecord
from beam_jobs.frames import FrameSettings
from beam_jobs.sound_files import as_wav
from beam_jobs.video_files import Clip, read_clip, sound_of
from tests.beam_jobs.media_files import film, sound, tone


def _settings(**changes: float) -> FrameSettings:
    given = {"num_frames": 4, "max_side": 512, "frame_rate": 25.0, "jpeg_quality": 92, "max_seconds": 60.0,
             "max_pixels": 1_000_000}  # fmt: skip
    return FrameSettings(**{**given, **changes})


def _numbers(clip: Clip) -> list[int]:
    """The numbers of `film`'s frames, from the red of their lower halves."""
    pictures = [np.asarray(Image.open(io.BytesIO(data))) for data in clip.frames]
    return [round(p[p.shape[0] * 3 // 4 :, ..., 0].mean() / 10) for p in pictures]


def _samples(data: bytes) -> np.ndarray:
    """float [samples, channels] of a 16-bit WAV."""
    with wave.open(io.BytesIO(data)) as file:
        assert file.getsampwidth() == 2
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels()) / 2**15


def _reason(call, *args, **named) -> str:
    with pytest.raises(BadRecord) as caught:
        call(*args, **named)
    return caught.value.reason


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", ".mp4"), ("libvpx-vp9", ".webm"), ("mpeg4", ".mkv"), ("wmv2", ".wmv")]
)
def test_frames_of_any_container_are_evenly_spaced_and_repeat(tmp_path: Path, codec: str, suffix: str):
    path = str(film(tmp_path / f"a{suffix}", [n / 25 for n in range(20)], codec=codec))
    clip = read_clip(path, _settings())
    assert _numbers(clip) == [2, 7, 12, 17]
    assert clip.seconds == pytest.approx(0.8, abs=0.002)
    assert read_clip(path, _settings()) == clip
    assert sound_of(path, max_seconds=60) == b""


def test_a_frame_counts_for_as_long_as_it_is_shown(tmp_path: Path):
    # Frame 0 lasts a second, frames 1 to 3 a tenth each, frame 4 until 3.9 s; middles of fifths: 0.4, 1.2, 2.0.
    path = film(tmp_path / "a.mkv", [0, 1, 1.1, 1.2, 1.3, 3.9])
    assert _numbers(read_clip(str(path), _settings(num_frames=5))) == [0, 2, 4, 4, 4]
    assert _numbers(read_clip(str(path), _settings(num_frames=6))) == [0, 1, 2, 3, 4, 5]


def test_a_film_that_a_telephone_turned_stands_upright(tmp_path: Path):
    path = film(tmp_path / "a.mp4", [n / 25 for n in range(4)])
    data = path.read_bytes()
    # The matrix of the track header as telephones write it that were held upright: a quarter turn to the right.
    at = data.index(b"tkhd") + 4 + 40
    one, none, top = (1 << 16).to_bytes(4, "big"), bytes(4), (48 << 16).to_bytes(4, "big")
    right = (
        none
        + one
        + none
        + (-1 << 16).to_bytes(4, "big", signed=True)
        + none * 2
        + top
        + none
        + (1 << 30).to_bytes(4, "big")
    )
    path.write_bytes(data[:at] + right + data[at + 36 :])
    picture = np.asarray(Image.open(io.BytesIO(read_clip(str(path), _settings(num_frames=1)).frames[0])))
    assert picture.shape == (64, 48, 3)
    greens = [picture[8:24, 4:20, 1].mean(), picture[8:24, 28:44, 1].mean(), picture[40:56, 28:44, 1].mean()]
    assert [bool(green > 50) for green in greens] == [False, True, False]


def test_films_that_are_too_much_and_films_that_are_none(tmp_path: Path):
    path = film(tmp_path / "a.mp4", [n / 25 for n in range(50)], sound=tone(1.0, rate=16_000))
    assert _reason(read_clip, str(path), _settings(max_pixels=3000)) == "too_many_pixels"
    assert _reason(read_clip, str(path), _settings(max_seconds=1.5)) == "too_long"
    assert _reason(sound_of, str(path), max_seconds=0.5) == "too_long"
    heard = _samples(sound_of(str(path), max_seconds=60))
    assert 15_000 < len(heard) < 18_000
    assert heard.shape[1] == 1
    assert np.abs(heard).max() > 0.4
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[:-2000])
    assert _reason(read_clip, str(cut), _settings()) == "cut_short"
    song = sound(tmp_path / "a.mp3", tone(1.0, rate=44_100), codec="libmp3lame", rate=44_100)
    assert _reason(read_clip, str(song), _settings()) == "no_video_stream"
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{path}\n")
    assert _reason(read_clip, str(playlist), _settings()) == "not_a_video"


@pytest.mark.parametrize(
    ("codec", "suffix", "format", "rate", "error"),
    [
        ("libopus", ".opus", "flt", 48_000, 0.05),
        ("libmp3lame", ".mp3", "flt", 44_100, 0.05),
        ("flac", ".flac", "s32", 44_100, 1e-4),
        ("alac", ".m4a", "s32", 22_050, 1e-4),
        ("pcm_f32le", ".wav", "flt", 11_025, 1e-4),
        ("pcm_s16be", ".aiff", "s16", 8_000, 1e-4),
    ],
)
def test_any_sound_becomes_wav_at_its_own_rate(
    tmp_path: Path, codec: str, suffix: str, format: str, rate: int, error: float
):
    told = np.stack([tone(0.5, rate=rate), 0.5 * tone(0.5, rate=rate, hertz=1000.0)], 1)
    data = sound(tmp_path / f"a{suffix}", told, codec=codec, rate=rate, format=format).read_bytes()
    heard = as_wav(data, max_seconds=60)
    assert heard.rate == rate
    np.testing.assert_allclose(_samples(heard.data)[: len(told)], told, atol=error)
    assert as_wav(data, max_seconds=60) == heard
    assert as_wav(heard.data, max_seconds=60) == heard
    assert _reason(as_wav, data, max_seconds=0.25) == "too_long"
    assert _reason(as_wav, data[: len(data) * 2 // 3], max_seconds=60) in ("cut_short", "undecodable")


def test_louder_than_full_scale_is_cut_off_and_no_numbers_are_refused(tmp_path: Path):
    loud = sound(tmp_path / "a.wav", 4 * tone(0.1, rate=8000), codec="pcm_f32le", rate=8000).read_bytes()
    assert np.abs(_samples(as_wav(loud, max_seconds=60).data)).max() == 1.0
    broken = loud[:-4] + np.float32(np.nan).tobytes()
    assert _reason(as_wav, broken, max_seconds=60) == "not_finite"


def test_damage_anywhere_is_refused_with_a_reason_or_read(tmp_path: Path):
    whole = [
        film(tmp_path / "a.mp4", [n / 25 for n in range(6)], sound=tone(0.2, rate=16_000)),
        film(tmp_path / "a.mkv", [n / 25 for n in range(6)]),
        sound(tmp_path / "a.opus", tone(0.2, rate=48_000), codec="libopus", rate=48_000),
        sound(tmp_path / "a.wav", tone(0.2, rate=8000), codec="pcm_f32le", rate=8000),
    ]
    rng, refused = np.random.default_rng(0), 0
    for number in range(200):
        data = bytearray(whole[number % 4].read_bytes())
        for place in rng.integers(0, (len(data), 200)[(number // 4) % 2], size=4):
            data[place] = rng.integers(0, 256)
        damaged = tmp_path / f"damaged{whole[number % 4].suffix}"
        damaged.write_bytes(data)
        try:
            if number % 4 < 2:
                read_clip(str(damaged), _settings())
            as_wav(bytes(data), max_seconds=60)
        except BadRecord:
            refused += 1
    assert 50 < refused < 200
