"""The imports of a config file that the program writes: with those of the user's own tasks, which must be registered.

A file of one's own registers a task for the process that reads it. So a config file whose stages are of such a task
must read that file too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiseeme_jax import pretext
from aiseeme_jax.pretext.own import find_file
from aiseeme_jax.task import Task

PLAIN = "from configs import base"
WITH_OWN = """import importlib
import sys

from aiseeme_jax import pretext
from configs import base

# Folder, module and class of each task of one's own. After its file was moved, write the new folder here.
for folder, module, name in {places}:
    sys.path.append(folder)
    pretext.register(getattr(importlib.import_module(module), name))"""
ADVICE = (
    "{tasks}: not a task of this program. Import the class from its file after the other imports of the config file, "
    "and write pretext.register(CLASS), as docs/adding_a_task.md shows"
)


def write_imports(stages: Sequence[Mapping[str, Any]]) -> str:
    """The import lines of a config file with stages of these values. They register what is registered now."""
    own = dict.fromkeys(name for name in list_tasks(stages) if name in pretext.REGISTERED)
    if not own:
        return PLAIN
    places = [locate(pretext.TASKS[name]) for name in own]
    return WITH_OWN.format(places=places)


def explain_unknown(stages: Sequence[Mapping[str, Any]]) -> str:
    """What must be added to a config file with stages of these values: '' if all of their tasks are known here."""
    names = dict.fromkeys(list_tasks(stages))
    unknown = [name for name in names if name not in pretext.TASKS and name not in pretext.COMBINED]
    return ADVICE.format(tasks=", ".join(unknown)) if unknown else ""


def list_tasks(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The names of the tasks of stages, and of their members."""
    for stage in stages:
        yield stage["task"]
        yield from list_tasks(tuple(stage.get("fields", {}).get("members", {}).values()))


def locate(task: type[Task]) -> tuple[str, str, str]:
    """The folder from which a class can be imported, its module and its name."""
    file, parts = find_file(task).resolve(), task.__module__.split(".")
    if file.stem == "__init__":
        file = file.parent
    if file.stem != parts[-1]:
        # A config file is read under another name than its own.
        parts = [file.stem]
    return str(file.parents[len(parts) - 1]), ".".join(parts), task.__name__
