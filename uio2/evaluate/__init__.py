"""From a checkpoint to a decision: predict, score, report, promote.

Only `predict` needs the model. It writes prediction files (`predictions`), from which `score` makes every figure again
and again with the datasets alone, in the way that the task's own file names (`families`); `report` makes one HTML page,
and `promote` decides. Nothing is imported here: `specs`, `predictions` and `summary` are light.
"""
