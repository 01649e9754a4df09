"""From the maps of a backbone to the Fisher vector of an image: descriptors, their projection, the encoding."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from aiseeme_jax import augment, data
from aiseeme_jax.evaluate.features import fetch_rows, on_every_device
from aiseeme_jax.losses.arrays import matmul, normalise
from aiseeme_jax.systems.fisher_vector.mixture import Mixture, posteriors

# Principal components with a smaller share of the largest variance are rounding errors in float32.
SMALLEST_VARIANCE = 1e-6


class Projection(NamedTuple):
    """Whitened principal components: (x - mean) axes.

    Attributes:
      mean: of the descriptors.
      axes: each divided by the standard deviation along it.
    """

    mean: Float[Array, " k"]
    axes: Float[Array, "k d"]


class Encoder(NamedTuple):
    """What makes a Fisher vector of a map.

    Attributes:
      projection: of the descriptors.
      mixture: of the projected descriptors.
      weights: c_l >= 0, how much component l models the foreground; their mean is 1. All are 1 unless they were learnt.
    """

    projection: Projection
    mixture: Mixture
    weights: Float[Array, " l"]


def fit_projection(descriptors: Float[np.ndarray, "n k"], dimensions: int) -> Projection:
    """The first `dimensions` whitened principal components, or fewer if the rest has no variance."""
    rows = np.asarray(descriptors, np.float64)
    mean = rows.mean(axis=0)
    variances, axes = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    variances, axes = variances[::-1][:dimensions], axes[:, ::-1][:, :dimensions]
    there = variances > SMALLEST_VARIANCE * max(variances[0], np.finfo(np.float32).tiny)
    scaled = axes[:, there] / np.sqrt(variances[there])
    return Projection(jnp.asarray(mean, jnp.float32), jnp.asarray(scaled, jnp.float32))


def project(projection: Projection, descriptors: Float[Array, "*n k"]) -> Float[Array, "*n d"]:
    """The projected descriptors."""
    flat = descriptors.reshape(-1, descriptors.shape[-1]).astype(jnp.float32)
    return matmul(flat - projection.mean, projection.axes).reshape(*descriptors.shape[:-1], -1)


def fisher_gradients(mixture: Mixture, x: Float[Array, "t d"]) -> Float[Array, "l 2 d"]:
    """G_mu and G_sigma of each component, for the T descriptors of an image (Sánchez et al., IJCV 2013, eq. 17, 18).

    G_mu = sum_t g (x_t - mu) / sigma / (T sqrt(w)), G_sigma = sum_t g ((x_t - mu)^2 / sigma^2 - 1) / (T sqrt(2 w)).
    """
    shares = posteriors(mixture, x)
    counts, sums, squares = jnp.sum(shares, axis=0)[:, None], matmul(shares.T, x), matmul(shares.T, jnp.square(x))
    means, variances = mixture.means, mixture.variances
    of_means = (sums - counts * means) / jnp.sqrt(variances)
    of_spreads = (squares - 2 * means * sums + counts * jnp.square(means)) / variances - counts
    scale = len(x) * jnp.sqrt(mixture.weights)[:, None]
    return jnp.stack([of_means / scale, of_spreads / (jnp.sqrt(2) * scale)], axis=1)


def weigh(gradients: Float[Array, "*n l two d"], weights: Float[Array, " l"]) -> Float[Array, "*n l two d"]:
    """c_l G_l: one number for both parts of each component."""
    return gradients * weights[:, None, None]


def make_vectors(gradients: Float[Array, "n l two d"], *, improved: bool) -> Float[Array, "n v"]:
    """The vectors of images, V = 2 L D numbers each.

    Args:
      improved: takes the signed square root and scales to length 1 (Perronnin et al., ECCV 2010, sections 3.1, 3.2).
    """
    vectors = gradients.reshape(len(gradients), -1)
    if not improved:
        return vectors
    # The gradient of a root has no bound at 0, where it says nothing.
    size = jnp.abs(vectors)
    roots = jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1)), 0)
    return normalise(jnp.sign(vectors) * roots)


def find_foreground(encoder: Encoder, maps: Float[Array, "b *space k"]) -> Float[Array, "b *space"]:
    """mg(x) = sum_l c_l g_l(x): how much each place belongs to the foreground."""
    descriptors = project(encoder.projection, maps)
    flat = descriptors.reshape(-1, descriptors.shape[-1])
    return (posteriors(encoder.mixture, flat) @ encoder.weights).reshape(maps.shape[:-1])


def draw_descriptors(
    backbone: nnx.Module,
    split: data.Split,
    *,
    views: augment.AnyViews,
    endpoint: str,
    each: int,
    key: PRNGKeyArray,
    batch_size: int,
) -> Float[np.ndarray, "n k"]:
    """Descriptors at random places of each image, `each` of them, or all if a map has fewer; image-major.

    Which places are drawn depends on the key and on the place of the image in the split alone.
    """

    def draw(images: Shaped[Array, "b *space c"], rows: Array) -> Float[Array, "b e k"]:
        return _draw(backbone, images, rows, views, endpoint, each, key)

    found = _over_batches(draw, split, batch_size)
    return found.reshape(-1, found.shape[-1])


def encode(
    backbone: nnx.Module,
    encoder: Encoder,
    split: data.Split,
    *,
    views: augment.AnyViews,
    endpoint: str,
    batch_size: int,
) -> Float[np.ndarray, "n l 2 d"]:
    """`fisher_gradients` of each image's central view, without the weights of the encoder."""

    def gradients(images: Shaped[Array, "b *space c"], rows: Array) -> Float[Array, "b l 2 d"]:
        return _encode(backbone, encoder, images, views, endpoint)

    return _over_batches(gradients, split, batch_size)


