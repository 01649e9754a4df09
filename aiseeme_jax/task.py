"""What a pretext task is.

A task is an `nnx.Module` that owns its backbone, its heads and every piece of state it needs (memory bank, queue,
moving average), each an `nnx.Variable`. One state tree holds everything, so one checkpoint saves it and one jitted
step trains it. A task never sees a device, a step counter, an optimizer or a file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from aiseeme_jax import augment

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Setting:
    """The surroundings a task may size itself by.

    Attributes:
      images: images in the pretraining split.
      batch: images in the global batch.
      dtype: computing type of the heads, 'float32' or 'bfloat16'.
    """

    images: int
    batch: int
    dtype: str = "float32"


class Bank(nnx.Variable):
    """State filled by the task itself (memory bank, queue): saved and restored, never differentiated."""


class Target(nnx.Variable):
    """Moving average of parameters: saved and restored, never differentiated."""


@struct.dataclass
class Output:
    """What a task gives the train step.

    Attributes:
      loss: scalar, a mean over the global batch.
      metrics: scalars to log.
      images: [M, h, w, C], or [M, d, h, w, C] of volumes: what the backbone saw, image-major: M = batch x views, the
        views of one image side by side.
      features: [M, D] the pooled features the backbone gave for `images`, or for the part of each that it was shown
        (`mae`). Distillation compares these with the teacher's.
    """

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    images: Float[Array, "m *space c"]
    features: Float[Array, "m d"]


class Task(nnx.Module):
    """Base of every pretext task. A subclass writes `views` and `loss`, and `after_update` if something moves with
    training.

    Class attributes:
      RECIPE: strengths of the published augmentation, fields of `augment.Views`.
      FIXED: fields of `augment.Views` the task cannot bear otherwise (rotation prediction and a random right angle).
      DIMENSIONS: of the images it can be trained on: 2, 3 for volumes, or both.
      CONSTANT_RATE: attributes whose parameters learn at the stage's peak rate throughout, whatever its schedule.
      AT_EPOCH: when `at_epoch` is called: 'never', 'first' (before the stage's first step) or 'every' (before the first
        step of each epoch).
      RESTARTS: attributes that `at_epoch` draws anew; what the optimizer remembers of their parameters goes with them.
      CASSLE: form of the task's own loss between two projections, for distillation of kind 'cassle': a name in
        `distill.cassle.DISTANCES`, or 'prototypes'.
    """

    RECIPE: ClassVar[Mapping[str, Any]] = {}
    FIXED: ClassVar[Mapping[str, Any]] = {}
    DIMENSIONS: ClassVar[tuple[int, ...]] = (2, 3)
    CONSTANT_RATE: ClassVar[tuple[str, ...]] = ()
    AT_EPOCH: ClassVar[str] = "never"
    RESTARTS: ClassVar[tuple[str, ...]] = ()
    CASSLE: ClassVar[str] = "mse"

    def __init__(self, backbone: nnx.Module, spec: augment.AnyViews):
        self.backbone = backbone
        self.spec = spec

    def views(self, key: PRNGKeyArray, batch: Batch) -> Any:
        """Pure function of key and batch; runs jitted on the accelerator. Default: one random view of each image."""
        return {"image": augment.random_view(key, batch["image"], self.spec)}

    def seen(self, views: Any) -> Float[Array, "m *space c"]:
        """What the backbone is shown of `views`, image-major."""
        return views["image"]

    def loss(self, views: Any, *, train: bool = True) -> Output:
        """Forward pass and loss; may write to the task's own `Bank` variables and running statistics."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def after_update(self, progress: Float[Array, ""]) -> None:
        """Called after each parameter update with the share of the stage done, 0 to 1."""

    def frozen(self) -> Mapping[str, Bool[Array, ""]]:
        """Parameters, by dotted names from the task's top, and whether the coming step passes them over: they keep
        their values, and the optimizer knows nothing of them until they are let go.
        """
        return {}

    def handed_over(self) -> nnx.Module:
        """The backbone that the stage leaves. Default: the one that was trained."""
        return self.backbone

    def at_epoch(self, features: Float[Array, "n d"], key: PRNGKeyArray) -> None:
        """Called when AT_EPOCH says, jitted, with the pooled features of every image of the split, by its index: of
        central views, in evaluation mode, float32. May write to any variable of the task.
        """

    def projection(self) -> nnx.Module | None:
        """What maps pooled features to the embeddings the loss compares. Default: `projector`, own or the encoder's."""
        return getattr(getattr(self, "encoder", self), "projector", None)

    def prototypes(self) -> Float[Array, "d k"] | None:
        """Directions that the embeddings are compared with, of a task whose CASSLE is 'prototypes'."""
        return None


class Average(nnx.Module):
    """A moving average of the parameters of another module, which it does not hold.

    Args:
      source: the module.
      statistics: whether batch normalisation in the averaged module gathers running statistics of its own, by `keep`;
        otherwise `module` has those of the source.
    """

    def __init__(self, source: nnx.Module, *, statistics: bool = False):
        # Copies: a donated step must not be given one buffer twice.
        self.leaves = nnx.List(Target(jnp.copy(leaf)) for leaf in jax.tree.leaves(_parameters(source)))
        known = jax.tree.leaves(_statistics(source)) if statistics else ()
        self.statistics = nnx.List(Target(jnp.copy(leaf)) for leaf in known)

    def update(self, source: nnx.Module, momentum: Float[Array, ""] | float) -> None:
        """average <- momentum average + (1 - momentum) source"""
        for average, online in zip(self.leaves, jax.tree.leaves(_parameters(source)), strict=True):
            average.set_value(momentum * average.get_value() + (1 - momentum) * online)

    def parameters(self, source: nnx.Module) -> nnx.State:
        """The average in the structure of the parameters of `source`."""
        structure = jax.tree.structure(_parameters(source))
        return jax.tree.unflatten(structure, [leaf.get_value() for leaf in self.leaves])

    def module(self, source: nnx.Module) -> nnx.Module:
        """A copy of `source` with the averaged parameters, for one use: statistics it gathers are thrown away, unless
        it is given to `keep`.
        """
        graph, _, statistics, rest = nnx.split(source, nnx.Param, nnx.BatchStat, ...)
        statistics = nnx.as_pure(statistics)
        if self.statistics:
            own = [leaf.get_value() for leaf in self.statistics]
            statistics = jax.tree.unflatten(jax.tree.structure(statistics), own)
        return nnx.merge(graph, self.parameters(source), statistics, nnx.as_pure(rest))

    def keep(self, module: nnx.Module) -> None:
        """Takes over the running statistics of a `module` that was used."""
        for own, found in zip(self.statistics, jax.tree.leaves(_statistics(module)), strict=True):
            own.set_value(found)


def rising(momentum: float, progress: Float[Array, ""] | float) -> Float[Array, ""]:
    """1 - (1 - momentum) (cos(pi progress) + 1) / 2: from `momentum` to exactly 1 (Grill et al., 2020, section 3.2)."""
    return 1 - (1 - momentum) * (jnp.cos(jnp.pi * progress) + 1) / 2


def _parameters(source: nnx.Module) -> nnx.State:
    return nnx.as_pure(nnx.state(source, nnx.Param))


def _statistics(source: nnx.Module) -> nnx.State:
    return nnx.as_pure(nnx.state(source, nnx.BatchStat))
