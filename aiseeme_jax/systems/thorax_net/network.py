"""The network of ChestNet (Wang & Xia, arXiv 1807.03058) and Thorax-Net: a classifier with an attention branch.

The branch takes the maps of the penultimate stage. For each class it adds its own maps by the Grad-CAM weights of the
classifier, so it looks where the classifier would. The decision is the mean of the probabilities of the two.

Published are the order of the layers and most of their widths. The widths of the first three, the norms, the ReLUs
after them and how the maps are standardised and scaled are not, or only at second hand: docs/systems.md says which.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.evaluate.labels import ClassLabels
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.models import ResNet
from aiseeme_jax.models.classifier import PROBABILITIES
from aiseeme_jax.models.convolution import make_convolution
from aiseeme_jax.models.halves import run_after
from aiseeme_jax.models.resnet import Norm

# The maps that the branch takes: those of the penultimate stage.
ENDPOINT = "stage3"
# The first layer of the branch has a quarter of the channels of the maps.
REDUCTION = 4
# Added to the variance of a map, as in a norm.
EPSILON = 1e-5
# The decisions that there are: of each branch, and the mean of their probabilities.
CLASSIFICATION, ATTENTION, AVERAGE = "classification", "attention", "average"

Maps = Float[Array, "b *space k"]


class Branches(NamedTuple):
    """What the network makes of images.

    Attributes:
      classification, attention: logits of the two branches.
      maps: of each class, they sum to 1 over the places.
      features: pooled, of the backbone.
    """

    classification: Float[Array, "b c"]
    attention: Float[Array, "b c"]
    maps: Float[Array, "b *space c"]
    features: Float[Array, "b d"]


def find_channel_weights(
    backbone: ResNet, head: nnx.Module, maps: Maps, endpoint: str = ENDPOINT
) -> Float[Array, "b c k"]:
    """Grad-CAM weights alpha of each class and channel: the mean over the places of d logit / d map.

    They are those of the backbone in evaluation mode, so that the images of a batch do not depend on each other, and
    nothing is learnt through them: no second derivatives are needed. On the last stage, under a linear head on the mean
    of the maps, they are W / n for n places.

    Args:
      maps: at the endpoint.
    """

    def classify(maps: Maps) -> Float[Array, "b c"]:
        return head(run_after(backbone, maps, endpoint))

    logits, pull = jax.vjp(classify, jax.lax.stop_gradient(maps))

    def weigh(one: Float[Array, " c"]) -> Float[Array, "b k"]:
        (gradient,) = pull(jnp.broadcast_to(one, logits.shape))
        return jnp.mean(gradient, axis=tuple(range(1, maps.ndim - 1)), dtype=jnp.float32)

    weights = jax.vmap(weigh, out_axes=1)(jnp.eye(logits.shape[1], dtype=logits.dtype))
    return jax.lax.stop_gradient(weights)


def attend(maps: Maps, weights: Float[Array, "b c k"], *, standardise: bool) -> Float[Array, "b *space c"]:
    """The map of each class, sum_k alpha_k A_k, after a softmax over its places.

    Args:
      standardise: to mean 0 and variance 1 over the places before the softmax. The weights of a trained classifier are
        so small that the softmax would be flat without it.
    """
    places = tuple(range(1, maps.ndim - 1))
    # The scale of the weights makes no difference then, and small ones must not drown in EPSILON.
    weights = normalise(weights) if standardise else weights
    found = jnp.einsum("b...k,bck->b...c", maps.astype(jnp.float32), weights)
    if standardise:
        centred = found - jnp.mean(found, axis=places, keepdims=True)
        found = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=places, keepdims=True) + EPSILON)
    return jax.nn.softmax(found, axis=places)


class AttentionBranch(nnx.Module):
    """Logits of classes from maps and the channel weights of a classifier.

    Args:
      channels: K of the maps.
      space: their sides.
      outputs: C, classes or findings.
      hidden: channels before the last layer.
      standardise: see `attend`.
    """

    def __init__(
        self,
        channels: int,
        space: tuple[int, ...],
        outputs: int,
        *,
        hidden: int,
        standardise: bool,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        inner = max(1, channels // REDUCTION)
        kind = {"dimensions": len(space), "dtype": dtype, "rngs": rngs}
        plan = [(channels, inner, 1), (inner, inner, 3), (inner, channels, 1)]
        self.convolutions = nnx.List(make_convolution(*sizes, **kind) for sizes in plan)
        self.norms = nnx.List(Norm(filters, rngs=rngs) for _, filters, _ in plan)
        self.mix = nnx.Linear(outputs, outputs, rngs=rngs)
        self.widen = nnx.Linear(outputs, hidden, rngs=rngs)
        # A convolution as large as the map, without padding, is a linear layer on all of it.
        self.decide = nnx.Linear(math.prod(space) * hidden, outputs, rngs=rngs)
        self.hidden, self.standardise = hidden, standardise

    def __call__(
        self, maps: Maps, weights: Float[Array, "b c k"], *, train: bool
    ) -> tuple[Float[Array, "b c"], Float[Array, "b *space c"]]:
        """Logits, and the maps of the classes."""
        x = maps
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x), train=train)
            # A ReLU before the softmax would stop the gradient of a fresh branch.
            x = x if place == len(self.norms) - 1 else jax.nn.relu(x)
        attended = attend(x, weights, standardise=self.standardise)
        # Of a uniform map, 1 at each place instead of 1 / n: layers start for inputs of about 1.
        scaled = attended * math.prod(attended.shape[1:-1])
        x = jax.nn.relu(self.widen(jax.nn.relu(self.mix(scaled))))
        return self.decide(x.reshape(len(x), -1)), attended


class ThoraxNetwork(nnx.Module):
    """A backbone with a head, and an attention branch."""

    def __init__(self, backbone: ResNet, head: nnx.Module, branch: AttentionBranch):
        self.backbone, self.head, self.branch = backbone, head, branch

    def run(self, images: Float[Array, "b *space c"], *, train: bool, train_classifier: bool = True) -> Branches:
        """Both branches. In training, a classifier that is not trained stays in evaluation mode."""
        endpoints = self.backbone(images, train=train and train_classifier)
        maps, features = endpoints[ENDPOINT], endpoints["pooled"].astype(jnp.float32)
        weights = find_channel_weights(self.backbone, self.head, maps)
        maps = maps if train_classifier else jax.lax.stop_gradient(maps)
        attention, attended = self.branch(maps, weights, train=train)
        return Branches(self.head(features), attention.astype(jnp.float32), attended, features)

    def __call__(
        self, images: Float[Array, "b *space c"], *, train: bool
    ) -> tuple[Float[Array, "b two c"], Float[Array, "b d"]]:
        """The logits of the two branches, as `decide` takes them, and the pooled features."""
        found = self.run(images, train=train)
        return jnp.stack([found.classification, found.attention], axis=1), found.features


def make_network(
    backbone: nnx.Module,
    head: nnx.Module,
    *,
    size: int,
    hidden: int,
    standardise: bool,
    rngs: nnx.Rngs,
) -> ThoraxNetwork:
    """A classifier with a fresh attention branch, for views of `size` pixels."""
    shape = (1, *(size,) * backbone.dimensions, backbone.channels)
    endpoints = nnx.eval_shape(lambda b, x: b(x, train=False), backbone, jnp.zeros(shape))
    maps = endpoints[ENDPOINT].shape
    outputs = head.kernel.shape[1]
    branch = AttentionBranch(
        maps[-1], maps[1:-1], outputs, hidden=hidden, standardise=standardise, dtype=backbone.dtype, rngs=rngs
    )
    return ThoraxNetwork(backbone, head, branch)


def decide(kind: str, logits: Float[Array, "*n two c"]) -> dict[str, Float[Array, "*n c"]]:
    """The probabilities of each decision, of the logits of the two branches.

    Args:
      kind: of the labels.
    """
    probabilities = PROBABILITIES[kind](logits)
    of_classifier, of_branch = probabilities[..., 0, :], probabilities[..., 1, :]
    return {CLASSIFICATION: of_classifier, ATTENTION: of_branch, AVERAGE: (of_classifier + of_branch) / 2}


def average_decisions(kind: str, one: Float[Array, "b c"], other: Float[Array, "b c"]) -> Float[Array, "b c"]:
    """Logits whose probabilities are the mean of those of two: of findings one by one, of classes by the softmax."""
    if kind == ClassLabels.KIND:
        both = jnp.stack([jax.nn.log_softmax(one), jax.nn.log_softmax(other)])
        return jax.nn.logsumexp(both, axis=0) - math.log(2)
    # log p - log(1 - p) of the mean p; each part from logarithms, so that sure ones stay finite.
    present = jnp.logaddexp(jax.nn.log_sigmoid(one), jax.nn.log_sigmoid(other))
    absent = jnp.logaddexp(jax.nn.log_sigmoid(-one), jax.nn.log_sigmoid(-other))
    return present - absent


def measure_entropy(maps: Float[Array, "b *space c"]) -> Float[Array, ""]:
    """Mean entropy of maps that sum to 1 over their places, in nats; log n for uniform ones of n places."""
    places = tuple(range(1, maps.ndim - 1))
    return jnp.mean(jnp.sum(-maps * jnp.log(jnp.maximum(maps, 1e-30)), axis=places))
