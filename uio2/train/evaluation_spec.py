"""When a training is evaluated while it runs, and on what; light, nothing heavy is imported here."""

from __future__ import annotations

import dataclasses

from uio2.pipeline.stage import StageError

# What figures' names begin with, in the history and as `SavingSpec.best_metric`: those of the evaluation, and those of
# what was trained on, by task.
VALIDATION, TASK = "validation/", "task/"
TASK_FIGURES = ("loss", "accuracy")


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """Figures of the model in training, on examples it does not learn from.

    Attributes:
      every: steps between evaluations, a multiple of `log_every`; the last step is evaluated besides. 0: never.
      batches: batches of `TrainSpec.batch_size` examples, drawn by the mixture's rates, whose loss is taken; the same
        each time. 0: no loss.
      tasks: whose answers are scored; empty: all of the mixture that have figures and examples in the split.
      examples: of each task, the first so many in stored order, as `PredictSpec.max_examples`. 0: no answers.
      batch_size: examples decoded together.
      max_length: longest answer in tokens, as `PredictSpec.max_length`.
      split: of the datasets.
      scorer: `module:function` that makes answers and scores them (`uio2.train.evaluation.MakeScorer`). Training and
        evaluation do not import each other; the recipe names one to the other.
    """

    every: int = 0
    batches: int = 8
    tasks: tuple[str, ...] = ()
    examples: int = 64
    batch_size: int = 16
    max_length: int = 32
    split: str = "validation"
    scorer: str = "uio2.evaluate.in_training:scorer"

    def __post_init__(self) -> None:
        for field in ("every", "batches", "examples"):
            if getattr(self, field) < 0:
                raise StageError(f"EvaluationSpec.{field} is {getattr(self, field)}; expected 0 or more")
        for field in ("batch_size", "max_length"):
            if getattr(self, field) < 1:
                raise StageError(f"EvaluationSpec.{field} is {getattr(self, field)}; expected 1 or more")
        if isinstance(self.tasks, str):
            raise StageError(f"EvaluationSpec.tasks is {self.tasks!r}; expected a tuple of names")
        if self.every and not (self.batches or self.examples):
            raise StageError("EvaluationSpec.batches and examples are 0; set one of them, or every = 0")
        if not all(self.scorer.partition(":")):
            raise StageError(f"EvaluationSpec.scorer is {self.scorer!r}; expected 'module:function'")

    def due(self, step: int, *, steps: int) -> bool:
        """Whether the model is evaluated after this step."""
        return self.every > 0 and (step % self.every == 0 or step == steps)
