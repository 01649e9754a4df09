"""What a task is: the contract between a task and the training that runs it.

A task is an `nnx.Module` that owns its backbone, its heads and all the state it needs (memory bank, queue, moving
average). Each array of it is an `nnx.Variable`. One state tree holds everything, so one checkpoint saves it and one
jitted step trains it. A task never gets a device, an optimizer, a file or the config.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax import augment

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a task may choose its sizes by.

    Attributes:
      images: images in the pretraining split.
      batch: images in the global batch.
      dtype: computing type of the heads, 'float32' or 'bfloat16'.
      steps: of the stage.
    """

    images: int
    batch: int
    dtype: str = "float32"
    steps: int = 1


class Bank(nnx.Variable):
    """State that the task itself fills (memory bank, queue): saved and restored, never differentiated."""


class AveragedParam(nnx.Variable):
    """Moving average of a parameter or statistic: saved and restored, never differentiated."""


@struct.dataclass
class Output:
    """What `Task.loss` returns.

    Attributes:
      loss: scalar, a mean over the global batch.
      metrics: scalars to log.
      images: [M, h, w, C], or [M, d, h, w, C] of volumes: what the backbone was shown, image-major: M = batch x views,
        the views of one image side by side.
      features: [M, D] the pooled features that the backbone computed from `images`, or from the part of each image that
        it was shown (`mae`). Distillation compares these with the teacher's.
      empty: whether the batch has nothing to learn from. Such a step changes nothing: without a gradient, momentum and
        weight decay alone would move the weights.
      losses: [N] of a task with `separate_gradients` or `compares_losses`: what `loss` is made of.
      image_losses: [B] of a task with IMAGE_LOSSES: what each image of the batch adds to `loss`, which is their mean.
    """

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    images: Float[Array, "m *space c"]
    features: Float[Array, "m d"]
    empty: Bool[Array, ""] | bool = False
    losses: Float[Array, " n"] | None = None
    image_losses: Float[Array, " b"] | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """Parameters of a task that have a loss and an optimizer of their own, such as a discriminator.

    Attributes:
      name: passed to `Task.part_loss`, and the beginning of the names of the part's metrics in the log.
      attributes: dotted names, from the task's top, of the modules or parameters that the part owns. The main loss does
        not train them, and no other part may own them.
      optimizer: frozen config node with the fields of a stage's `optimizer`; None takes the stage's.
      updates: updates of the part in a step in which it is trained.
      every: the part is trained in every `every`-th step, starting with the first.
    """

    name: str
    attributes: tuple[str, ...]
    optimizer: Any = None
    updates: int = 1
    every: int = 1


@struct.dataclass
class PartOutput:
    """What `Task.part_loss` returns: a scalar loss, a mean over the global batch, and scalars to log."""

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]] = struct.field(default_factory=dict)


