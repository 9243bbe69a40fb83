"""Bad input in the feeds: an example that stage 1 cannot make keeps its place, blank, with a reason.

A file that does not decode raises inside tf.data. Leaving its example out would move every later one, and with it the
batches of other hosts and of restarts. So examples are numbered, failures leave gaps in the numbers, and gaps are
filled in Python, where the error is read. A good example pays 0.1 ms (the obvious way, a dataset of its own with a
fallback for each, 0.33 ms; a 640x480 JPEG decodes in 1.7 ms).
"""

from __future__ import annotations

import io
import re
import wave
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from uio2.tasks.wav import SAMPLE_RATE

Example = Mapping[str, tf.Tensor]
Spec = Mapping[str, tf.TensorSpec]
# Of the number of an element that failed, and what an example holds: the example in its place.
Rescue = Callable[[int, Spec], Example]

# string: "" for a good example, else one of the names below, a colon and what was found.
REASON = "meta/reason"
IMAGE, AUDIO, OTHER = "unreadable_image", "unreadable_audio", "failed"
# Said by stage 3, which sees tokens and masks: a text of nothing but EOS, a silent sound.
NO_TARGET = "nothing_to_learn"
_SIGNS = {AUDIO: r"WavError: ([^\n]*)", IMAGE: r"Decode(?:Image|Jpeg|Png|Gif|Bmp|Webp|AndCropJpeg)"}
_LONGEST_DETAIL = 200


def guarded(source: tf.data.Dataset, stage1: Callable[..., Example], *, rescue: Rescue, parallel: int,
            stop: int | None = None) -> tf.data.Dataset:  # fmt: skip
    """Examples of a source, one for every element, each with its `REASON`.

    Errors of the source itself end the stream, too: whoever reads an endless one must look.

    Args:
      source: elements (number int64, *inputs); the numbers count up from 0.
      stage1: inputs -> example; run by tf.data.
      rescue: makes what `stage1` could not.
      parallel: threads.
      stop: how many elements there are; None for an endless source.
    """
    made = source.map(
        lambda number, *inputs: (number, {**stage1(*inputs), REASON: tf.constant("")}),
        num_parallel_calls=parallel,
        deterministic=True,
    )
    spec: Spec = made.element_spec[1]
    made = made.ignore_errors()
    if stop is not None:  # one more shows that the last ones are missing
        made = made.concatenate(tf.data.Dataset.from_tensors((tf.constant(stop, tf.int64), blank(spec, reason=""))))

    def place(expected: tf.Tensor, element: tuple) -> tuple:
        number, example = element
        return number + 1, (expected, number, example)

    def fill(expected: tf.Tensor, number: tf.Tensor, example: Example) -> tf.data.Dataset:
        found = tf.data.Dataset.from_tensors(example)

        def filled() -> tf.data.Dataset:
            missing = tf.data.Dataset.range(expected, number)
            return missing.map(lambda n: _in_python(rescue, n, spec)).concatenate(found)

        return tf.cond(expected == number, lambda: found, filled)

    made = made.scan(tf.constant(0, tf.int64), place).flat_map(fill)
    return made if stop is None else made.take(stop)


def _in_python(rescue: Rescue, number: tf.Tensor, spec: Spec) -> Example:
    keys = sorted(spec)

    def run(number: tf.Tensor) -> list[tf.Tensor]:
        example = rescue(int(number), spec)
        return [example[key] for key in keys]

    values = tf.py_function(run, [number], [spec[key].dtype for key in keys])
    return {key: tf.ensure_shape(value, spec[key].shape) for key, value in zip(keys, values, strict=True)}


def blank(spec: Spec, *, reason: str) -> Example:
    """An example of zeros, false masks and empty texts; lists are empty, but for one empty target."""
    found = {}
    for key, value in spec.items():
        missing = 1 if key == "text_targets" else 0
        found[key] = tf.zeros([missing if size is None else size for size in value.shape], value.dtype)
    return {**found, REASON: tf.constant(reason)}


def explain(error: Exception, *, name: str) -> str:
    """Why an example failed, as a `REASON`: the name of the reason, the example's, and what was found."""
    text = " ".join(re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error)).split())
    for reason, sign in _SIGNS.items():
        if found := re.search(sign, f"{type(error).__name__}: {error}"):
            return f"{reason}: {name}: {(found[1] if found.lastindex else text)[:_LONGEST_DETAIL]}"
    return f"{OTHER}: {name}: {text[:_LONGEST_DETAIL]}"


def with_blank_media(record: Mapping[str, Any], prepare: Callable[[Mapping[str, Any]], Example]) -> Example | None:
    """An example without its pictures and sounds, everything else as stored; None if that fails, too.

    Args:
      record: whose media cannot be read.
      prepare: record -> example.
    """
    for key in record.keys() & _BLANK_FILES.keys():
        try:
            example = prepare({**record, key: _BLANK_FILES[key]()})
        except Exception:  # another file of the record is the broken one
            continue
        media = {key for key in example if key.startswith(("image_", "audio_"))}
        return {key: tf.zeros_like(value) if key in media else value for key, value in example.items()}
    return None


def _blank_png(dtype: tf.DType, channels: int) -> tf.Tensor:
    return tf.io.encode_png(tf.zeros([1, 1, channels], dtype))


def _blank_wav() -> tf.Tensor:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
    return tf.constant(buffer.getvalue())


# Files of records, by the name of their field.
_BLANK_FILES: Mapping[str, Callable[[], tf.Tensor]] = {
    "image": lambda: _blank_png(tf.uint8, 3),
    "depth": lambda: _blank_png(tf.uint16, 1),
    "normals": lambda: _blank_png(tf.uint8, 3),
    "frames": lambda: _blank_png(tf.uint8, 3)[None],
    "audio": _blank_wav,
}
