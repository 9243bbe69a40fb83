"""Figures of a model that is still in training: predicted and scored by the code of the stages `predict` and `score`.

Neither interval nor baseline is made: what is wanted is a curve over steps, and the same examples stand behind each of
its points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uio2.evaluate import predictions as files
from uio2.evaluate.devices import Devices
from uio2.evaluate.families import family_of, key_prefixes
from uio2.evaluate.predict import Maker, plans_of
from uio2.evaluate.score import reading_order
from uio2.evaluate.score_parts import DECIMALS, TaskContext, score_task
from uio2.evaluate.specs import PredictSpec, ScoreSpec

if TYPE_CHECKING:
    from uio2.model import UnifiedIO2
    from uio2.tasks.mixture import Mixture

_ONCE = ScoreSpec(resamples=1)


def scorer(
    mixture: Mixture, *, tasks: Sequence[str], split: str, examples: int, batch_size: int, max_length: int
) -> Callable[[UnifiedIO2, Path], dict[str, float]]:
    """What scores a model: (model, an empty folder) -> figures by the keys that `score` gives them.

    Args:
      mixture: where the tasks and their data are.
      tasks: their names; those of which no figure is known, or only one over many made pictures, are left out.
      split, batch_size, max_length: as `PredictSpec` has them.
      examples: of each task, the first so many.
    """
    measured = tuple(reading_order([task for task in tasks if _scored_alone(task)]))
    prefixes = key_prefixes(measured)

    def score(model: UnifiedIO2, folder: Path) -> dict[str, float]:
        if not measured:
            return {}
        spec = PredictSpec(measured, split, batch_size=batch_size, max_examples=examples, max_length=max_length)
        plans = plans_of(spec, mixture=mixture, config=model.config, work=folder)
        # Where parameters are split over hosts, all of them decode the same batch together.
        maker = Maker(model, mixture, Devices(), spec.batch_size)
        for plan in plans:
            for _ in maker.make(plan, range(plan.num_shards)):
                pass
        files.write_index(folder, tasks={plan.task: {"rows": plan.rows, "shards": plan.num_shards} for plan in plans})
        found: dict[str, float] = {}
        for task in measured:
            own = score_task(files.read_task(folder, task=task), about=TaskContext(), spec=_ONCE).part.own
            values = {name: result.interval.value for name, result in own.results.items()}
            found |= {f"{prefixes[task]}/{k}": round(v, DECIMALS) for k, v in values.items() if math.isfinite(v)}
        return found

    return score


def _scored_alone(task: str) -> bool:
    family = family_of(task)
    return bool(family.metrics) and not family.needs_pictures
