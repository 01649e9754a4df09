"""Maps of where a network looks, one function a method, and the table `METHODS`.

Every map is at least 0 and as coarse as the layer that it is taken from. `enlarge` brings it to the size of an image.
A is the activation [B, h, w, K] at an endpoint, y the logit that is explained (not the probability: its gradient
vanishes where the network is sure, and it mixes the classes), g = dy/dA. BatchNorm is in evaluation mode.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.augment.blur import gaussian_blur
from aiseeme_jax.models import ViT, halves
from aiseeme_jax.models.halves import Placement, as_map, list_attentions, run_after, run_until

Activations = Float[Array, "b h w k"]
Maps = Float[Array, "b h w"]
Images = Float[Array, "b h w c"]

# Patches of occlusion along a side of the image. They overlap by half.
PATCHES = 8


def cam(activations: Activations, weights: Float[Array, "b k"]) -> Maps:
    """sum_k W_k A_k (Zhou et al., arXiv 1512.04150), for a linear head on the mean of A; may be negative.

    Args:
      weights: of the explained class of each image.
    """
    return jnp.einsum("bhwk,bk->bhw", activations, weights)


def grad_cam(activations: Activations, gradients: Activations) -> Maps:
    """relu(sum_k a_k A_k), a_k the mean of g over the places (Selvaraju et al., arXiv 1610.02391)."""
    return jax.nn.relu(cam(activations, gradients.mean(axis=(1, 2))))


def grad_cam_plus_plus(activations: Activations, gradients: Activations) -> Maps:
    """relu(sum_k w_k A_k), w_k = sum_ij alpha relu(g) (Chattopadhay et al., arXiv 1710.11063).

    alpha = g^2 / (2 g^2 + (sum_ab A) g^3), and 0 where g is 0. It is derived for exp(y), and for activations that are
    at least 0, so A is taken after a ReLU.
    """
    total = activations.sum(axis=(1, 2), keepdims=True)
    # g^2 is cancelled, or it underflows for small gradients.
    below = 2 + total * gradients
    usable = (gradients != 0) & (below != 0)
    alpha = jnp.where(usable, 1 / jnp.where(usable, below, 1), 0)
    return jax.nn.relu(cam(activations, (alpha * jax.nn.relu(gradients)).sum(axis=(1, 2))))


def eigen_cam(activations: Activations) -> Maps:
    """relu(A v), v the first right singular vector of A as places x channels (Muhammad & Yeasin, arXiv 2008.00299).

    The columns are not centred. The sign of v is arbitrary. A map of one sign becomes positive (it has one if A is at
    least 0), and otherwise the map is positively correlated with the mean activation.
    """
    batch, height, width, channels = activations.shape
    flat = activations.reshape(batch, height * width, channels)
    _, _, right = jnp.linalg.svd(flat, full_matrices=False)
    found = jnp.einsum("bnk,bk->bn", flat, right[:, 0])
    mean = flat.mean(axis=2)
    centred = [x - x.mean(axis=1, keepdims=True) for x in (found, mean)]
    agreement = (centred[0] * centred[1]).sum(axis=1)
    # Rounding may leave a place of a map of one sign a little on the other side.
    tolerance = 1e-5 * jnp.abs(found).max(axis=1)
    one_sign = (found.min(axis=1) >= -tolerance) | (found.max(axis=1) <= tolerance)
    sign = jnp.where(one_sign, found.sum(axis=1), agreement)
    return jax.nn.relu(jnp.where(sign[:, None] < 0, -found, found)).reshape(batch, height, width)


def roll_out(attentions: list[Float[Array, "b heads n n"]]) -> Float[Array, "b n"]:
    """Attention that reaches each patch (Abnar & Zuidema, arXiv 2005.00928); the class token comes first and is left
    out.

    The product over the layers of (mean over the heads + identity) / 2, with rows that sum to 1. The rows of the
    patches are averaged, since the backbones here average the patches.
    """
    identity = jnp.eye(attentions[0].shape[-1])
    product = identity
    for one in attentions:
        layer = (one.mean(axis=1) + identity) / 2
        product = (layer / layer.sum(axis=-1, keepdims=True)) @ product
    return product[:, 1:, 1:].mean(axis=1)


def occlude(score: Callable[[Images], Float[Array, " b"]], views: Images, filling: Images) -> Maps:
    """score(x) - score(x with a patch replaced), averaged over the patches that cover a pixel; may be negative.

    After Zeiler & Fergus, arXiv 1311.2901. The side of a patch is an eighth of the image's, the stride half of that.

    Args:
      score: of each view, [B, H, W, C] -> [B].
      filling: what a patch is replaced with, of the shape of `views`.
    """
    _, height, width, _ = views.shape
    corners = jnp.array([(y, x) for y in _starts(height) for x in _starts(width)])
    sides = _patch(height), _patch(width)
    whole = score(views)

    def add_patch(sums: tuple[Array, Array], corner: Array) -> tuple[tuple[Array, Array], None]:
        covered = _cover(height, corner[0], sides[0])[:, None] * _cover(width, corner[1], sides[1])
        drop = whole - score(jnp.where(covered[..., None] > 0, filling, views))
        return (sums[0] + drop[:, None, None] * covered, sums[1] + covered), None

    start = jnp.zeros(views.shape[:3]), jnp.zeros((height, width))
    (drops, counts), _ = jax.lax.scan(add_patch, start, corners)
    return drops / counts


def enlarge(maps: Maps, shape: tuple[int, int], placement: Placement) -> Maps:
    """Maps at the size of an image [H, W]: linear between the centres of units, constant beyond the outer ones.

    If pixels are farther apart than units, those in between are averaged by a triangle.
    """
    rows, columns = (_weigh(count, side, placement) for count, side in zip(shape, maps.shape[1:], strict=True))
    return jnp.einsum("yh,bhw,xw->byx", rows, maps, columns, precision="highest")


def _weigh(count: int, units: int, placement: Placement) -> Float[np.ndarray, "count units"]:
    """What each unit counts at each of `count` pixels."""
    places, distance = placement.find_units(count)
    apart = np.abs(np.clip(places, 0, units - 1)[:, None] - np.arange(units))
    weights = np.maximum(0, 1 - apart / max(1.0, distance))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def find_placement(method: str, backbone: nnx.Module, endpoint: str, side: int) -> Placement:
    """Where the units of a method's map lie in a view with `side` pixels."""
    if METHODS[method].of_pixels:
        return Placement(0, 1, side)
    return halves.find_placement(backbone, endpoint, side)


