"""Registry of the tasks, found in the files of ``edgeres.tasks.kinds``."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeres.errors import UsageError, nearest
from edgeres.tasks import kinds
from edgeres.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.artifacts.head import Head


@cache
def tasks() -> Mapping[str, type[Task]]:
    """The task of every file of the package, by name.

    Raises:
        UsageError: A file without a ``TASK`` of its name.
    """
    classes: dict[str, type[Task]] = {}
    for module in pkgutil.iter_modules(kinds.__path__):
        name = f"{kinds.__name__}.{module.name}"
        task = getattr(import_module(name), "TASK", None)
        if not (isinstance(task, type) and issubclass(task, Task) and task.name == module.name):
            raise UsageError(f"{name} has no task {module.name!r}", "set TASK to a subclass of that name")
        classes[module.name] = task
    return MappingProxyType(classes)


def find_task(head: Head) -> Task:
    """The task of a network's head; an unknown name is a ``UsageError`` with the nearest one."""
    return task_kind(head.task)(probabilities=head.probabilities, scored=head.scored)


def task_kind(name: str) -> type[Task]:
    """The class of a task by its name; an unknown one is a ``UsageError`` with the nearest."""
    if name not in tasks():
        raise UsageError(f"unknown task {name!r}", nearest(name, tasks()))
    return tasks()[name]
