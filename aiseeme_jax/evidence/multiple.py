"""p-values of many comparisons, and p-values from resamples."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def adjust_holm(p_values: ArrayLike) -> Float[np.ndarray, "k"]:
    """p-values that may be compared with a level as if there were only one of each (Holm 1979).

    The chance that any of the hypotheses is rejected falsely is then at most the level, however they depend on each
    other. The i-th smallest of k is multiplied by k - i + 1, and none is below a smaller one. A NaN stays NaN and does
    not count.

    Raises ValueError for a value outside [0, 1].
    """
    p_values = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p_values))
    if ((p_values[known] < 0) | (p_values[known] > 1)).any():
        raise ValueError("p-values lie between 0 and 1")
    order = known[np.argsort(p_values[known], kind="stable")]
    raised = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return adjusted


def resampled_p_value(differences: ArrayLike) -> float:
    """Two-sided p of the hypothesis that a difference is 0, from its values on bootstrap resamples.

    It is twice the share of the resamples on the rarer side of 0, and at least 1 / (B + 1) for B defined resamples. NaN
    unless more than half of the resamples are defined, and where all of them are equal.
    """
    differences = np.asarray(differences, np.float64)
    finite = differences[np.isfinite(differences)]
    if 2 * len(finite) <= len(differences) or np.ptp(finite) == 0:
        return float("nan")
    rarer = min(np.mean(finite <= 0), np.mean(finite >= 0))
    return float(min(1.0, max(2 * rarer, 1 / (len(finite) + 1))))
