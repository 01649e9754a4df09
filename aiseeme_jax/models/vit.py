"""Vision transformers (Dosovitskiy et al., ICLR 2021) of images and volumes, with named endpoints, as timm has them.

Sizes are those of DeiT (Touvron et al., ICML 2021): heads have 64 features, so a Small has six; in MoCo v3 it has
twelve. Positions are fixed sines and cosines, as in MoCo v3 and MAE. They are computed for each size of whole patches.
A smaller view has the positions of a corner of a larger one. Weights are float32. Products compute in the given dtype,
norms and pooling in float32. There is no dropout and no statistic of the batch: `train` changes nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.errors import UserError
from aiseeme_jax.models.layers import check_input

# Name: (features, blocks, heads).
ARCHITECTURES = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}
# Side of a patch by the number of dimensions: for images as published, for volumes our choice.
PATCHES = {2: 16, 3: 8}
# Width of the hidden layer of a block, divided by the number of features.
EXPANSION = 4

Tokens = Float[Array, "b n d"]


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation, computed in float32 and returned in the dtype of its input."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        # The fast variance, E x^2 - (E x)^2, loses digits if the mean is large.
        super().__init__(features, epsilon=1e-6, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return super().__call__(x).astype(x.dtype)


class TransformerBlock(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): pre-norm, exact GELU, biases everywhere.

    Args:
      features: D, a multiple of `heads`.
    """

    def __init__(self, features: int, heads: int, *, dtype: Any, rngs: nnx.Rngs):
        self.heads = heads
        self.norms = nnx.List(LayerNorm(features, rngs=rngs) for _ in range(2))
        self.qkv = linear(features, 3 * features, dtype=dtype, rngs=rngs)
        self.projection = linear(features, features, dtype=dtype, rngs=rngs)
        self.hidden = linear(features, EXPANSION * features, dtype=dtype, rngs=rngs)
        self.out = linear(EXPANSION * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        before_attention, before_hidden = self.norms
        qkv = self.qkv(before_attention(x))
        # Queries of all heads, then keys, then values.
        query, key, value = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        attended = jax.nn.dot_product_attention(query, key, value)
        x = x + self.projection(attended.reshape(x.shape))
        return x + self.out(jax.nn.gelu(self.hidden(before_hidden(x)), approximate=False))


class ViT(nnx.Module):
    """ViT-Ti, -S or -B without its classifier.

    Args:
      architecture: name in `ARCHITECTURES`.
      width: factor on the features of every layer. They are rounded to a multiple of four for each head. The number of
        heads does not change.
      stem: must be 'standard'. For small images, choose a smaller patch.
      patch: side of a patch in pixels; 0 means 16, as published, and 8 voxels for volumes. Sides of images are
        multiples of it. On 64 pixels, 8 gives as many patches as 16 on 128.
      dtype: of the products: float32 or bfloat16.
      channels: of the images.
      dimensions: 2 for images, 3 for volumes.

    Attributes:
      features: D, of the tokens and of the pooled features.
      patch: in pixels.
      channels, dimensions: of the images.

    Raises ValueError for another stem, a width that is not positive, a negative patch, or other dimensions.
    """

    def __init__(
        self,
        architecture: str,
        *,
        width: float = 1.0,
        stem: str = "standard",
        patch: int = 0,
        dtype: Any = jnp.float32,
        channels: int = 3,
        dimensions: int = 2,
        rngs: nnx.Rngs,
    ):
        if stem != "standard":
            raise UserError(
                f"a ViT has no stem {stem!r}: leave model.stem at 'standard', and for small images lower model.patch"
            )
        if not width > 0:
            raise UserError(f"the width of a ViT is a positive factor, not {width}")
        features, blocks, heads = ARCHITECTURES[architecture]
        self.architecture, self.width = architecture, width
        self.patch = patch_size(patch, dimensions)
        self.channels, self.dimensions = channels, dimensions
        self.dtype = jnp.dtype(dtype)
        self.features = features = 4 * heads * max(1, round(features * width / (4 * heads)))
        self.embedding = linear(self.patch**dimensions * channels, features, dtype=self.dtype, rngs=rngs)
        # One axis, so that it takes no weight decay.
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (features,)))
        self.blocks = nnx.List(TransformerBlock(features, heads, dtype=self.dtype, rngs=rngs) for _ in range(blocks))
        self.norm = LayerNorm(features, rngs=rngs)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of `make_backbone` that make this backbone again."""
        return {
            "name": self.architecture,
            "width": self.width,
            "patch": self.patch,
            "dtype": self.dtype.name,
            "channels": self.channels,
            "dimensions": self.dimensions,
        }

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Dotted names of the parameters of each layer: the embedding, then the blocks. The last norm is after them."""
        return ("embedding", "class_token"), *((f"blocks.{block}",) for block in range(len(self.blocks)))

    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> dict[str, Array]:
        """Endpoints of a batch.

        Args:
          x: normalised images [B, H, W, C], or volumes [B, D, H, W, C], of whole patches.
          train: changes nothing.

        Raises UserError for pixels as they are stored, ValueError for another shape.

        Returns:
          stem (patches with their positions), stage1 ... stage4 (after each quarter of the blocks, the last
          normalised): the tokens of the patches as maps [B, H / patch, W / patch, D] in the compute dtype; pooled: the
          mean of stage4, [B, D] float32. (It is not the class token, since a task that restores pixels hardly trains
          that.)
        """
        tokens = self.tokens(x)
        depths = self._depths(tokens)
        space = [side // self.patch for side in x.shape[1:-1]]
        maps = {f"stage{number}": stream[:, 1:] for number, stream in enumerate(depths, start=1)}
        endpoints = {name: t.reshape(t.shape[0], *space, -1) for name, t in {"stem": tokens, **maps}.items()}
        return {**endpoints, "pooled": self.pool(depths[-1])}

    def tokens(self, x: Float[Array, "b *space c"]) -> Tokens:
        """The patches of a batch, row by row, embedded, with their positions added. Raises what a call raises."""
        check_input(x, self.dimensions, self.channels)
        for side in x.shape[1:-1]:
            check_side(side, self.patch)
        tokens = self.embedding(patchify(x, self.patch))
        space = tuple(side // self.patch for side in x.shape[1:-1])
        return tokens + positions(space, self.features).astype(tokens.dtype)

    def encode(self, tokens: Tokens) -> Float[Array, "b more d"]:
        """Passes some or all `tokens` of each image through the blocks: the class token, then these, normalised."""
        return self._depths(tokens)[-1]

    def pool(self, encoded: Float[Array, "b more d"]) -> Float[Array, "b d"]:
        """Pooled features of the result of `encode`: the mean without the class token."""
        return jnp.mean(encoded[:, 1:], axis=1, dtype=jnp.float32)

    def _depths(self, tokens: Tokens) -> list[Float[Array, "b more d"]]:
        """The class token and the others after each quarter of the blocks, the last normalised."""
        first = jnp.broadcast_to(self.class_token.get_value().astype(tokens.dtype), (tokens.shape[0], 1, self.features))
        x = jnp.concatenate([first, tokens], axis=1)
        depths, count = [], len(self.blocks)
        for quarter in range(4):
            for i in range(count * quarter // 4, count * (quarter + 1) // 4):
                x = self.blocks[i](x)
            depths.append(x)
        return [*depths[:3], self.norm(x)]


def linear(features: int, out: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Linear:
    """Makes a layer of a transformer. Weights start as Glorot's uniform ones, biases as 0, as in MAE."""
    init = nnx.initializers.xavier_uniform()
    return nnx.Linear(features, out, dtype=dtype, param_dtype=jnp.float32, kernel_init=init, rngs=rngs)


def patch_size(asked: int, dimensions: int) -> int:
    """Side of a patch: `asked`, or the one of `PATCHES` if that is 0. Raises UserError if it is negative."""
    if dimensions not in PATCHES:
        raise UserError(f"a ViT has 2 dimensions (images) or 3 (volumes), not {dimensions}")
    if asked < 0:
        raise UserError(f"model.patch is {asked}; it must be at least 1, or 0 for {PATCHES[dimensions]}")
    return asked or PATCHES[dimensions]


def check_side(side: int, patch: int) -> None:
    """Raises UserError unless a side of an image consists of whole patches."""
    if side < patch or side % patch:
        raise UserError(
            f"{side} px do not divide into patches of {patch} px: take views of a multiple of {patch} px, or another "
            "model.patch"
        )


def patchify(images: Float[Array, "b *space c"], patch: int) -> Float[Array, "b n p"]:
    """Cuts images or volumes into patches, row by row. The pixels of each patch are row by row too, channels last."""
    batch, *space, channels = images.shape
    split = [length for side in space for length in (side // patch, patch)]
    which, within = range(1, 2 * len(space), 2), range(2, 2 * len(space) + 1, 2)
    cut = images.reshape(batch, *split, channels).transpose(0, *which, *within, 2 * len(space) + 1)
    return cut.reshape(batch, -1, patch ** len(space) * channels)


def positions(space: tuple[int, ...], features: int) -> Float[Array, "n d"]:
    """Fixed embedding of the places of a grid, row by row.

    Each axis has an equal, even share of the features; the last axis has the first share. A share is sin(x w_k) for all
    k, then cos(x w_k), with x = 0, 1, … along the axis and w_k = 10000^(-k / K), k = 0 … K - 1. Remaining features are
    0. In 2-D this is the embedding of MoCo v3 (Chen, Xie & He, ICCV 2021, after Vaswani et al., 2017) and MAE; in 3-D
    it is the analogue.
    """
    count = features // (2 * len(space))
    rates = 10_000.0 ** (-np.arange(count) / count)
    places = np.stack(np.meshgrid(*map(np.arange, space), indexing="ij"), axis=-1).reshape(-1, len(space))
    angles = places[:, ::-1, None] * rates
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(places), -1)
    return jnp.asarray(np.pad(waves, ((0, 0), (0, features - waves.shape[1]))), jnp.float32)
