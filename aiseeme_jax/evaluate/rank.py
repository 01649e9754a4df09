"""Two scores of features that need no labels: how many directions they use.

Compare them only between backbones of one architecture and width. A high rank is not a good feature: white noise has
the highest.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import eigh


def rankme(features: ArrayLike, *, epsilon: float = 1e-7) -> float:
    """Exponential of the entropy of the singular values, which are not centred (Garrido et al. 2023, eq. 1).

    From about 1 to min(N, D), for features [N, D]; NaN if a value is not finite or all are 0. The mean of the features
    counts as a direction of its own.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        return float("nan")
    return _effective_number(np.linalg.svd(features, compute_uv=False), epsilon)


def lidar(features: ArrayLike, *, ridge: float = 1e-4, epsilon: float = 1e-8) -> float:
    """RankMe of linear discriminant analysis, with each image as a class and its views as its members.

    Thilak et al. 2023, section 4: the eigenvalues of the covariance of the means, whitened by the covariance within.

    Args:
      features: [N, Q, D], of Q views of N images. Covariances are divided by N and by N Q.
      ridge: added to the diagonal of the covariance within.

    Returns NaN if a value is not finite, or if all images have the same mean.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        return float("nan")
    means = features.mean(axis=1)
    between = _covariance(means - means.mean(axis=0))
    within = _covariance((features - means[:, None]).reshape(-1, features.shape[-1]))
    values = eigh(between, within + ridge * np.eye(len(within)), eigvals_only=True)
    return _effective_number(np.maximum(values, 0), epsilon)


def _covariance(centred: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    return centred.T @ centred / len(centred)


def _effective_number(values: Float[np.ndarray, "d"], epsilon: float) -> float:
    total = values.sum()
    if not total > 0:
        return float("nan")
    shares = values / total + epsilon
    return float(np.exp(-(shares * np.log(shares)).sum()))
