"""How similar two representations of the same images are: centred kernel alignment (CKA).

Other measures are in `canonical` (SVCCA, PWCCA), `relations` (RSA, Procrustes, neighbours) and, for all pairs of the
layers of many networks at once, in `layers`.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist, squareform

# Share of the median distance between images that is the width of the RBF kernel. Kornblith et al. try .2 to .8.
BANDWIDTH = 0.8


def cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear centred kernel alignment with the unbiased estimate of HSIC (Kornblith et al. 2019; Song et al. 2012).

    It is 1 for features that differ by a rotation, a scale and an offset, and 0 in expectation for independent ones,
    however many features and however few images there are; so it may be a little below 0. The biased estimate is .67
    for independent features of 2,048 dimensions on 1,000 images (`expect_biased`).

    Args:
      x, y: features [N, D] and [N, E] of the same N images, at least 4.

    Returns NaN if the features of one side are the same for all images. Raises ValueError if the numbers of rows differ
    or are too small, or if a value is not finite.
    """
    x, y = check_pair("cka", x, y, least=4)
    scale = _hsic(x, x) * _hsic(y, y)
    return float(_hsic(x, y) / np.sqrt(scale)) if scale > 0 else float("nan")


def rbf_cka(x: ArrayLike, y: ArrayLike, *, bandwidth: float = BANDWIDTH) -> float:
    """CKA with the kernels exp(-|x - x'|^2 / (2 s^2)), by the unbiased estimate of HSIC (Song et al. 2012, eq. 5).

    Args:
      x, y: as for `cka`.
      bandwidth: s as a share of the median distance between two images, for each side by itself.

    Returns NaN if half of the images or more have the same features. Raises ValueError as `cka`.
    """
    x, y = check_pair("rbf_cka", x, y, least=4)
    if not bandwidth > 0:
        raise ValueError(f"rbf_cka needs a bandwidth above 0, got {bandwidth}")
    kernels = [_rbf_kernel(side, bandwidth) for side in (x, y)]
    if any(kernel is None for kernel in kernels):
        return float("nan")
    one, other = map(centre_unbiased, kernels)
    scale = (one * one).sum() * (other * other).sum()
    return float((one * other).sum() / np.sqrt(scale)) if scale > 0 else float("nan")


def expect_biased(images: int, x_dimensions: float, y_dimensions: float) -> float:
    """What biased linear CKA is about for independent isotropic normal features: why this package never shows it.

    sqrt(p q / ((n + p)(n + q))), the ratio of the expectations of its three parts. For features that are not isotropic,
    p and q are their participation ratios (`geometry.participation_ratio`).
    """
    shares = [width / (images + width) for width in (x_dimensions, y_dimensions)]
    return float(np.sqrt(shares[0] * shares[1]))


def centre_unbiased(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """U-centres a kernel (Szekely & Rizzo 2014), so that HSIC_1 of two kernels is <A, B> / (n (n - 3)).

    The diagonal is set to 0 before and after. A kernel that was centred before would give a biased estimate.
    """
    count = len(kernel)
    kernel = kernel.copy()
    np.fill_diagonal(kernel, 0)
    means = kernel.sum(axis=1) / (count - 2)
    means -= means.sum() / (2 * (count - 1))
    centred = kernel - means[:, None] - means[None, :]
    np.fill_diagonal(centred, 0)
    return centred


def check_pair(
    measure: str, x: ArrayLike, y: ArrayLike, *, least: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n e"]]:
    """Features of two sides in float64 with mean 0.

    Raises ValueError if they are not finite matrices with the same number of rows, or if that is below `least`.
    """
    x, y = _centre(measure, "x", x), _centre(measure, "y", y)
    if len(x) != len(y):
        raise ValueError(f"{measure} compares features of the same images, got {len(x)} and {len(y)} rows")
    if len(x) < least:
        raise ValueError(f"{measure} needs at least {least} images, got {len(x)}")
    return x, y


def _centre(measure: str, name: str, features: ArrayLike) -> Float[np.ndarray, "n d"]:
    """Features with mean 0. No estimate depends on the mean, but rounding does."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"{measure} needs features [N, D], got {name} {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{measure} needs finite features, {name} has others")
    return features - features.mean(axis=0)


def _rbf_kernel(x: Float[np.ndarray, "n d"], bandwidth: float) -> Float[np.ndarray, "n n"] | None:
    distances = pdist(x, "sqeuclidean")
    width = bandwidth**2 * np.median(distances)
    return np.exp(squareform(distances) / (-2 * width)) if width > 0 else None


def _hsic(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"]) -> float:
    """Unbiased HSIC of the kernels xx' and yy' with diagonals of zero, without making the kernels."""
    n = len(x)
    own = (x**2).sum(axis=1), (y**2).sum(axis=1)
    trace = ((x.T @ y) ** 2).sum() - own[0] @ own[1]
    rows = [side @ side.sum(axis=0) - square for side, square in zip((x, y), own, strict=True)]
    sums = rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2))
    return (trace + sums - 2 * (rows[0] @ rows[1]) / (n - 2)) / (n * (n - 3))
