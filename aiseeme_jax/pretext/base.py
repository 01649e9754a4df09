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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax import augment
from aiseeme_jax.losses import arrays

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


def two_views(
    key: PRNGKeyArray, images: Array, spec: augment.AnyViews, second: augment.AnyViews | None = None
) -> tuple[Float[Array, "b *space c"], Float[Array, "b *space c"]]:
    """Two independent random views of each image; the second drawn as `second` says, if given."""
    first_key, second_key = jax.random.split(key)
    return (
        augment.random_view(first_key, images, spec),
        augment.random_view(second_key, images, spec if second is None else second),
    )


def interleave(*views: Float[Array, "b *rest"]) -> Float[Array, "m *rest"]:
    """Stacks views image-major: an image's views stay on its device, where a concatenation would move half of them."""
    stacked = jnp.stack(views, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def scaled(spec: augment.AnyViews, shares: Mapping[str, float]) -> augment.AnyViews:
    """The spec with each named field multiplied by its share; fields that a spec of volumes lacks are passed over."""
    changes = {name: share * getattr(spec, name) for name, share in shares.items() if hasattr(spec, name)}
    return dataclasses.replace(spec, **changes)


class TwoViews(Task):
    """Base of the tasks that compare two views, first and second, of each image.

    Each view passes the network on its own, so that batch normalisation meets one kind of view at a time, as in the
    papers. A subclass writes `loss` and ends it with `output`.

    Class attributes:
      SHARES: what the first and the second view get of fields of the spec. BYOL blurs one view always, the other one
        time in ten: 1 in RECIPE, shares 1 and 0.1. They are taken of the spec as the modality and the user left it:
        where solarisation is capped at 0, neither view is solarised.
    """

    SHARES: ClassVar[tuple[Mapping[str, float], Mapping[str, float]]] = ({}, {})

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        first, second = (scaled(self.spec, shares) for shares in self.SHARES)
        return dict(zip(("first", "second"), two_views(key, batch["image"], first, second), strict=True))

    def seen(self, views):
        return interleave(views["first"], views["second"])

    def output(
        self, loss: Float[Array, ""], views: dict[str, Array], first: Float[Array, "b d"], second: Float[Array, "b d"]
    ) -> Output:
        """The output of a loss, given the pooled features of both views."""
        return Output(loss, {}, self.seen(views), interleave(first, second))


def normalise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Rows of length one, in float32; a zero row stays zero and gets no gradient."""
    return arrays.normalise(arrays.wide(x))


def accuracy(logits: Float[Array, "n k"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """Share of rows whose largest logit is the label's."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


class Encoder(nnx.Module):
    """Backbone and projection; returns pooled features [N, D] and embeddings [N, d]."""

    def __init__(self, backbone: nnx.Module, projector: nnx.Module):
        self.backbone, self.projector = backbone, projector

    def __call__(self, x: Float[Array, "n *space c"], *, train: bool):
        features = self.backbone(x, train=train)["pooled"]
        return features, self.projector(features, train=train)


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
