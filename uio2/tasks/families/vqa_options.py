"""Visual question answering with options: which of a few given answers is right."""

from __future__ import annotations

from uio2.tasks import boxes
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_TARGET, Record, Setting, Task, Texts, clean


class VqaOptions(Task):
    """One example per question whose right answer is among its options and not empty.

    The prompt lists the options, in a drawn order in training and as stored in evaluation, where they are also what a
    model may choose from (`choices`). Truth: `options` string [n], empty ones left out.
    """

    name = "vqa_options"
    about = "choose the answer to a question about a picture"
    dataset = "vqa_options"
    prompts = "vqa_options"
    fields = ("questions/id", "questions/question", "questions/options", "questions/answer")
    score = "exact_match"
    has_choices = True

    def items(self, record: Record) -> tf.Tensor:
        questions = record["questions"]
        options, answer = questions["options"], tf.cast(questions["answer"], tf.int64)
        listed = (answer >= 0) & (answer < options.row_lengths())
        number = options.row_splits[:-1] + tf.where(listed, answer, 0)
        # A row beyond the last option has none: what is read in its place does not count.
        texts = tf.concat([clean(options.flat_values), [""]], 0)
        right = tf.gather(texts, tf.minimum(number, tf.size(texts, out_type=tf.int64) - 1))
        asked = tf.strings.length(clean(questions["question"])) > 0
        return tf.cast(tf.where(asked & listed & (tf.strings.length(right) > 0))[:, 0], tf.int32)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        questions = record["questions"]
        options = clean(questions["options"][item])
        target = options[questions["answer"][item]]
        options = tf.boolean_mask(options, tf.strings.length(options) > 0)
        choices: tf.Tensor | None = options
        if setting.training:
            options = tf.gather(options, boxes.shuffle(tf.size(options), draws[DRAW_TARGET]))
            choices = None
        listed = tf.strings.reduce_join(options, separator=", ")
        values = {"question": clean(questions["question"][item]), "options": listed}
        return Texts(values, target, target[None], questions["id"][item], choices=choices, truth={"options": options})


TASKS = (VqaOptions(),)
