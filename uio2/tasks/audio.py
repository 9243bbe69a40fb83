"""Stage 1 for sound: clips to segments of 4.08 s, each a log-mel spectrogram [256 time frames, 128 mel bins].

Source of the rules: MODEL.md section 13. The spectrogram is that of the published models: a symmetric Hann window of
1024 (the reference values tell it from the periodic one), hop 256, centred with reflect padding, power, 128 Slaney
mel bins from 0 to 8 kHz; computed here in float64, which costs little and keeps quiet bins exact.

Where the power is exactly 0 (digital silence, the padding behind the end) the spectrogram is 0 and masked: a silent
clip is an input without any token, and as a target it teaches nothing.
"""

from __future__ import annotations

import functools

import numpy as np

from uio2.tasks.lazy import tf
from uio2.tasks.wav import SAMPLE_RATE, WavError, read_wav

SEGMENT_SECONDS = 4.08
SEGMENT_SAMPLES = round(SEGMENT_SECONDS * SAMPLE_RATE)
WINDOW, HOP, BINS = 1024, 256, 128
SPECTROGRAM = (SEGMENT_SAMPLES // HOP + 1, BINS)
_POWER_LIMITS = (1e-5, 1e5)
# Mean and deviation of log-mel values: of the input encoder (AST) and of the target codec.
INPUT_SHIFT, INPUT_SCALE = 4.26, 9.14
TARGET_SHIFT, TARGET_SCALE = 5.0945, 3.8312
# A rest counts as a segment of its own when, less 0.1 s, more than half a segment is left.
_REST_SLACK, _REST_LEAST = 0.1, SEGMENT_SECONDS / 2


def decode(data: tf.Tensor) -> tf.Tensor:
    """WAV bytes (string scalar) as float32 [samples], mono at 16 kHz, in -1..1."""
    # Bytes in a graph, an array of no dimension without one; as an object, since numpy's own bytes drop zeros at the
    # end, which is all that a silent clip holds.
    samples = tf.numpy_function(lambda d: read_wav(np.asarray(d, object).item()), [data], tf.float32, stateful=False)
    return tf.ensure_shape(samples, [None])


def decode_if_readable(data: tf.Tensor) -> tf.Tensor:
    """`decode`, with no samples where the bytes are no clip: for what is asked of every record before any is read."""
    samples = tf.numpy_function(_read_if_wav, [data], tf.float32, stateful=False)
    return tf.ensure_shape(samples, [None])


def _read_if_wav(data: bytes) -> np.ndarray:
    try:
        return read_wav(np.asarray(data, object).item())
    except WavError:
        return np.zeros(0, np.float32)


def num_segments(seconds: tf.Tensor) -> tf.Tensor:
    """int32: segments a clip of this many seconds (float64) is cut into; 0 only for an empty one."""
    whole = tf.floor(seconds / SEGMENT_SECONDS)
    rest = tf.math.floormod(seconds, tf.constant(SEGMENT_SECONDS, tf.float64))
    count = whole + tf.cast(rest - _REST_SLACK > _REST_LEAST, tf.float64)
    return tf.cast(tf.where(seconds > 0, tf.maximum(count, 1.0), 0.0), tf.int32)


def cut(samples: tf.Tensor, *, most: int | None = None) -> tf.Tensor:
    """float32 [segments, 65280] of samples [n]; zeros behind the end.

    `most` keeps the first so many segments. A clip without samples is one segment of silence.
    """
    count = tf.maximum(num_segments(tf.cast(tf.size(samples), tf.float64) / SAMPLE_RATE), 1)
    count = count if most is None else tf.minimum(count, most)
    length = count * SEGMENT_SAMPLES
    padded = tf.pad(samples[:length], [[0, tf.maximum(length - tf.size(samples), 0)]])
    return tf.reshape(padded, [count, SEGMENT_SAMPLES])


@functools.cache
def mel_weights() -> np.ndarray:
    """float64 [513 frequencies, 128 bins]: triangles of equal area on Slaney's mel scale (Auditory Toolbox, 1998).

    The scale is linear below 1 kHz (15 mel) and logarithmic above, 27 mel per factor of 6.4.
    """
    knee_hz, knee_mel, step = 1000.0, 15.0, np.log(6.4) / 27.0
    top = knee_mel + np.log(SAMPLE_RATE / 2 / knee_hz) / step
    mels = np.linspace(0.0, top, BINS + 2)
    above = knee_hz * np.exp(step * (mels - knee_mel))
    corners = np.where(mels < knee_mel, mels * knee_hz / knee_mel, above)
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    rise = (frequencies[:, None] - corners[:-2]) / np.diff(corners)[:-1]
    fall = (corners[2:] - frequencies[:, None]) / np.diff(corners)[1:]
    return np.maximum(0.0, np.minimum(rise, fall)) * 2.0 / (corners[2:] - corners[:-2])


def mel_power(segments: tf.Tensor) -> tf.Tensor:
    """float64 [s, 256, 128], time first, of segments [s, 65280]."""
    half = WINDOW // 2
    padded = tf.pad(tf.cast(segments, tf.float64), [[0, 0], [half, half]], mode="REFLECT")
    window = functools.partial(tf.signal.hann_window, periodic=False)
    spectrum = tf.signal.stft(padded, WINDOW, HOP, window_fn=window)
    power = tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2
    return tf.einsum("stf,fm->stm", power, tf.constant(mel_weights()))


def log_mel(segments: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Spectrograms float32 [s, 256, 128] and masks bool of the same shape, of segments [s, 65280]."""
    power = mel_power(segments)
    present = power > 0
    logs = tf.math.log(tf.clip_by_value(power, *_POWER_LIMITS))
    values = tf.cast(tf.where(present, logs, tf.zeros_like(logs)), tf.float32)
    return tf.ensure_shape(values, [None, *SPECTROGRAM]), tf.ensure_shape(present, [None, *SPECTROGRAM])


def normalise_input(spectrograms: tf.Tensor) -> tf.Tensor:
    """Log-mel values as the input encoder was trained on."""
    return (spectrograms + INPUT_SHIFT) / INPUT_SCALE


def normalise_target(spectrograms: tf.Tensor) -> tf.Tensor:
    """Log-mel values as the target codec was trained on."""
    return (spectrograms + TARGET_SHIFT) / TARGET_SCALE


def undo_target(spectrograms: np.ndarray) -> np.ndarray:
    """What the codec made, as log-mel values again."""
    return spectrograms * TARGET_SCALE - TARGET_SHIFT
