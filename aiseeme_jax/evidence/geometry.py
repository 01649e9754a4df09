"""How the features of one network lie: directions, dimension, spread.

None of these numbers ranks networks by what they are worth for a diagnosis. All of them depend on how many images there
are, so they are compared only between features of the same images. `NOTES` says what the value of each is where there
is nothing to find, and what distorts it. It is shown wherever the measure is.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist, pdist

from aiseeme_jax.evaluate.rank import rankme

# A feature with a standard deviation below this is dead.
DEAD = 1e-4
# Of two copies of an image: their distance as a share of the median distance to the nearest image.
COPIES = 0.05
# The largest share of the ratios of distances, which the slope of TwoNN leaves out.
LEFT_OUT = 0.1
# Rows whose distances are in memory at once.
_BLOCK = 512


def effective_rank(features: ArrayLike) -> float:
    """Exponential of the entropy of the singular values of the centred features (Roy & Vetterli 2007, section 2).

    From 1 to min(N - 1, D), for features [N, D]; NaN if nothing varies.
    """
    values = _spectrum(features)
    return rankme(np.diag(values), epsilon=0.0) if values.size else float("nan")


def participation_ratio(features: ArrayLike) -> float:
    """(sum l)^2 / sum l^2 of the eigenvalues l of the covariance: from 1 to min(N - 1, D); NaN if nothing varies."""
    values = _spectrum(features) ** 2
    return float(values.sum() ** 2 / (values**2).sum()) if values.size else float("nan")


def twonn(features: ArrayLike, *, slope: bool = False) -> float:
    """Intrinsic dimension by the two nearest neighbours of each image (Facco et al. 2017).

    mu = r2 / r1, and the dimension is (n - 1) / sum log mu, the most likely one. It is too low above about 15, and
    copies of images destroy it (`share_of_copies`): take one image of each lesion or patient.

    Args:
      features: [N, D], at least 3 images.
      slope: instead, the slope of -log(1 - F(mu)) over log mu through 0, without the tenth with the largest mu.

    Images whose nearest neighbour has exactly their features are left out. Returns NaN if none is left, or if all mu
    are 1.
    """
    nearest = _two_nearest(_check(features, least=3))
    nearest = nearest[nearest[:, 0] > 0]
    logs = np.sort(np.log(nearest[:, 1] / nearest[:, 0])) if len(nearest) else np.zeros(0)
    if not logs.sum() > 0:
        return float("nan")
    if not slope:
        return float((len(logs) - 1) / logs.sum())
    shares = np.arange(len(logs)) / len(logs)
    kept = shares < 1 - LEFT_OUT
    return float(logs[kept] @ -np.log(1 - shares[kept]) / (logs[kept] @ logs[kept]))


def share_of_copies(features: ArrayLike) -> float:
    """Share of the images that have a near copy: one at less than a 20th of the median distance to the nearest.

    With a tenth of near copies, TwoNN finds 0.8 dimensions where there are 10.
    """
    nearest = _two_nearest(_check(features, least=3))[:, 0]
    return float((nearest <= COPIES * np.median(nearest)).mean())


def alignment(features: ArrayLike, others: ArrayLike) -> float:
    """Mean squared distance, on the unit sphere, of the features of two views of each image (Wang & Isola 2020, eq. 1).

    Args:
      features, others: [N, D], of one view and of the other.

    From 0, where the views are not told apart, to 4; 2 for independent directions.
    """
    one, other = _unit(_check(features, least=1)), _unit(_check(others, least=1))
    if one.shape != other.shape:
        raise ValueError(f"alignment needs two views of the same images, got {one.shape} and {other.shape}")
    return float(((one - other) ** 2).sum(axis=1).mean())


def uniformity(features: ArrayLike) -> float:
    """log mean exp(-2 |f(x) - f(y)|^2) over pairs of images, on the unit sphere (Wang & Isola 2020, eq. 2).

    0 if all features are alike; the lowest is about -4 + 8 / D, of features that are spread evenly.
    """
    squares = pdist(_unit(_check(features, least=2)), "sqeuclidean")
    return float(np.log(np.exp(-2 * squares).mean()))


def anisotropy(features: ArrayLike) -> float:
    """Mean cosine of the features of two images: 0 if they lie around the origin, 1 if all have one direction."""
    unit = _unit(_check(features, least=2))
    count = len(unit)
    total = unit.sum(axis=0)
    return float((total @ total - (unit**2).sum()) / (count * (count - 1)))


def dead_dimensions(features: ArrayLike) -> float:
    """Share of the features whose standard deviation over images is below 1e-4."""
    return float((_check(features, least=1).std(axis=0) < DEAD).mean())


# Name -> measure of features [N, D]. `alignment` needs two views and is not among them.
MEASURES: Mapping[str, Callable[[ArrayLike], float]] = MappingProxyType(
    {
        "effective_rank": effective_rank,
        "participation_ratio": participation_ratio,
        "twonn": twonn,
        "copies": share_of_copies,
        "uniformity": uniformity,
        "anisotropy": anisotropy,
        "dead_dimensions": dead_dimensions,
    }
)
NOTES: Mapping[str, str] = MappingProxyType(
    {
        "effective_rank": "grows with the images: 86, 115, 126 for 100, 200, 1,000 images of an even cloud of 128 "
        "dimensions",
        "participation_ratio": "grows with the images: 56, 78, 113 for 100, 200, 1,000 images of an even cloud of 128 "
        "dimensions",
        "twonn": "too low above 15 (33 for a cloud of 50 dimensions); near copies destroy it: with a tenth of them it "
        "finds 0.8 where there are 10",
        "copies": "above 0, TwoNN is wrong: take one image of each lesion or patient",
        "alignment": "0: the views are not told apart, as when all features are alike; 2: independent directions",
        "uniformity": "0 if all features are alike; about -4 + 8 / D if they are spread evenly",
        "anisotropy": "0 around the origin; features after a ReLU are above 0 without any collapse",
        "dead_dimensions": "standard deviation below 1e-4, in the units of the network",
    }
)


def _spectrum(features: ArrayLike) -> Float[np.ndarray, "k"]:
    """The singular values of the centred features that are more than rounding; none if nothing varies."""
    features = _check(features, least=2)
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    return values[values > 1e-10 * max(np.linalg.norm(features), np.finfo(float).tiny)]


def _two_nearest(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Distances of each row to its two nearest others."""
    found = []
    for start in range(0, len(features), _BLOCK):
        distances = cdist(features[start : start + _BLOCK], features)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        found.append(np.sort(np.partition(distances, 1, axis=1)[:, :2], axis=1))
    return np.concatenate(found)


def _unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths == 0, 1, lengths)


def _check(features: ArrayLike, least: int) -> Float[np.ndarray, "n d"]:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < least:
        raise ValueError(f"need features [N, D] of at least {least} images, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("need finite features")
    return features
