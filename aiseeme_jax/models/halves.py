"""Backbones cut at an endpoint: what lies before it, and what lies after it.

The gradient of a logit with respect to the activations at an endpoint needs the second half as a function of its own.
`run_after(backbone, run_until(backbone, x, endpoint), endpoint)` is `backbone(x, train=False)["pooled"]`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.errors import UserError
from aiseeme_jax.models import ResNet, ViT

ENDPOINTS = ("stem", "stage1", "stage2", "stage3", "stage4")
QUARTERS = 4
# Size, stride and padding of `models.convolution.max_pool`.
POOLING = (3, 2, 1)


def check_endpoint(endpoint: str) -> None:
    """Raises UserError for an endpoint that has no maps."""
    if endpoint not in ENDPOINTS:
        raise UserError(f"there are no maps at the endpoint '{endpoint}': known are {', '.join(ENDPOINTS)}")


def run_until(backbone: nnx.Module, x: Float[Array, "b *space c"], endpoint: str) -> Array:
    """What a backbone hands from one half to the other, in evaluation mode.

    Args:
      x: normalised views.

    Returns the map [B, *space, K] of a ResNet. Returns the tokens [B, 1 + n, D] of a ViT, the class token first.
    """
    check_endpoint(endpoint)
    if isinstance(backbone, ResNet):
        return backbone(x, train=False)[endpoint]
    return _run_blocks(backbone, _first_tokens(backbone, x), 0, ENDPOINTS.index(endpoint))


def run_after(backbone: nnx.Module, handed: Array, endpoint: str) -> Float[Array, "b d"]:
    """The pooled features of what `run_until` returned."""
    done = ENDPOINTS.index(endpoint)
    if isinstance(backbone, ViT):
        return backbone.pool(_run_blocks(backbone, handed, done, QUARTERS))
    x = handed
    for blocks in list(backbone.stages)[done:]:
        for block in blocks:
            x = block(x, train=False)
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)


@dataclass(frozen=True)
class Placement:
    """Where the units of a map lie: the centre of unit i is on pixel `first + step * i` of a view, along each side.

    Attributes:
      side: of the view, in pixels.
    """

    first: float
    step: float
    side: int

    def find_units(self, count: int) -> tuple[Float[np.ndarray, " count"], float]:
        """The places of `count` pixels that share the side of the view evenly, in units, and how far apart they are."""
        pixels = (np.arange(count) + 0.5) / count * self.side - 0.5
        return (pixels - self.first) / self.step, self.side / count / self.step


def find_placement(backbone: nnx.Module, endpoint: str, side: int) -> Placement:
    """Where the units of the map at an endpoint lie.

    A window of k places with a stride and a padding moves the first centre by (k - 1) / 2 - padding (Araujo et al.,
    Distill 2019, "Computing Receptive Fields of Convolutional Neural Networks"). The padding of a ResNet here and in
    torchvision is half the window, so its first units are centred on pixel 0, and not on the middle of what they stand
    for. A patch of a ViT is centred on its middle.
    """
    if isinstance(backbone, ViT):
        return Placement((backbone.patch - 1) / 2, backbone.patch, side)
    first, step = 0.0, 1
    for size, stride, padding in _list_windows(backbone, ENDPOINTS.index(endpoint)):
        first += step * ((size - 1) / 2 - padding)
        step *= stride
    return Placement(first, step, side)


def _list_windows(backbone: ResNet, stages: int) -> Iterator[tuple[int, int, int]]:
    """Size, stride and padding of all windows on the way through the first stages; a dilated window has the size from
    its first to its last place.
    """
    blocks = [block for stage in list(backbone.stages)[:stages] for block in stage]
    yield _read_window(backbone.stem_convolution)
    if backbone.stem == "standard":
        yield POOLING
    for block in blocks:
        yield from map(_read_window, block.convolutions)


def _read_window(convolution: nnx.Conv) -> tuple[int, int, int]:
    parts = convolution.kernel_size, convolution.strides, convolution.padding, convolution.kernel_dilation
    size, stride, padding, dilation = (int(part if isinstance(part, int) else part[0]) for part in parts)
    return dilation * (size - 1) + 1, stride, padding


def as_map(backbone: nnx.Module, handed: Array, shape: tuple[int, ...]) -> Float[Array, "b h w k"]:
    """What `run_until` returned, or a gradient of its shape, as float32 maps; the class token is left out.

    Args:
      shape: of the views, [B, H, W, C].
    """
    if isinstance(backbone, ViT):
        handed = handed[:, 1:].reshape(shape[0], shape[1] // backbone.patch, shape[2] // backbone.patch, -1)
    return handed.astype(jnp.float32)


def list_attentions(backbone: ViT, x: Float[Array, "b h w c"]) -> list[Float[Array, "b heads n n"]]:
    """The attention of each block of a ViT, each row sums to 1; the class token comes first."""
    tokens, found = _first_tokens(backbone, x), []
    for block in backbone.blocks:
        normed = block.norms[0](tokens)
        qkv = block.qkv(normed).reshape(*tokens.shape[:2], 3, block.heads, -1).astype(jnp.float32)
        query, key = qkv[:, :, 0], qkv[:, :, 1]
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(query.shape[-1])
        found.append(jax.nn.softmax(scores, axis=-1))
        tokens = block(tokens)
    return found


def replace_part(backbone: nnx.Module, part: str, other: nnx.Module) -> None:
    """Gives a backbone the layers of another one of the same model: 'stem', or the layers of one stage."""
    number = ENDPOINTS.index(part)
    if isinstance(backbone, ResNet):
        if number:
            backbone.stages[number - 1] = other.stages[number - 1]
        else:
            backbone.stem_convolution, backbone.stem_norm = other.stem_convolution, other.stem_norm
        return
    if not number:
        backbone.embedding, backbone.class_token = other.embedding, other.class_token
    else:
        for i in _blocks_between(backbone, number - 1, number):
            backbone.blocks[i] = other.blocks[i]
    if number == QUARTERS:
        backbone.norm = other.norm


def _first_tokens(backbone: ViT, x: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
    tokens = backbone.tokens(x)
    first = backbone.class_token[...].astype(tokens.dtype)
    return jnp.concatenate([jnp.broadcast_to(first, (tokens.shape[0], 1, backbone.features)), tokens], axis=1)


def _run_blocks(backbone: ViT, tokens: Float[Array, "b n d"], done: int, until: int) -> Float[Array, "b n d"]:
    """The tokens after the quarters `done` to `until` of the blocks; after the last one they are normalised."""
    for i in _blocks_between(backbone, done, until):
        tokens = backbone.blocks[i](tokens)
    return backbone.norm(tokens) if done < until == QUARTERS else tokens


def _blocks_between(backbone: ViT, done: int, until: int) -> range:
    count = len(backbone.blocks)
    return range(count * done // QUARTERS, count * until // QUARTERS)