@dataclass(frozen=True)
class Method:
    """A method of the table.

    Attributes:
      draw: (backbone, head, views, wanted, endpoint) -> maps.
      needs_class: it explains a logit, so it needs a classifier and labels.
      needs_encoder: its head is a network of Fisher vectors whose foreground weights were learnt.
      of_layer: its map is that of an endpoint; others are maps of the whole network.
      of_pixels: its map has a value for each pixel of the view.
      takes: whether it can be used with a backbone.
      why_not: says why not.
    """

    draw: Callable[..., Maps]
    needs_class: bool
    needs_encoder: bool = False
    of_layer: bool = True
    of_pixels: bool = False
    takes: Callable[[nnx.Module], bool] = lambda backbone: True
    why_not: str = ""

    @property
    def needs_head(self) -> bool:
        """Whether it needs more than a backbone."""
        return self.needs_class or self.needs_encoder


def _draw_eigen_cam(backbone: nnx.Module, head: None, views: Images, wanted: None, endpoint: str) -> Maps:
    return eigen_cam(as_map(backbone, run_until(backbone, views, endpoint), views.shape))


def _draw_roll_out(backbone: nnx.Module, head: None, views: Images, wanted: None, endpoint: str) -> Maps:
    space = [side // backbone.patch for side in views.shape[1:3]]
    return roll_out(list_attentions(backbone, views)).reshape(-1, *space)


def _draw_from_gradient(
    backbone: nnx.Module, head: nnx.Module, views: Images, wanted: Array, endpoint: str, *, combine: Callable[..., Maps]
) -> Maps:
    handed = run_until(backbone, views, endpoint)

    # In evaluation mode, images do not depend on each other: the gradient of the sum has that of each.
    def explained(handed: Array) -> Array:
        return (head(run_after(backbone, handed, endpoint)) * wanted).sum()

    gradient = jax.grad(explained)(handed)
    return combine(*(as_map(backbone, x, views.shape) for x in (handed, gradient)))


def _draw_occlusion(
    backbone: nnx.Module, head: nnx.Module, views: Images, wanted: Array, endpoint: str, *, fill: Callable
) -> Maps:
    def score(x: Images) -> Array:
        return (head(backbone(x, train=False)["pooled"].astype(jnp.float32)) * wanted).sum(axis=1)

    return jax.nn.relu(occlude(score, views, fill(views)))


def _draw_foreground(backbone: nnx.Module, head: nnx.Module, views: Images, wanted: None, endpoint: str) -> Maps:
    return head.find_foreground(views)


def _blur(views: Images) -> Images:
    """Blurs by a Gaussian with the side of a patch of occlusion as its standard deviation."""
    return jax.vmap(lambda view: gaussian_blur(view, float(_patch(view.shape[0]))))(views)


def _is_vit(backbone: nnx.Module) -> bool:
    return isinstance(backbone, ViT)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "eigen_cam": Method(_draw_eigen_cam, needs_class=False),
        "rollout": Method(
            _draw_roll_out, needs_class=False, of_layer=False, takes=_is_vit, why_not="it needs the attention of a ViT"
        ),
        "grad_cam": Method(functools.partial(_draw_from_gradient, combine=grad_cam), needs_class=True),
        "grad_cam++": Method(
            functools.partial(_draw_from_gradient, combine=grad_cam_plus_plus),
            needs_class=True,
            takes=lambda backbone: not _is_vit(backbone),
            why_not="it needs activations of at least 0, and those of a ViT are not",
        ),
        # Views are normalised by the mean of the data: 0 is that mean.
        "occlusion_mean": Method(
            functools.partial(_draw_occlusion, fill=jnp.zeros_like), needs_class=True, of_layer=False, of_pixels=True
        ),
        "occlusion_blur": Method(
            functools.partial(_draw_occlusion, fill=_blur), needs_class=True, of_layer=False, of_pixels=True
        ),
        # The membership in the foreground of Fisher vectors (docs/systems.md), at the endpoint that these encode.
        "fisher_foreground": Method(_draw_foreground, needs_class=False, needs_encoder=True, of_layer=False),
    }
)


@functools.partial(nnx.jit, static_argnames=("method", "endpoint"))
def draw_maps(
    method: str,
    backbone: nnx.Module,
    head: nnx.Module | None,
    views: Images,
    wanted: Float[Array, "b k"] | None,
    endpoint: str,
) -> Maps:
    """Maps of a batch, float32, at least 0.

    Args:
      method: name in `METHODS`, one that takes the backbone.
      head: maps pooled features to logits, or is a network of Fisher vectors; None for a method that needs no head.
      views: normalised.
      wanted: 1 for the explained class, 0 for others. Of several findings, their logits are added. None as for `head`.
      endpoint: the layer; methods of the whole network ignore it.
    """
    return METHODS[method].draw(backbone, head, views, wanted, endpoint)


def _patch(side: int) -> int:
    return max(1, round(side / PATCHES))


def _starts(side: int) -> list[int]:
    """Where patches begin: half a patch apart, the last one at the border."""
    patch = _patch(side)
    return sorted({*range(0, side - patch, max(1, patch // 2)), side - patch})


def _cover(side: int, start: Array, length: int) -> Float[Array, " side"]:
    place = jnp.arange(side)
    return ((place >= start) & (place < start + length)).astype(jnp.float32)
