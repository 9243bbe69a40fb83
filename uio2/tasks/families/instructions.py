"""Instructions in text alone: FLAN v2's five parts, Alpaca, Dolly. The record's own wording is the prompt.

Line breaks are kept: code, lists and dialogues live by them. The context follows the instruction after an empty line,
without a heading, since what the text is shows by itself and headings would be a format to be learned.
"""

from __future__ import annotations

from uio2.tasks.lazy import tf
from uio2.tasks.task import Record, Setting, Texts
from uio2.tasks.text_family import TextTask, has_words, tidy


class Instruction(TextTask):
    """One example per record that asks something and has an answer."""

    about = "follow an instruction"
    fields = ("instruction", "context", "response")
    score = "text"

    def items(self, record: Record) -> tf.Tensor:
        asked = has_words(record["instruction"]) | has_words(record["context"])
        return tf.zeros([tf.cast(asked & has_words(record["response"]), tf.int32)], tf.int32)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        prompt = tidy(tf.strings.join([tidy(record["instruction"]), tidy(record["context"])], "\n\n"))
        response = tidy(record["response"])
        return Texts({"prompt": prompt}, response, response[None], tf.constant(0, tf.int64))


TASKS = tuple(
    Instruction(name=name, dataset=name)
    for name in ("alpaca", "dolly", "flan2_flan2021", "flan2_t0", "flan2_niv2", "flan2_cot", "flan2_dialog")
)