def _over_batches(make: Callable[[Array, Array], Array], split: data.Split, batch_size: int) -> np.ndarray:
    def batches() -> Iterator[Array]:
        for batch in data.evaluation_batches(split, batch_size):
            yield make(batch["image"], batch["index"])

    return fetch_rows(batches(), len(split))


def describe_places(
    backbone: nnx.Module, images: Shaped[Array, "b *space c"], views: augment.AnyViews, endpoint: str
) -> Float[Array, "b t k"]:
    """The map at an endpoint of the central views, one descriptor for each place.

    Raises ValueError if there is no map called `endpoint`.
    """
    endpoints: Mapping[str, Array] = backbone(augment.central_view(images, views), train=False)
    if endpoint not in endpoints or endpoints[endpoint].ndim < 3:
        maps = ", ".join(name for name, value in endpoints.items() if value.ndim > 2)
        raise ValueError(f"the backbone has no map at '{endpoint}': there are {maps}")
    return flatten_places(endpoints[endpoint])


def flatten_places(maps: Float[Array, "b *space k"]) -> Float[Array, "b t k"]:
    """The descriptors of maps, one for each place."""
    return maps.reshape(len(maps), -1, maps.shape[-1]).astype(jnp.float32)


@functools.partial(nnx.jit, static_argnames=("views", "endpoint", "each"))
def _draw(
    backbone: nnx.Module,
    images: Shaped[Array, "b *space c"],
    rows: Array,
    views: augment.AnyViews,
    endpoint: str,
    each: int,
    key: PRNGKeyArray,
) -> Float[Array, "b e k"]:
    found = describe_places(backbone, images, views, endpoint)

    def choose(places: Float[Array, "t k"], row: Array) -> Float[Array, "e k"]:
        order = jax.random.permutation(jax.random.fold_in(key, row), len(places))
        return places[order[:each]]

    return on_every_device(jax.vmap(choose)(found, rows))


@functools.partial(nnx.jit, static_argnames=("views", "endpoint"))
def _encode(
    backbone: nnx.Module, encoder: Encoder, images: Shaped[Array, "b *space c"], views: augment.AnyViews, endpoint: str
) -> Float[Array, "b l 2 d"]:
    descriptors = project(encoder.projection, describe_places(backbone, images, views, endpoint))
    return on_every_device(jax.vmap(lambda x: fisher_gradients(encoder.mixture, x))(descriptors))
