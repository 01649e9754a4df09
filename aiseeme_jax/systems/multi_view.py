"""A network for several planes of a nodule and several kinds of patches of each, whose decisions become one.

MV-KBC trains it alone, the system after SSAC with the help of an autoencoder.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aiseeme_jax.models.heads import drop

# How decisions of planes and kinds become one: by layers that learn, or by their mean.
FUSIONS = ("learned", "mean")
# With it in the fusing layers, the first decision is nearly that of the mean of the probabilities. (Ours.)
START = 4.0

Patches = Float[Array, "b p k s s c"]


class Head(nnx.Module):
    """Linear layers with ReLU and dropout between them, then two logits."""

    def __init__(self, features: int, hidden: Sequence[int], dropout: float, *, rngs: nnx.Rngs):
        widths = (features, *hidden)
        he, lecun = nnx.initializers.he_normal(), nnx.initializers.lecun_normal()
        self.layers = nnx.List(
            nnx.Linear(width, following, kernel_init=he, rngs=rngs)
            for width, following in zip(widths, hidden, strict=False)
        )
        self.last = nnx.Linear(widths[-1], 2, kernel_init=lecun, rngs=rngs)
        self.dropout = dropout

    def __call__(self, features: Float[Array, "m d"], key: PRNGKeyArray | None) -> Float[Array, "m 2"]:
        """Logits. Without a key nothing is dropped."""
        x = features
        for number, layer in enumerate(self.layers):
            x = jax.nn.relu(layer(x))
            x = x if key is None else drop(jax.random.fold_in(key, number), x, self.dropout)
        return self.last(x)


class MultiViewNetwork(nnx.Module):
    """A backbone and a head for each kind of patch, or for each kind in each plane; two layers fuse what they say.

    Args:
      backbones: one for each kind; or one for each kind in each plane, those of the first kind first.
      planes, kinds: how many there are, P and K.
      hidden, dropout: of each head.
      fusion: of FUSIONS. 'learned': in each plane the K pairs of probabilities become one pair by a layer of its own,
        and the P pairs one probability by a last layer.
    """

    def __init__(
        self,
        backbones: Sequence[nnx.Module],
        *,
        planes: int,
        kinds: int,
        hidden: Sequence[int],
        dropout: float,
        fusion: str,
        rngs: nnx.Rngs,
    ):
        self.planes, self.kinds, self.fusion = planes, kinds, fusion
        self.backbones = nnx.List(backbones)
        self.heads = nnx.List(Head(backbone.features, hidden, dropout, rngs=rngs) for backbone in backbones)
        if fusion == "learned":
            self.plane_kernels = nnx.Param(jnp.tile(jnp.eye(2) * START / kinds, (planes, kinds, 1)))
            self.plane_biases = nnx.Param(jnp.zeros((planes, 2)))
            self.last_kernel = nnx.Param(jnp.tile(jnp.array([-START, START]) / planes, planes))
            self.last_bias = nnx.Param(jnp.zeros(()))

    def __call__(
        self, patches: Patches, *, train: bool, train_backbones: bool = True, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "b p k 2"], Float[Array, " b"], Float[Array, "b p k d"]]:
        """Logits of each patch, the logit of class 1 that is decided by, and the pooled features of each patch.

        Args:
          train_backbones: whether the backbones are in training mode too, if `train`.
          key: of dropout; nothing is dropped without one.
        """
        logits, features = [], []
        for number, head in enumerate(self.heads):
            pooled = self.encode(number, self.select(patches, number), train=train, train_backbone=train_backbones)
            logits.append(head(pooled, None if key is None else jax.random.fold_in(key, number)))
            features.append(pooled)
        join = lambda rows: self._by_plane(jnp.stack(rows), len(patches))  # noqa: E731
        made = join(logits)
        return made, self._fuse(made), join(features)

    def select(self, patches: Patches, number: int) -> Float[Array, "m s s c"]:
        """The patches that one of the backbones is shown."""
        shared = len(self.backbones) == self.kinds
        kind, plane = (number, slice(None)) if shared else divmod(number, self.planes)
        return patches[:, plane, kind].reshape(-1, *patches.shape[3:])

    def encode(
        self, number: int, shown: Float[Array, "m s s c"], *, train: bool, train_backbone: bool = True
    ) -> Float[Array, "m d"]:
        """Pooled features of patches by one of the backbones."""
        return self.backbones[number](shown, train=train and train_backbone)["pooled"]

    def _by_plane(self, rows: Float[Array, "n m d"], batch: int) -> Float[Array, "b p k d"]:
        """From one backbone after another to [B, P, K, D]."""
        if len(self.backbones) == self.kinds:
            return jnp.moveaxis(rows.reshape(self.kinds, batch, self.planes, -1), 0, 2)
        return rows.reshape(self.kinds, self.planes, batch, -1).transpose(2, 1, 0, 3)

    def _fuse(self, logits: Float[Array, "b p k 2"]) -> Float[Array, " b"]:
        """The logit of class 1."""
        probs = jax.nn.softmax(logits)
        if self.fusion == "mean":
            negative, positive = jnp.moveaxis(jnp.mean(probs, axis=(1, 2)), -1, 0)
            tiny = jnp.finfo(jnp.float32).tiny
            return jnp.log(jnp.maximum(positive, tiny)) - jnp.log(jnp.maximum(negative, tiny))
        pairs = probs.reshape(len(probs), self.planes, -1)
        each = jnp.einsum("bpi,pio->bpo", pairs, self.plane_kernels.get_value()) + self.plane_biases.get_value()
        return jax.nn.softmax(each).reshape(len(probs), -1) @ self.last_kernel.get_value() + self.last_bias.get_value()


def weigh_missed(logits: Float[Array, " b"], labels: Int[Array, " b"], penalty: float) -> Float[Array, " b"]:
    """The weight of each row in the loss of MV-KBC: `penalty` where y - p > 0.5, else 1.

    So a malignant nodule that is called benign counts `penalty` times. It is a comparison, and has no gradient.
    """
    return jnp.where(labels - jax.nn.sigmoid(logits) > 0.5, penalty, 1.0)


def decision_entropy(logits: Float[Array, " b"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Binary cross-entropy of each row."""
    return jax.nn.softplus(logits) - labels * logits


def patch_entropy(logits: Float[Array, "b p k 2"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """The mean cross-entropy of all patches of each row."""
    log_probs = jax.nn.log_softmax(logits)
    own = jnp.where((labels == 1)[:, None, None], log_probs[..., 1], log_probs[..., 0])
    return -jnp.mean(own, axis=(1, 2))