class Task(nnx.Module):
    """Base of every task, with all that a task can have. A subclass writes `NAME`, `views` and `loss`; the rest has a
    default.

    `progress`, wherever it is passed, is the share of the stage's steps that are done: a float32 scalar, 0 in the
    first step. What depends on it (a temperature, a momentum) is computed from it and not stored.

    Class attributes:
      NAME: the task's name, in configs, tables and messages.
      RECIPE: strengths of the published augmentation, fields of `augment.Views`.
      FIXED: fields of `augment.Views` that must have this value, such as no random right angles for rotation
        prediction.
      DIMENSIONS: of the images that the task can be trained on: 2, 3 for volumes, or both.
      MINIMUM_BATCH: images that the global batch must have: 2 for a task whose loss compares the images of a batch, and
        3 for one whose head normalises one row of each image by the statistics of the batch. (Of two values that makes
        1 and -1, whatever they are, so nothing before it has a gradient.)
      CONSTANT_RATE: attributes whose parameters learn at the stage's peak rate throughout, whatever its schedule.
      AT_EPOCH: when `at_epoch` is called: 'never', 'first' (before the stage's first step) or 'every' (before the first
        step of each epoch).
      CONSTANTS: attributes with arrays that follow from what the task was made of. Nothing changes them, and no
        checkpoint has them. Tasks that differ in them alone share a compiled program.
      RESTARTS: attributes that `at_epoch` draws anew. The optimizer forgets what it knows of their parameters.
      EMBEDDING_DISTANCE: how the task's own loss compares two embeddings: 'contrastive', 'cosine', 'invariance',
        'cross_correlation', 'mse', or 'prototypes' for a task that has prototypes.
      LOWEST_LOSS: the lowest value that the loss can have. Ratios of losses are taken above it.
      IMAGE_LOSSES: whether the loss is a mean over images, and `Output.image_losses` says of which. Only then can a
        stage show its images in the order of their losses.

    Attributes:
      backbone: what the stage trains.
      spec: of the training views.
      groups: virtual groups of the batch, each of which the backbone normalises by its own statistics.
      distillation: module that adds a loss for staying close to teachers, or None. It is called with the task, its
        `Output`, the frozen teachers and a progress, and returns (loss, metrics). Its parameters are trained and saved
        with the task.
      difficulty: [N] loss of each image of the split when it was last measured, NaN before that; None in a stage that
        measures none. It is written by the training.
      separate_gradients: whether the gradient of each of `Output.losses` is computed, and `combine_gradients` makes one
        of them, instead of the gradient of `Output.loss`.
      compares_losses: whether `Output.losses` are computed again after the update, for `compare_losses`.
      alternatives: ways in which a step can go. Where there are several, `choose` says which way a step goes, and only
        that is computed.
      turn: the way that `views`, `loss` and `after_update` go, from 0.
      rate_factors: (dotted name, from the task's top, factor of the learning rate of the parameters under it).
    """

    NAME: ClassVar[str]
    RECIPE: ClassVar[Mapping[str, Any]] = {}
    FIXED: ClassVar[Mapping[str, Any]] = {}
    DIMENSIONS: ClassVar[tuple[int, ...]] = (2, 3)
    MINIMUM_BATCH: ClassVar[int] = 1
    CONSTANT_RATE: ClassVar[tuple[str, ...]] = ()
    AT_EPOCH: ClassVar[str] = "never"
    CONSTANTS: ClassVar[tuple[str, ...]] = ()
    RESTARTS: ClassVar[tuple[str, ...]] = ()
    EMBEDDING_DISTANCE: ClassVar[str] = "mse"
    LOWEST_LOSS: ClassVar[float] = 0.0
    IMAGE_LOSSES: ClassVar[bool] = False

    groups: int = 1
    distillation: nnx.Module | None = None
    difficulty: Bank | None = None
    separate_gradients: bool = False
    compares_losses: bool = False
    alternatives: int = 1
    turn: int = 0
    rate_factors: tuple[tuple[str, float], ...] = ()

    def __init__(self, backbone: nnx.Module, spec: augment.AnyViews):
        self.backbone = backbone
        self.spec = spec

    def views(self, key: PRNGKeyArray, batch: Batch) -> Any:
        """Pure function of key and batch; runs jitted on the accelerator. All random numbers of a step come from here.

        Default: one random view of each image.
        """
        return {"image": augment.random_view(key, batch["image"], self.spec)}

    def shown_images(self, views: Any) -> Float[Array, "m *space c"]:
        """What the backbone is shown of `views`, image-major."""
        return views["image"]

    def loss(self, views: Any, progress: Float[Array, ""]) -> Output:
        """Forward pass in training mode, and the loss. May write to the task's own `Bank` variables and running
        statistics.
        """
        raise TypeError(f"{type(self).__name__} defines no loss")

    def pictured(self) -> "Sequence[Task]":
        """The tasks whose views a picture of this one shows. Default: this one."""
        return (self,)

    def choose(self, key: PRNGKeyArray, progress: Float[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Which of the `alternatives` the coming steps take, and how many steps at least do. Called before the first of
        them, jitted, and when a training goes on. May write to variables of the task.
        """
        raise TypeError(f"{type(self).__name__} has nothing to choose")

    def combine_gradients(
        self, gradients: Sequence[nnx.State], losses: Float[Array, " n"], key: PRNGKeyArray
    ) -> nnx.State:
        """The gradient of a step, from that of each of the losses by all parameters. May write to variables."""
        raise TypeError(f"{type(self).__name__} combines no gradients")

    def compare_losses(self, before: Float[Array, " n"], after: Float[Array, " n"]) -> None:
        """Called after the update with the losses of the step's views before and after it. May write to variables.

        The second time nothing but the parameters is new: what the task or its norms write then is lost.
        """
        raise TypeError(f"{type(self).__name__} compares no losses")

    def parts(self) -> tuple[Part, ...]:
        """Parameters that do not learn from `loss`, in the order in which they are updated after it. Default: none."""
        return ()

    def part_loss(self, name: str, views: Any, progress: Float[Array, ""]) -> PartOutput:
        """Forward pass and loss of one part, on views of its own. Everything updated before it has its new value."""
        raise TypeError(f"{type(self).__name__} defines no loss for its part '{name}'")

    def after_update(self, progress: Float[Array, ""]) -> None:
        """Called once a step, after all updates, for what must be written then (moving averages). `progress` counts the
        step: it is 1 after the last one.
        """

    def frozen(self, progress: Float[Array, ""]) -> Mapping[str, Bool[Array, ""]]:
        """Parameters, by dotted names from the task's top, and whether the coming step leaves them as they are.

        The optimizer learns nothing of a frozen parameter until it is released. Default: none is frozen.
        """
        return {}

    def at_epoch(self, features: Float[Array, "n d"], key: PRNGKeyArray) -> None:
        """Called when AT_EPOCH says, jitted, with the pooled features of every image of the split, by its index: of
        central views, in evaluation mode, float32. May write to any variable of the task.
        """

    def summary(self) -> dict[str, Any]:
        """What the record of the finished stage says of the task, as JSON values. Default: nothing."""
        return {}

    def handed_over(self) -> nnx.Module:
        """The backbone that the stage leaves. Default: the one that was trained."""
        return self.backbone

    def projection(self) -> nnx.Module | None:
        """What maps pooled features to the embeddings the loss compares. Default: `projector`, own or the encoder's."""
        return getattr(getattr(self, "encoder", self), "projector", None)

    def prototypes(self) -> Float[Array, "d k"] | None:
        """Directions that the embeddings are compared with, or None if the loss has none."""
        return None


class Average(nnx.Module):
    """A moving average of the parameters of another module, which it does not contain.

    Args:
      source: the module.
      statistics: whether the averaged module has running statistics of batch normalisation of its own, written by
        `take_statistics`. Otherwise `module` has those of the source.
    """

    def __init__(self, source: nnx.Module, *, statistics: bool = False):
        # Copies: a donated step must not be given one buffer twice.
        self.leaves = nnx.List(AveragedParam(jnp.copy(leaf)) for leaf in jax.tree.leaves(_parameters(source)))
        known = jax.tree.leaves(_statistics(source)) if statistics else ()
        self.statistics = nnx.List(AveragedParam(jnp.copy(leaf)) for leaf in known)

    def update(self, source: nnx.Module, momentum: Float[Array, ""] | float) -> None:
        """average <- momentum average + (1 - momentum) source"""
        for average, online in zip(self.leaves, jax.tree.leaves(_parameters(source)), strict=True):
            average.set_value(momentum * average.get_value() + (1 - momentum) * online)

    def parameters(self, source: nnx.Module) -> nnx.State:
        """The average in the structure of the parameters of `source`."""
        structure = jax.tree.structure(_parameters(source))
        return jax.tree.unflatten(structure, [leaf.get_value() for leaf in self.leaves])

    def module(self, source: nnx.Module) -> nnx.Module:
        """A copy of `source` with the averaged parameters, for one use. The statistics that it gathers are lost unless
        `take_statistics` is given the copy.
        """
        graph, _, statistics, rest = nnx.split(source, nnx.Param, nnx.BatchStat, ...)
        statistics = nnx.as_pure(statistics)
        if self.statistics:
            own = [leaf.get_value() for leaf in self.statistics]
            statistics = jax.tree.unflatten(jax.tree.structure(statistics), own)
        return nnx.merge(graph, self.parameters(source), statistics, nnx.as_pure(rest))

    def take_statistics(self, module: nnx.Module) -> None:
        """Stores the running statistics of a `module` that was used."""
        for own, found in zip(self.statistics, jax.tree.leaves(_statistics(module)), strict=True):
            own.set_value(found)


def raise_momentum(start: float, progress: Float[Array, ""] | float) -> Float[Array, ""]:
    """1 - (1 - start) (cos(pi progress) + 1) / 2: from `start` to exactly 1 (Grill et al., 2020, section 3.2)."""
    return 1 - (1 - start) * (jnp.cos(jnp.pi * progress) + 1) / 2


def _parameters(source: nnx.Module) -> nnx.State:
    return nnx.as_pure(nnx.state(source, nnx.Param))


def _statistics(source: nnx.Module) -> nnx.State:
    return nnx.as_pure(nnx.state(source, nnx.BatchStat))
