"""Compares networks on the same images: CKA of all their layers, and the features that other measures need."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from aiseeme_jax import augment, data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import features
from aiseeme_jax.evidence.layers import FEWEST, LayerCka

# The network and the layer of what is not a network: the pixels of the views.
PIXELS = "raw pixels"
# The first and the last endpoint of a backbone; the stages lie between, in the order of their names.
STEM, POOLED = "stem", features.DEFAULT_ENDPOINT


@dataclass(frozen=True, order=True)
class Layer:
    """A layer of a network; of raw pixels both names are PIXELS."""

    network: str
    endpoint: str


@dataclass(frozen=True)
class Compared:
    """What networks make of the same images.

    Attributes:
      layers: of all networks in their order; raw pixels last.
      cka: unbiased linear CKA of all pairs of layers, whose maps are flattened.
      features: of each layer; a map is averaged over its positions, pixels are flattened.
      images: how many there were.
    """

    layers: tuple[Layer, ...]
    cka: Float[np.ndarray, "layers layers"]
    features: Mapping[Layer, Float[np.ndarray, "n d"]]
    images: int

    @property
    def networks(self) -> list[str]:
        return list(dict.fromkeys(layer.network for layer in self.layers))

    def endpoints(self) -> list[str]:
        """The layers that networks have, in their order, without raw pixels."""
        return list(dict.fromkeys(layer.endpoint for layer in self.layers if layer.network != PIXELS))

    def at(self, endpoint: str) -> list[Layer]:
        """The layers with a name, one of each network that has it, and raw pixels."""
        return [layer for layer in self.layers if layer.endpoint == endpoint or layer.network == PIXELS]

    def of(self, network: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.network == network]

    def cka_between(self, rows: list[Layer], columns: list[Layer]) -> Float[np.ndarray, "rows columns"]:
        places = {layer: place for place, layer in enumerate(self.layers)}
        return self.cka[np.ix_([places[layer] for layer in rows], [places[layer] for layer in columns])]


def compare_networks(
    networks: Mapping[str, nnx.Module], split: data.Split, *, views: augment.AnyViews, batch_size: int
) -> Compared:
    """Runs networks in evaluation mode over the same images, batch by batch.

    Args:
      networks: by their names.
      split: batches of one size are taken of it, at most `batch_size`; the few images that are left over are not used.

    Raises UserError if there are too few images.
    """
    size = _choose_batch(len(split), batch_size)
    split = split.subset(np.arange(len(split) // size * size))
    found, kept, layers = LayerCka(), {}, ()
    for batch in data.evaluation_batches(split, size):
        made = {
            Layer(name, endpoint): rows
            for name, network in networks.items()
            for endpoint, rows in _run_in_order(network, batch["image"], views).items()
        }
        made[Layer(PIXELS, PIXELS)] = augment.central_view(batch["image"], views).reshape(size, -1)
        found.add(list(made.values()))
        layers = tuple(made)
        for layer, rows in made.items():
            kept.setdefault(layer, []).append(np.asarray(_average(rows)))
    return Compared(layers, found.values(), {layer: np.concatenate(parts) for layer, parts in kept.items()}, len(split))


def align_views(
    network: nnx.Module, split: data.Split, *, views: augment.AnyViews, batch_size: int, seed: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """Pooled features of two random views of each image, for `geometry.alignment`."""
    sides = []
    for side in (0, 1):
        key = jax.random.fold_in(jax.random.key(seed), side)
        batches = (
            _pool_random(network, jax.random.fold_in(key, step), batch["image"], views)
            for step, batch in enumerate(data.evaluation_batches(split, batch_size))
        )
        sides.append(features.fetch_rows(batches, len(split)))
    return sides[0], sides[1]


def _choose_batch(images: int, largest: int) -> int:
    """The size of batches, a multiple of the devices, that leaves the fewest images over."""
    devices = jax.device_count()
    size = images // -(-images // largest) // devices * devices if images else 0
    if size < FEWEST:
        least = -(-FEWEST // devices) * devices
        raise UserError(f"there are {images} images in batches of {largest}: CKA needs at least {least} of them")
    return size


def _run_in_order(
    network: nnx.Module, images: Shaped[Array, "b *space c"], views: augment.AnyViews
) -> dict[str, Float[Array, "b ..."]]:
    """What the layers make of images, in the order in which they are computed: a compiled function sorts names."""
    found = _run(network, images, views)
    return {name: found[name] for name in sorted(found, key=lambda name: (name == POOLED, name != STEM, name))}


@partial(nnx.jit, static_argnames="views")
def _run(
    network: nnx.Module, images: Shaped[Array, "b *space c"], views: augment.AnyViews
) -> dict[str, Float[Array, "b ..."]]:
    found = network(augment.central_view(images, views), train=False)
    return {name: features.on_every_device(rows.astype(jnp.float32)) for name, rows in found.items()}


@partial(nnx.jit, static_argnames="views")
def _pool_random(
    network: nnx.Module, key: Array, images: Shaped[Array, "b *space c"], views: augment.AnyViews
) -> Float[Array, "b d"]:
    found = network(augment.random_view(key, images, views), train=False)
    return features.on_every_device(found[features.DEFAULT_ENDPOINT].astype(jnp.float32))


def _average(rows: Float[Array, "b ..."]) -> Float[Array, "b d"]:
    return rows.mean(axis=tuple(range(1, rows.ndim - 1))) if rows.ndim > 2 else rows


def flatten_layers(
    network: nnx.Module, split: data.Split, *, views: augment.AnyViews, batch_size: int
) -> dict[str, Float[np.ndarray, "n d"]]:
    """What every layer of a network makes of each image, in evaluation mode; maps are flattened."""
    kept: dict[str, list[np.ndarray]] = {}
    for batch in data.evaluation_batches(split, batch_size):
        for endpoint, rows in _run_in_order(network, batch["image"], views).items():
            kept.setdefault(endpoint, []).append(np.asarray(rows.reshape(len(rows), -1)))
    return {endpoint: np.concatenate(parts)[: len(split)] for endpoint, parts in kept.items()}
