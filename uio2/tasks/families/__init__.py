"""All tasks. Each module here is one family and lists its tasks in `TASKS`: adding a task is adding one file.

A family says where its data is, which fields of a record it needs, which prompts it uses, what of a record can be
asked about, what the texts and pictures are, and how answers are scored (`uio2.tasks.task.Task`). Modules are found by
looking; nothing else names them.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil

from uio2.tasks.task import Task


class TaskError(ValueError):
    """A task that does not exist, or two of one name."""


@functools.cache
def all_tasks() -> dict[str, Task]:
    """Every task by its name, in alphabetical order.

    Raises:
      TaskError: two families give a task the same name.
    """
    found: dict[str, Task] = {}
    for module in pkgutil.iter_modules(__path__):
        for task in importlib.import_module(f"{__name__}.{module.name}").TASKS:
            if task.name in found:
                raise TaskError(f"{__name__}.{module.name}: task {task.name!r} is there already; give it another name")
            found[task.name] = task
    return dict(sorted(found.items()))


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
      TaskError: there is none; the message names the nearest, or all.
    """
    tasks = all_tasks()
    if name in tasks:
        return tasks[name]
    near = difflib.get_close_matches(name, tasks, n=1)
    raise TaskError(f"no task {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(tasks)}"))
