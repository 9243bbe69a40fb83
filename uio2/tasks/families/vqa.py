"""Visual question answering: one question of an image, a short lower-case answer."""

from __future__ import annotations

from uio2.tasks.draws import pick
from uio2.tasks.lazy import tf
from uio2.tasks.task import DRAW_TARGET, Record, Setting, Task, Texts, clean


class Vqa(Task):
    """One example per question; all its answers (ten in VQA v2) count in evaluation."""

    name = "vqa_coco_2017"
    about = "answer a question about a picture"
    dataset = "coco"
    prompts = "vqa"
    fields = ("vqa/id", "vqa/questions", "vqa/answers")
    score = "vqa"

    def items(self, record: Record) -> tf.Tensor:
        asked = tf.strings.length(clean(record["vqa"]["questions"])) > 0
        answers = record["vqa"]["answers"]
        answered = tf.reduce_any(tf.strings.length(answers) > 0, axis=1)
        return tf.cast(tf.where(asked & answered)[:, 0], tf.int32)

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        answers = tf.strings.lower(clean(record["vqa"]["answers"][item]), encoding="utf-8")
        answers = tf.boolean_mask(answers, tf.strings.length(answers) > 0)
        if setting.training and setting.recipe.vqa_target == "random":
            target = pick(answers, draws[DRAW_TARGET])
        else:
            distinct, _, counts = tf.unique_with_counts(answers)
            target = distinct[tf.argmax(counts)]
        question = clean(record["vqa"]["questions"][item])
        return Texts({"question": question}, target, answers, record["vqa"]["id"][item])


TASKS = (Vqa(),)
