"""Losses that distinguish a positive from negatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aiseeme_jax.losses.arrays import check_positive, check_rows, check_same_shape, matmul, normalise, wide

NO_NEGATIVES = "the negatives of a row are the other rows, and without one the loss is 0 whatever the row is"


def nt_xent(z1: Float[Array, "batch dim"], z2: Float[Array, "batch dim"], *, temperature: float) -> Float[Array, ""]:
    """Normalised-temperature cross-entropy of SimCLR; rows are L2-normalised here.

    With z the 2N rows of both views and j(i) the other view of row i,
    mean_i [ logsumexp_{k != i}(z_i·z_k / T) - z_i·z_j(i) / T ], a number in [0, log(2N - 1) + 2/T]; N is at least 2.
    Source: Chen et al., ICML 2020 (arXiv 2002.05709), eq. 1 and algorithm 1.
    """
    return jnp.mean(nt_xents(z1, z2, temperature=temperature))


def nt_xents(
    z1: Float[Array, "batch dim"], z2: Float[Array, "batch dim"], *, temperature: float
) -> Float[Array, " 2*batch"]:
    """`nt_xent` of each row: first those of z1, then those of z2."""
    check_same_shape(z1=z1, z2=z2)
    check_rows(2, NO_NEGATIVES, z1=z1)
    check_positive(temperature=temperature)
    rows = normalise(jnp.concatenate([wide(z1), wide(z2)]))
    similarity = matmul(rows, rows.T) / temperature
    positive = jnp.sum(rows * jnp.roll(rows, z1.shape[0], axis=0), axis=1) / temperature
    others = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, similarity)
    return jax.nn.logsumexp(others, axis=1) - positive


def info_nce(
    query: Float[Array, "batch dim"],
    key: Float[Array, "batch dim"],
    negatives: Float[Array, "negatives dim"] | Float[Array, "batch negatives dim"],
    *,
    temperature: float,
    mask: Bool[Array, "batch negatives"] | None = None,
) -> Float[Array, ""]:
    """InfoNCE with negatives from a queue or a memory bank. All rows must be L2-normalised.

    mean_i [ logsumexp(q_i·k_i / T, q_i·n_1 / T, …, q_i·n_K / T) - q_i·k_i / T ], not negative. `negatives` [K, D] are
    shared by all queries; in [N, K, D] each query has its own. `mask` is False where a negative does not count for a
    query, such as its own entry in a bank. Source: He et al., CVPR 2020 (arXiv
    1911.05722), eq. 1; Wu et al., CVPR 2018 (arXiv 1805.01978), eq. 2.
    """
    return jnp.mean(info_nces(query, key, negatives, temperature=temperature, mask=mask))


def info_nces(
    query: Float[Array, "batch dim"],
    key: Float[Array, "batch dim"],
    negatives: Float[Array, "negatives dim"] | Float[Array, "batch negatives dim"],
    *,
    temperature: float,
    mask: Bool[Array, "batch negatives"] | None = None,
) -> Float[Array, " batch"]:
    """`info_nce` of each query."""
    check_same_shape(query=query, key=key)
    check_positive(temperature=temperature)
    query, key, negatives = wide(query), wide(key), wide(negatives)
    if negatives.ndim not in (2, 3) or negatives.shape[-1] != query.shape[1]:
        raise ValueError(
            f"negatives have shape {negatives.shape}; for queries {query.shape} they must be "
            f"[K, {query.shape[1]}] or [{query.shape[0]}, K, {query.shape[1]}]"
        )
    if not negatives.shape[-2]:
        raise ValueError(f"negatives have shape {negatives.shape}: without one, the loss is 0 whatever the queries are")
    per_row = "nkd" if negatives.ndim == 3 else "kd"
    positive = jnp.sum(query * key, axis=1, keepdims=True)
    negative = jnp.einsum(f"nd,{per_row}->nk", query, negatives, precision=jax.lax.Precision.HIGHEST)
    if mask is not None:
        negative = jnp.where(mask, negative, -jnp.inf)
    logits = jnp.concatenate([positive, negative], axis=1) / temperature
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0]


def info_nce_in_batch(
    query: Float[Array, "batch dim"], key: Float[Array, "batch dim"], *, temperature: float
) -> Float[Array, ""]:
    """InfoNCE with the keys of the other rows as negatives. All rows must be L2-normalised.

    mean_i [ logsumexp_j(q_i·k_j / T) - q_i·k_i / T ], not negative; at least two rows.
    Source: Chen et al., ICCV 2021 (arXiv 2104.02057), algorithm 1, without its factor 2 T.
    """
    return jnp.mean(info_nces_in_batch(query, key, temperature=temperature))


def info_nces_in_batch(
    query: Float[Array, "batch dim"], key: Float[Array, "batch dim"], *, temperature: float
) -> Float[Array, " batch"]:
    """`info_nce_in_batch` of each query."""
    check_same_shape(query=query, key=key)
    check_rows(2, NO_NEGATIVES, query=query)
    check_positive(temperature=temperature)
    logits = matmul(wide(query), wide(key).T) / temperature
    return jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)


def dense_correspondence(
    query: Float[Array, "batch places dim"], key: Float[Array, "batch keyplaces dim"]
) -> Int[Array, "batch places"]:
    """For each place of a query's map, the place of its key's map with the most similar features (by cosine).

    Source: Wang et al., CVPR 2021 (arXiv 2011.09157), eq. 3.
    """
    similarity = jnp.einsum(
        "nsd,ntd->nst", normalise(wide(query)), normalise(wide(key)), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.argmax(similarity, axis=-1)


def dense_info_nce(
    query: Float[Array, "batch places dim"],
    key: Float[Array, "batch keyplaces dim"],
    correspondence: Int[Array, "batch places"],
    negatives: Float[Array, "negatives dim"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Mean of `info_nce` over images and places. The positive of a place is the corresponding place of the key.

    All rows must be L2-normalised. Source: Wang et al., CVPR 2021 (arXiv 2011.09157), eq. 2.
    """
    return jnp.mean(dense_info_nces(query, key, correspondence, negatives, temperature=temperature))


def dense_info_nces(
    query: Float[Array, "batch places dim"],
    key: Float[Array, "batch keyplaces dim"],
    correspondence: Int[Array, "batch places"],
    negatives: Float[Array, "negatives dim"],
    *,
    temperature: float,
) -> Float[Array, " batch*places"]:
    """`dense_info_nce` of each place, image-major."""
    dim = query.shape[-1]
    positive = jnp.take_along_axis(key, correspondence[:, :, None], axis=1)
    return info_nces(query.reshape(-1, dim), positive.reshape(-1, dim), negatives, temperature=temperature)
