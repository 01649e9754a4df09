"""Frozen features of a whole split, in its order."""

from collections.abc import Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from aiseeme_jax import augment, data

# Batches that the host may be ahead of the devices. Each holds its images in device memory.
QUEUED_BATCHES = 2
# The endpoint of a backbone that is measured unless a target names another one.
DEFAULT_ENDPOINT = "pooled"


def extract(
    backbone: nnx.Module,
    split: data.Split,
    *,
    views: augment.AnyViews,
    batch_size: int,
    endpoint: str = DEFAULT_ENDPOINT,
) -> Float[np.ndarray, "n d"]:
    """Features of each image's central view, float32 [N, D]; a map is averaged over its positions.

    The backbone runs in evaluation mode: nothing in it changes, and a row depends neither on the batch size nor on the
    padding of the last batch.

    Raises ValueError that names the endpoints if there is none called `endpoint`.
    """
    batches = data.evaluation_batches(split, batch_size)
    return extract_from_batches(backbone, batches, len(split), views=views, endpoint=endpoint)


def extract_from_batches(
    backbone: nnx.Module,
    batches: Iterable[Mapping[str, Array]],
    images: int,
    *,
    views: augment.AnyViews,
    endpoint: str = DEFAULT_ENDPOINT,
) -> Float[np.ndarray, "n d"]:
    """`extract` for the first `images` images of batches."""
    return fetch_rows((_features(backbone, batch["image"], views, endpoint) for batch in batches), images)


def fetch_rows(batches: Iterable[Float[Array, "b d"]], rows: int) -> Float[np.ndarray, "n d"]:
    """The first `rows` rows of results that the devices compute batch by batch.

    Results are fetched at the end only, so that the host reads the next batches while the devices work. But the host
    waits where it is too far ahead.
    """
    queued: list[Array] = []
    for batch in batches:
        queued.append(batch)
        if len(queued) > QUEUED_BATCHES:
            queued[-1 - QUEUED_BATCHES].block_until_ready()
    return np.concatenate(jax.device_get(queued))[:rows]


def on_every_device(x: Array) -> Array:
    """Makes a result of a jitted function whole on each device, so that every process can read it."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(data.data_mesh(), PartitionSpec()))


@partial(nnx.jit, static_argnames=("views", "endpoint"))
def _features(
    backbone: nnx.Module, images: Shaped[Array, "b *space c"], views: augment.AnyViews, endpoint: str
) -> Float[Array, "b d"]:
    endpoints = backbone(augment.central_view(images, views), train=False)
    if endpoint not in endpoints:
        raise ValueError(f"the backbone has no endpoint '{endpoint}': there are {', '.join(endpoints)}")
    features = endpoints[endpoint].astype(jnp.float32)
    if features.ndim > 2:
        features = features.mean(axis=tuple(range(1, features.ndim - 1)))
    return on_every_device(features)
