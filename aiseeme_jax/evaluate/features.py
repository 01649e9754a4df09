"""Frozen features of a whole split, in its order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from aiseeme_jax import augment, data


def extract(
    backbone: nnx.Module,
    split: data.Split,
    *,
    views: augment.AnyViews,
    batch_size: int,
    endpoint: str = "pooled",
) -> Float[np.ndarray, "n d"]:
    """Features of each image's central view, float32 [N, D]; a map is averaged over its positions.

    The backbone runs in evaluation mode: nothing in it changes, and neither the batch size nor the padding of the last
    batch matters to a row. ValueError names the endpoints if there is none called `endpoint`.
    """
    batches = data.evaluation_batches(split, batch_size)
    # Fetched at the end only: the host reads the next batch while the devices work.
    rows = [_features(backbone, batch["image"], views, endpoint) for batch in batches]
    return np.concatenate(jax.device_get(rows))[: len(split)]


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
