"""Whitening and k-means on the devices, for labels that are made of features.

Everything runs under `jit` on arrays that are whole on each device, so that all processes compute the same labels.
The same features must always give the same labels. So sums over the members of a cluster are matrix products: the order
of scattered additions is not fixed on accelerators.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax.losses.arrays import matmul

# Rows compared with all centroids at a time.
CHUNK = 4096
# Components with a smaller share of the largest variance are rounding errors in float32.
SMALLEST_VARIANCE = 1e-6


class Clusters(NamedTuple):
    """The cluster of each row; centroids and sizes (whole numbers, of a float type) of the clusters."""

    labels: Int[Array, "n"]
    centroids: Float[Array, "k d"]
    counts: Float[Array, "k"]


def whitened(rows: Float[Array, "n d"], dimensions: int) -> Float[Array, "n p"]:
    """Principal components, the largest first, each divided by its standard deviation (of n, not n - 1).

    There are p = min(dimensions, d, n - 1) of them. Components without variance are 0.
    """
    rows = rows.astype(jnp.float32)
    count = min(dimensions, rows.shape[1], rows.shape[0] - 1)
    centred = rows - jnp.mean(rows, axis=0)
    variances, axes = jnp.linalg.eigh(matmul(centred.T, centred) / rows.shape[0])
    variances, axes = variances[::-1][:count], axes[:, ::-1][:, :count]
    present = variances > SMALLEST_VARIANCE * variances[0]
    scale = jnp.where(present, jax.lax.rsqrt(jnp.where(present, variances, 1)), 0)
    return matmul(centred, axes * scale)


def kmeans(key: PRNGKeyArray, rows: Float[Array, "n d"], clusters: int, *, iterations: int) -> Clusters:
    """Lloyd's algorithm from centroids drawn by k-means++ (Arthur & Vassilvitskii, SODA 2007, section 2.2).

    It ends after `iterations`, or when no row changes its cluster. A cluster that loses all its rows starts again
    at the row farthest from its centroid, a second one at the second farthest. If there are fewer different rows than
    clusters, some stay empty. `clusters` is at most n.
    """
    rows = rows.astype(jnp.float32)
    parts, valid = _chunks(rows)

    def unfinished(state):
        iteration, _, _, moved = state
        return (iteration < iterations) & moved

    def iterate(state):
        iteration, centroids, before, _ = state
        labels, distances, sums, counts = _assign(parts, valid, centroids)
        centroids = _centroids(rows, distances, sums, counts)
        return iteration + 1, centroids, labels, jnp.any(labels != before) | jnp.any(counts == 0)

    nowhere = jnp.full(valid.size, -1, jnp.int32)
    start = (jnp.zeros((), jnp.int32), _seeds(key, rows, clusters), nowhere, jnp.ones((), bool))
    _, centroids, _, _ = jax.lax.while_loop(unfinished, iterate, start)
    labels, _, _, counts = _assign(parts, valid, centroids)
    return Clusters(labels[: len(rows)], centroids, counts)


def _seeds(key: PRNGKeyArray, rows: Float[Array, "n d"], clusters: int) -> Float[Array, "k d"]:
    """Rows drawn one after the other, each with probability as its squared distance from the nearest one before."""

    def distance(centroid):
        return jnp.sum(jnp.square(rows - centroid), axis=1)

    def draw(i, state):
        centroids, nearest = state
        centroid = rows[jax.random.categorical(jax.random.fold_in(key, i), jnp.log(nearest))]
        return centroids.at[i].set(centroid), jnp.minimum(nearest, distance(centroid))

    first = rows[jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(rows))]
    centroids = jnp.zeros((clusters, rows.shape[1])).at[0].set(first)
    return jax.lax.fori_loop(1, clusters, draw, (centroids, distance(first)))[0]


def _chunks(rows: Float[Array, "n d"]) -> tuple[Float[Array, "m c d"], Bool[Array, "m c"]]:
    """The rows in chunks, the last one filled up with rows that are not valid."""
    size = min(CHUNK, len(rows))
    padding = -len(rows) % size
    parts = jnp.pad(rows, ((0, padding), (0, 0))).reshape(-1, size, rows.shape[1])
    return parts, (jnp.arange(len(rows) + padding) < len(rows)).reshape(-1, size)


def _assign(parts: Float[Array, "m c d"], valid: Bool[Array, "m c"], centroids: Float[Array, "k d"]):
    """Nearest centroid of each row [m c] and the squared distance to it (-1 where not valid); sums and counts of the
    members of each cluster.
    """
    half = jnp.sum(jnp.square(centroids), axis=1) / 2

    def chunk(totals, part):
        rows, valid = part
        nearness = matmul(rows, centroids.T) - half
        labels = jnp.argmax(nearness, axis=1).astype(jnp.int32)
        distances = jnp.maximum(jnp.sum(jnp.square(rows), axis=1) - 2 * jnp.max(nearness, axis=1), 0)
        members = jax.nn.one_hot(labels, len(centroids)) * valid[:, None]
        sums, counts = totals
        found = (labels, jnp.where(valid, distances, -1))
        return (sums + matmul(members.T, rows), counts + jnp.sum(members, axis=0)), found

    nothing = (jnp.zeros_like(centroids), jnp.zeros(len(centroids)))
    (sums, counts), (labels, distances) = jax.lax.scan(chunk, nothing, (parts, valid))
    return labels.reshape(-1), distances.reshape(-1), sums, counts


def _centroids(
    rows: Float[Array, "n d"], distances: Float[Array, "m"], sums: Float[Array, "k d"], counts: Float[Array, "k"]
) -> Float[Array, "k d"]:
    """Means of the members; of empty clusters, the rows farthest from their centroids."""
    empty = counts == 0
    _, farthest = jax.lax.top_k(distances, len(counts))
    refill = rows[farthest[jnp.cumsum(empty) - 1]]
    return jnp.where(empty[:, None], refill, sums / jnp.maximum(counts, 1)[:, None])
