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
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

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
      images: [M, h, w, C] what the backbone saw, image-major: M = batch x views, the views of one image side by side.
      features: [M, D] the pooled features the backbone gave for `images`. Distillation compares these with the
        teacher's.
    """

    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]
    images: Float[Array, "m h w c"]
    features: Float[Array, "m d"]


class Task(nnx.Module):
    """Base of every pretext task. A subclass writes `views` and `loss`, and `after_update` if something moves with
    training.

    Class attributes:
      RECIPE: strengths of the published augmentation, fields of `augment.Views`.
      FIXED: fields of `augment.Views` the task cannot bear otherwise (rotation prediction and a random right angle).
    """

    RECIPE: ClassVar[Mapping[str, Any]] = {}
    FIXED: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, backbone: nnx.Module, spec: augment.Views):
        self.backbone = backbone
        self.spec = spec

    def views(self, key: PRNGKeyArray, batch: Batch) -> Any:
        """Pure function of key and batch; runs jitted on the accelerator. Default: one random view of each image."""
        return {"image": augment.random_view(key, batch["image"], self.spec)}

    def seen(self, views: Any) -> Float[Array, "m h w c"]:
        """What the backbone is shown of `views`, image-major."""
        return views["image"]

    def loss(self, views: Any, *, train: bool = True) -> Output:
        """Forward pass and loss; may write to the task's own `Bank` variables and running statistics."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def after_update(self, progress: Float[Array, ""]) -> None:
        """Called after each parameter update with the share of the stage done, 0 to 1."""


def two_views(
    key: PRNGKeyArray, images: UInt8[Array, "b h w c"], spec: augment.Views
) -> tuple[Float[Array, "b s s c"], Float[Array, "b s s c"]]:
    """Two independent random views of each image."""
    first, second = jax.random.split(key)
    return augment.random_view(first, images, spec), augment.random_view(second, images, spec)


def interleave(*views: Float[Array, "b h w c"]) -> Float[Array, "m h w c"]:
    """Stacks views image-major: an image's views stay on its device, where a concatenation would move half of them."""
    stacked = jnp.stack(views, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def normalise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Rows of length one, in float32."""
    x = x.astype(jnp.float32)
    # The square root has no gradient at 0: keep the floor inside it.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def accuracy(logits: Float[Array, "n k"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """Share of rows whose largest logit is the label's."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


class Average(nnx.Module):
    """A moving average of the parameters of another module, which it does not hold."""

    def __init__(self, source: nnx.Module):
        # Copies: a donated step must not be given one buffer twice.
        self.leaves = nnx.List(Target(jnp.copy(leaf)) for leaf in jax.tree.leaves(_parameters(source)))

    def update(self, source: nnx.Module, momentum: Float[Array, ""] | float) -> None:
        """average <- momentum average + (1 - momentum) source"""
        for average, online in zip(self.leaves, jax.tree.leaves(_parameters(source)), strict=True):
            average.set_value(momentum * average.get_value() + (1 - momentum) * online)

    def parameters(self, source: nnx.Module) -> nnx.State:
        """The average in the structure of the parameters of `source`."""
        structure = jax.tree.structure(_parameters(source))
        return jax.tree.unflatten(structure, [leaf.get_value() for leaf in self.leaves])


def _parameters(source: nnx.Module) -> nnx.State:
    return nnx.as_pure(nnx.state(source, nnx.Param))
