"""The table of pretext tasks. A new task is its file in this folder and its line here, or a file of the user's own that
registers it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.barlow_twins import BarlowTwins
from aiseeme_jax.pretext.byol import BYOL
from aiseeme_jax.pretext.clusterfit import ClusterFit
from aiseeme_jax.pretext.colorization import Colorization
from aiseeme_jax.pretext.context_restoration import ContextRestoration
from aiseeme_jax.pretext.deepcluster import DeepCluster
from aiseeme_jax.pretext.densecl import DenseCL
from aiseeme_jax.pretext.dino import DINO
from aiseeme_jax.pretext.inpainting import Inpainting
from aiseeme_jax.pretext.jigsaw import Jigsaw
from aiseeme_jax.pretext.mae import MAE
from aiseeme_jax.pretext.moco_v1 import MoCoV1
from aiseeme_jax.pretext.moco_v2 import MoCoV2
from aiseeme_jax.pretext.moco_v3 import MoCoV3
from aiseeme_jax.pretext.models_genesis import ModelsGenesis
from aiseeme_jax.pretext.nnclr import NNCLR
from aiseeme_jax.pretext.npid import NPID
from aiseeme_jax.pretext.odc import ODC
from aiseeme_jax.pretext.own import check_task, find_file, hash_source
from aiseeme_jax.pretext.pacing import COMBINED, Combined
from aiseeme_jax.pretext.relative_location import RelativeLocation
from aiseeme_jax.pretext.relative_location3d import RelativeLocation3D
from aiseeme_jax.pretext.rotation import Rotation
from aiseeme_jax.pretext.rotation3d import Rotation3D
from aiseeme_jax.pretext.rubik import Rubik
from aiseeme_jax.pretext.simclr import SimCLR
from aiseeme_jax.pretext.simsiam import SimSiam
from aiseeme_jax.pretext.swav import SwAV
from aiseeme_jax.pretext.vicreg import VICReg
from aiseeme_jax.task import Output, Setting, Task

_CLASSES: tuple[type[Task], ...] = (
    RelativeLocation,
    Rotation,
    Jigsaw,
    RelativeLocation3D,
    Rotation3D,
    Rubik,
    Colorization,
    ContextRestoration,
    ModelsGenesis,
    Inpainting,
    MAE,
    NPID,
    MoCoV1,
    MoCoV2,
    MoCoV3,
    SimCLR,
    NNCLR,
    DenseCL,
    BYOL,
    SimSiam,
    BarlowTwins,
    VICReg,
    DINO,
    DeepCluster,
    ClusterFit,
    ODC,
    SwAV,
)
TASKS: dict[str, type[Task]] = {task.NAME: task for task in _CLASSES}

# Name of a task of the user's own -> hash of the text of its class. It belongs to the keys of its stages.
REGISTERED: dict[str, str] = {}

__all__ = [
    "COMBINED",
    "REGISTERED",
    "TASKS",
    "Output",
    "Setting",
    "Task",
    "make_task",
    "register",
    "task_class",
    "task_fields",
]


def register(task: type[Task]) -> type[Task]:
    """Adds a task of one's own to the table, from a config file or a file that it imports; also as a decorator.

    A stage of it is then like any other. Its key has the text of the class, so that a stage is trained again after the
    class was changed. `docs/adding_a_task.md` has an example.

    Raises UserError for what is no task, for a name that another task has, and for a class that is not in a file.
    """
    check_task(task)
    name = task.NAME
    taken = TASKS.get(name) or COMBINED.get(name)
    # A config file may be read more than once.
    again = name in REGISTERED and (taken.__name__, find_file(taken)) == (task.__name__, find_file(task))
    if taken and not again:
        raise UserError(
            f"{task.__name__}.NAME is '{name}', which {taken.__name__} of {find_file(taken)} has: rename it"
        )
    REGISTERED[name] = hash_source(task)
    TASKS[name] = task
    return task


def task_class(name: str) -> type[Task]:
    """The class of a task, or of a kind of stage that combines tasks, by name. Raises UserError that names all."""
    if name not in TASKS and name not in COMBINED:
        combined = " and ".join(sorted(COMBINED))
        raise UserError(
            f"unknown pretext task '{name}': known are {', '.join(sorted(TASKS))}, and of several {combined}; the file "
            "of a task of your own says `pretext.register`, and the config file imports it"
        )
    return TASKS[name] if name in TASKS else COMBINED[name]


def task_fields(name: str) -> dict[str, Any]:
    """The task's own config fields with their defaults: the keyword arguments of its constructor."""
    parameters = inspect.signature(task_class(name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "rngs"}


def make_task(
    name: str,
    backbone: nnx.Module,
    spec: augment.AnyViews | None,
    setting: Setting,
    fields: Mapping[str, Any],
    *,
    rngs: nnx.Rngs,
) -> Task:
    """A task that takes over `backbone` as it is and starts its own heads and state anew.

    Args:
      spec: of the views; None for a task with members, of which each has views of its own.

    Raises UserError for an unknown name, for views of volumes where the task needs images or the other way round, for a
    batch below the task's MINIMUM_BATCH, for a field out of its range, or for sizes (queue, bank, patches) that do not
    fit the data set or the batch.
    """
    kind = task_class(name)
    if issubclass(kind, Combined):
        nodes = fields["members"]
        members = {member: _make_member(nodes[member], backbone, setting, rngs) for member in sorted(nodes)}
        return kind(backbone, spec, setting, rngs=rngs, **{**fields, "members": members})
    if spec.dimensions not in kind.DIMENSIONS:
        wanted = "2-D images" if spec.dimensions == 3 else "volumes"
        other = f"{name}3d" if spec.dimensions == 3 else name.removesuffix("3d")
        instead = f"; take '{other}' instead" if other in TASKS else ""
        raise UserError(f"{name} needs {wanted}, and views.dimensions is {spec.dimensions}{instead}")
    if setting.batch < kind.MINIMUM_BATCH:
        raise UserError(
            f"{name}: a batch of {setting.batch} is too small: the task compares the images of a batch, or normalises "
            f"them together; raise `batch_size` to at least {kind.MINIMUM_BATCH}"
        )
    return kind(backbone, spec, setting, rngs=rngs, **fields)


def _make_member(node: Any, backbone: nnx.Module, setting: Setting, rngs: nnx.Rngs) -> Task:
    return make_task(node.task, backbone, augment.views_of(node.views), setting, node.fields, rngs=rngs)
