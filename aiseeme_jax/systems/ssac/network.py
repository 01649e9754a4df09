"""Classifiers that are helped by autoencoders: layers of transition between the maps of the two."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import augment
from aiseeme_jax.models.resnet import Norm
from aiseeme_jax.systems.multi_view import MultiViewNetwork
from aiseeme_jax.systems.ssac.autoencoder import Autoencoder

Map = Float[Array, "m h w f"]


class Transition(nnx.Module):
    """Adapts a map of the autoencoder to the input of a stage of the classifier, and joins the two.

    The map is resized to that of the stage. A convolution of 1x1 gives it the stage's channels, with batch
    normalisation and ReLU. It is put beside the stage's input, and another convolution of 1x1 makes of both what the
    stage gets. That one starts as the stage's own input alone, so that a pretrained classifier starts as it is. (Ours.)
    """

    def __init__(self, helping: int, channels: int, *, dtype: Any, rngs: nnx.Rngs):
        self.adapt = nnx.Conv(helping, channels, (1, 1), use_bias=False, dtype=dtype, rngs=rngs)
        self.norm = Norm(channels, rngs=rngs)
        self.join = nnx.Conv(2 * channels, channels, (1, 1), use_bias=False, dtype=dtype, rngs=rngs)
        start = jnp.concatenate([jnp.eye(channels), jnp.zeros((channels, channels))])
        self.join.kernel.set_value(start[None, None])

    def __call__(self, own: Map, helping: Map, *, train: bool) -> Map:
        resized = jax.image.resize(helping, (*own.shape[:3], helping.shape[-1]), "linear")
        adapted = jax.nn.relu(self.norm(self.adapt(resized), train=train))
        return self.join(jnp.concatenate([own, adapted], axis=-1))


class AssistedNetwork(MultiViewNetwork):
    """A `MultiViewNetwork`, each of whose backbones gets the maps of an autoencoder before each of its stages.

    Backbones and autoencoders share no weights. The autoencoders run in evaluation mode here: classifying changes
    nothing in them.

    Args:
      backbones: ResNets.
      autoencoders: one for each backbone.
      stages: channels of the input of each stage of a backbone.
      views: of the patches.
      through: whether the gradient of a decision reaches the autoencoders.
      others: of `MultiViewNetwork`.
    """

    def __init__(
        self,
        backbones: Sequence[nnx.Module],
        autoencoders: Sequence[Autoencoder],
        *,
        stages: Sequence[int],
        views: augment.Views,
        through: bool,
        rngs: nnx.Rngs,
        **others: Any,
    ):
        super().__init__(backbones, rngs=rngs, **others)
        self.autoencoders, self.views, self.through = nnx.List(autoencoders), views, through
        self.transitions = nnx.List(
            nnx.List(
                Transition(helping, channels, dtype=backbone.dtype, rngs=rngs)
                for helping, channels in zip(autoencoder.encoder.channels, stages, strict=True)
            )
            for backbone, autoencoder in zip(backbones, autoencoders, strict=True)
        )

    def to_unit(self, shown: Float[Array, "m s s c"]) -> Float[Array, "m s s c"]:
        """Patches as the autoencoders take them, in [-1, 1]."""
        return 2 * augment.to_display(shown, self.views) - 1

    def encode(
        self, number: int, shown: Float[Array, "m s s c"], *, train: bool, train_backbone: bool = True
    ) -> Float[Array, "m d"]:
        maps, _ = self.autoencoders[number].encode(self.to_unit(shown), train=False)
        maps = maps if self.through else jax.lax.stop_gradient(maps)
        transitions = self.transitions[number]

        def join(stage: int, x: Map) -> Map:
            return transitions[stage](x, maps[stage], train=train)

        return self.backbones[number](shown, train=train and train_backbone, before_stage=join)["pooled"]


def find_stage_channels(backbone: nnx.Module, size: int) -> tuple[int, ...]:
    """Channels of the input of each of the four stages of a ResNet."""
    image = jax.ShapeDtypeStruct((1, size, size, backbone.channels), jnp.float32)
    found = nnx.eval_shape(lambda network, x: network(x, train=False), backbone, image)
    return tuple(found[name].shape[-1] for name in ("stem", "stage1", "stage2", "stage3"))
