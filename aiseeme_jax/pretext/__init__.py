"""The table of pretext tasks. A new task is its file in this folder and its line here."""

import inspect
from collections.abc import Mapping
from typing import Any

from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.pretext.base import Output, Setting, Task
from aiseeme_jax.pretext.moco_v2 import MoCoV2
from aiseeme_jax.pretext.npid import NPID
from aiseeme_jax.pretext.relative_location import RelativeLocation
from aiseeme_jax.pretext.rotation import Rotation
from aiseeme_jax.pretext.simclr import SimCLR

TASKS: dict[str, type[Task]] = {
    "relative_location": RelativeLocation,
    "rotation": Rotation,
    "npid": NPID,
    "moco_v2": MoCoV2,
    "simclr": SimCLR,
}

__all__ = ["TASKS", "Output", "Setting", "Task", "make_task", "task_class", "task_fields"]


def task_class(name: str) -> type[Task]:
    """The class of a task by name. Raises ValueError that names the known ones."""
    if name not in TASKS:
        raise ValueError(f"unknown pretext task '{name}': known are {', '.join(sorted(TASKS))}")
    return TASKS[name]


def task_fields(name: str) -> dict[str, Any]:
    """The task's own config fields with their defaults: the keyword arguments of its constructor."""
    parameters = inspect.signature(task_class(name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "rngs"}


def make_task(
    name: str,
    backbone: nnx.Module,
    spec: augment.Views,
    setting: Setting,
    fields: Mapping[str, Any],
    *,
    rngs: nnx.Rngs,
) -> Task:
    """A task that takes over `backbone` as it is and starts its own heads and state anew.

    Raises ValueError for an unknown name, or for sizes (queue, bank, patches) that do not fit the data set or the
    batch.
    """
    return task_class(name)(backbone, spec, setting, rngs=rngs, **fields)
