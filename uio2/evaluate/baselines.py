"""The constant answers a model must beat, learned from the training split of each task's own data.

Without them a figure says little: always answering "yes" is right for a third of VQA questions, and the mean box
covers half of a centred object. Ties go to the alphabetically first answer. What a training answer is, the task itself
says: the target stage 1 makes of each item; no picture is decoded for it. Which ways of scoring have a baseline says
`Family.learned`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from uio2.evaluate.answers import Answer
from uio2.evaluate.datasets import stored_dataset
from uio2.evaluate.families import REFEXP, Family, family_of
from uio2.evaluate.predictions import Prediction
from uio2.pipeline.artifact import Artifact
from uio2.tasks.datasets import StoredDataset
from uio2.tasks.families import find_task
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import NUM_DRAWS, Setting, Task

Progress = Callable[[str], None]
# A text, or a box `[y1, x1, y2, x2]` as fractions of the image; None: there is none.
Baseline = str | tuple[float, float, float, float] | None


def learn_baselines(
    tasks: Iterable[str], *, inputs: Mapping[str, Artifact], split: str, limit: int, progress: Progress
) -> dict[str, Baseline]:
    """Baseline of each task by its name.

    Raises:
      StageError: a task's dataset is not among the inputs.
    """
    found: dict[str, Baseline] = {}
    for name in tasks:
        family, task = family_of(name), find_task(name)
        found[name] = None
        if not family.learned:
            continue
        progress(f"baseline of {name}")
        dataset = stored_dataset(inputs, name=task.dataset, why=f"the baseline of {name}")
        if split in dataset.splits:  # else a set that is only evaluated on
            learn = _most_frequent_answer if family.learned == "answer" else _mean_box
            found[name] = learn(task, dataset, split, limit)
    return found


def baseline_answers(family: Family, *, baseline: Baseline, rows: Sequence[Prediction]) -> list[Answer]:
    """The baseline's answer to each row; its box is a fraction of the image and becomes pixels here."""
    if baseline is None or isinstance(baseline, str):
        return [baseline] * len(rows)
    out: list[Answer] = []
    for row in rows:
        height, width = row.image_info[3:5]
        box = [float(v * s) for v, s in zip(baseline, (height, width, height, width), strict=True)]
        out.append(box if family is REFEXP else [box])
    return out


def _most_frequent_answer(task: Task, dataset: StoredDataset, split: str, limit: int) -> Baseline:
    import tensorflow as tf

    setting = Setting(RegisterSpec(rates={task.name: 1.0}), classes=dataset.classes())
    draws, nowhere = tf.zeros(NUM_DRAWS), tf.constant("")

    def answers(record: Mapping) -> tf.Tensor:
        def of(item: tf.Tensor) -> tf.Tensor:
            target = task.texts(record, item, box_text=nowhere, draws=draws, setting=setting).target
            return tf.strings.reduce_join(tf.reshape(target, [-1])[:1])  # the first of several; "" of none

        return tf.map_fn(of, task.items(record), fn_output_signature=tf.TensorSpec([], tf.string))

    stream = dataset.stream(split, task.fields)
    stream = (stream.take(limit) if limit else stream).map(answers, num_parallel_calls=2, deterministic=True)
    counts: Counter[bytes] = Counter()
    for batch in stream.as_numpy_iterator():
        counts.update(text for text in batch.tolist() if text)
    best = min(counts, key=lambda text: (-counts[text], text)) if counts else None
    return None if best is None else best.decode("utf-8", "replace")


def _mean_box(task: Task, dataset: StoredDataset, split: str, limit: int) -> Baseline:
    del task  # one that answers with boxes reads those of objects
    stream = dataset.stream(split, ["objects/bbox"])
    total, count = np.zeros(4), 0
    for record in (stream.take(limit) if limit else stream).as_numpy_iterator():
        boxes = np.asarray(record["objects"]["bbox"], np.float64).reshape(-1, 4)
        total += boxes.sum(axis=0)
        count += len(boxes)
    if not count:
        return None
    y1, x1, y2, x2 = (round(float(v), 6) for v in total / count)
    return y1, x1, y2, x2
