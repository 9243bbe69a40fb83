"""Clips to log-mel segments: against the reference, and clips that are odd."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import tensorflow as tf

from beam_jobs import dtmf
from tests.tasks import task_golden as golden
from uio2.tasks import audio
from uio2.tasks.wav import WavError, read_wav


def wav(samples: np.ndarray, *, rate: int = 16_000, width: int = 2, channels: int = 1) -> bytes:
    """PCM of samples in -1..1, [n] or [n, channels]."""
    scaled = np.round(samples * (2.0 ** (8 * width - 1) - 1)).astype("<i4").reshape(-1, 1)
    little = scaled.view(np.uint8).reshape(-1, 4)[:, :width]
    raw = (scaled + 128).astype(np.uint8) if width == 1 else little
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())
    return buffer.getvalue()


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)


def segments_of(data: bytes, **options):
    return audio.log_mel(audio.cut(audio.decode(tf.constant(data)), **options))


@golden.needs_golden
def test_reference_spectrogram():
    case, stored = golden.values()["audio"], golden.arrays()
    segments = audio.cut(tf.constant(golden.golden_waveform()))
    power = audio.mel_power(segments).numpy().transpose(0, 2, 1)
    assert list(power.shape) == case["shape"]
    np.testing.assert_allclose(power[:, ::4, ::4], stored["audio/mel_power[:, ::4, ::4]"], rtol=1e-5)
    logs, mask = audio.log_mel(segments)
    np.testing.assert_allclose(logs[:, ::4, ::4], stored["audio/log_mel_time_major[:, ::4, ::4]"], atol=1e-5)
    assert logs.numpy().sum(dtype=np.float64) == pytest.approx(case["log_sum"], rel=1e-6)
    assert mask.numpy().all()


@golden.needs_golden
def test_reference_number_of_segments():
    for seconds, count in golden.values()["audio"]["get_num_segments"].items():
        assert int(audio.num_segments(tf.constant(float(seconds), tf.float64))) == count, seconds


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_pcm_format_gives_the_same_samples(width, channels):
    samples = tone(16_000)
    data = wav(np.repeat(samples[:, None], channels, 1), width=width, channels=channels)
    np.testing.assert_allclose(read_wav(data), samples, atol=2.0 ** (1 - 8 * width) + 1e-6)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_keep_the_tone(rate):
    found = read_wav(wav(tone(rate), rate=rate))
    assert abs(len(found) - 8000) <= 1
    np.testing.assert_allclose(found[1000:7000], tone(16_000)[1000:7000], atol=2e-3)


def test_long_clips_are_cut_and_short_rests_dropped():
    clip = wav(tone(16_000, 4.08 + 2.2))
    assert segments_of(clip)[0].shape == (2, 256, 128)
    assert segments_of(clip, most=1)[0].shape == (1, 256, 128)
    assert segments_of(wav(tone(16_000, 4.08 + 2.0)))[0].shape == (1, 256, 128)


@pytest.mark.parametrize("samples", [0, 1])
def test_clips_of_one_sample_or_none_are_one_segment(samples):
    logs, mask = segments_of(wav(np.full(samples, 0.5)))
    assert logs.shape == (1, 256, 128)
    assert np.isfinite(logs).all()
    # One sample is heard by the windows around it, and by no other.
    heard = mask.numpy()[0].any(axis=1)
    assert heard[:1].all() == bool(samples)
    assert not heard[3:].any()


def test_silence_is_masked_and_padding_behind_the_end_too():
    logs, mask = segments_of(wav(np.zeros(40_000)))
    assert not mask.numpy().any()
    assert not logs.numpy().any()
    logs, mask = segments_of(wav(tone(16_000, 1.0)))
    assert mask.numpy()[0, :60].all()
    assert not mask.numpy()[0, 66:].any()
    assert not logs.numpy()[0, 66:].any()


def test_a_telephone_key_shows_its_two_tones():
    sound = dtmf.dial(np.random.default_rng(0), "5555")
    logs, _ = segments_of(dtmf.wav_bytes(sound))
    loud = logs.numpy()[0].max(axis=0)
    centres = (audio.mel_weights() * np.linspace(0, 8000, 513)[:, None]).sum(0) / audio.mel_weights().sum(0)
    peaks = [n for n in range(1, 127) if loud[n] > max(loud[n - 1], loud[n + 1])]
    two = sorted(centres[sorted(peaks, key=lambda n: loud[n])[-2:]])
    np.testing.assert_allclose(two, dtmf.FREQUENCIES["5"], rtol=0.03)


def a_chunk_longer_than_its_file() -> bytes:
    clip = wav(tone(16_000))
    return clip[:12] + b"LIST" + (10**9).to_bytes(4, "little") + clip[12:]


@pytest.mark.parametrize("data", [b"", b"RIFF", b"ID3 no wave", wav(tone(16_000))[:30], a_chunk_longer_than_its_file()])
def test_bytes_that_are_no_clip_are_named(data):
    with pytest.raises(WavError, match="not a WAV file"):
        read_wav(data)


def test_a_clip_cut_short_keeps_what_is_there():
    data = wav(tone(16_000))
    assert len(read_wav(data[:-1001])) == 8000 - 501


def test_normalisations_undo():
    values = np.linspace(-11, 11, 5, dtype=np.float32)
    np.testing.assert_allclose(audio.undo_target(audio.normalise_target(values)), values, atol=1e-5)
