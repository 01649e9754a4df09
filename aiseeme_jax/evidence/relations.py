"""How alike two representations relate images to each other: RSA, Procrustes distance, common neighbours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata, spearmanr

from aiseeme_jax.evidence.similarity import check_pair

NEIGHBOURS = 10


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def rsa(x: ArrayLike, y: ArrayLike) -> float:
    """Representational similarity: Spearman's correlation of the dissimilarities of all pairs of images.

    The dissimilarity of two images is 1 - Pearson's correlation of their features (Kriegeskorte et al. 2008).

    Args:
      x, y: features [N, D] and [N, E] of the same N images, at least 3, in their own units: not centred.

    Returns NaN if an image has the same value in all features, or if all dissimilarities of one side are equal. Raises
    ValueError if rows differ, a value is not finite, or there are fewer than 2 features.
    """
    return _correlate(*_dissimilarities(x, y))


def rsa_interval(x: ArrayLike, y: ArrayLike, *, seed: int, samples: int = 200) -> Interval:
    """`rsa` with an interval over images: percentiles over bootstrap samples.

    Images are drawn, not pairs, for pairs that share an image are not independent. The pairs of an image with its own
    copy are left out: their dissimilarity is 0 on both sides and would make every sample look similar. Ranks are those
    among all images, not drawn anew, so a sample is Pearson's correlation of these under weights of the pairs.
    """
    one, other = _dissimilarities(x, y)
    value = _correlate(one, other)
    ranks = [squareform(rankdata(side), checks=False) for side in (one, other)]
    count = len(ranks[0])
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples)
    found = _correlate_weighted(*ranks, drawn.astype(np.float64))
    low, high = np.nanpercentile(found, [2.5, 97.5]) if np.isfinite(found).any() else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def procrustes(x: ArrayLike, y: ArrayLike) -> float:
    """Squared distance after the best rotation of one side: 2 - 2 |x'y|_* for centred sides of unit Frobenius norm.

    It is 0 for features that differ by a rotation, a scale and an offset, and at most 2. The narrower side counts as if
    it had features of 0 beside its own.

    Returns NaN if one side does not vary. Raises ValueError if rows differ or a value is not finite.
    """
    x, y = check_pair("procrustes", x, y, least=2)
    norms = np.linalg.norm(x), np.linalg.norm(y)
    if not min(norms) > 0:
        return float("nan")
    nuclear = np.linalg.svd(x.T @ y, compute_uv=False).sum() / (norms[0] * norms[1])
    return float(max(2 - 2 * nuclear, 0.0))


def neighbour_overlap(x: ArrayLike, y: ArrayLike, *, neighbours: int = NEIGHBOURS) -> float:
    """Mean share of the nearest neighbours of an image, by the cosine, that are the same on both sides.

    By chance it is `neighbours` / (N - 1). Raises ValueError if rows differ, a value is not finite, or if there are not
    more than `neighbours` + 1 images.
    """
    check_pair("neighbour_overlap", x, y, least=neighbours + 2)
    sets = [_nearest(np.asarray(side, np.float64), neighbours) for side in (x, y)]
    return float(np.mean([len(np.intersect1d(*rows)) for rows in zip(*sets, strict=True)]) / neighbours)


def _nearest(x: Float[np.ndarray, "n d"], neighbours: int) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(lengths == 0, 1, lengths)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]


def _dissimilarities(x: ArrayLike, y: ArrayLike) -> tuple[Float[np.ndarray, "pairs"], Float[np.ndarray, "pairs"]]:
    check_pair("rsa", x, y, least=3)
    sides = [np.asarray(side, np.float64) for side in (x, y)]
    if min(side.shape[1] for side in sides) < 2:
        raise ValueError("rsa correlates the features of two images: it needs at least 2 features")
    return tuple(pdist(side, "correlation") for side in sides)


def _correlate_weighted(
    one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"], weights: Float[np.ndarray, "s n"]
) -> Float[np.ndarray, "s"]:
    """Pearson's correlation over pairs of different images, where a pair counts as the product of their weights."""
    off = 1 - np.eye(len(one))
    total, *sums = (
        np.einsum("sn,sn->s", weights @ (matrix * off), weights)
        for matrix in (off, one, other, one * one, other * other, one * other)
    )
    x, y, xx, yy, xy = (part / total for part in sums)
    return (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))


def _correlate(one: Float[np.ndarray, "pairs"], other: Float[np.ndarray, "pairs"]) -> float:
    if not (np.isfinite(one).all() and np.isfinite(other).all()) or not (np.ptp(one) and np.ptp(other)):
        return float("nan")
    return float(spearmanr(one, other).statistic)
