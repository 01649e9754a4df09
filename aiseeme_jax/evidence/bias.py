"""Image embedding association tests (iEAT): which concepts the features of a network bring together.

Steed & Caliskan 2021, as SB-SSL (Sirotkin et al. 2022) measures it. A test has two sets of target images x and y (two
kinds of things) and two of attribute images a and b. It asks whether x is nearer to a, and y to b, than by chance. It
finds associations of features, which come from pixels too: networks with random weights have as many. It does not
measure harm to anybody.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

# So many partitions are all looked at; of more, as many are drawn.
MOST_PARTITIONS = 10_000
# Sums of the same numbers in another order differ by rounding: within it they are equal.
ROUNDING = 1e-12
_BLOCK = 1000


@dataclass(frozen=True)
class Association:
    """The result of a test.

    Attributes:
      effect_size: (mean over x - mean over y) / standard deviation over both, of s(w) = mean cosine with a - mean
        cosine with b. It is between -2 and 2; NaN if all s are equal.
      p_value: one-sided: how often a partition of the targets by chance has at least this difference.
      p_two_sided: twice the smaller of that and the same in the other direction, at most 1.
      partitions: how many were looked at.
      exact: whether these are all.
    """

    effect_size: float
    p_value: float
    p_two_sided: float
    partitions: int
    exact: bool


def ieat(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike, *, seed: int) -> tuple[float, float]:
    """The effect size and the one-sided p-value of `associate`."""
    found = associate(x, y, a, b, seed=seed)
    return found.effect_size, found.p_value


def associate(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike, *, seed: int) -> Association:
    """Tests whether targets x are associated with attributes a, and y with b.

    The p-value comes from partitions of the targets into two halves: all of them if there are at most 10,000 (7 targets
    on each side), else 10,000 by chance, with the observed one counted as one more. Partitions that are as large as the
    observed one count against the association. The smallest p that can be reached is 1 over the number of partitions:
    .014 for 4 targets on each side, .001 for 6.

    Args:
      x, y: features of the targets [N, D], as many on each side, at least 2.
      a, b: features of the attributes [M, D] and [K, D].
      seed: of the partitions that are drawn.

    Raises ValueError if shapes do not fit, a value is not finite, or a row is 0 and so has no direction.
    """
    x, y, a, b = (_unit(name, rows) for name, rows in zip("xyab", (x, y, a, b), strict=True))
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"iEAT needs as many targets x as y, at least 2 of each, got {len(x)} and {len(y)}")
    if len({rows.shape[1] for rows in (x, y, a, b)}) != 1:
        raise ValueError(f"iEAT needs features of one length, got {[rows.shape[1] for rows in (x, y, a, b)]}")
    # A mean of cosines with unit vectors is the product with their mean.
    scores = np.concatenate([x, y]) @ (a.mean(axis=0) - b.mean(axis=0))
    count = len(x)
    deviation = scores.std(ddof=1)
    level = ROUNDING * max(1.0, np.abs(scores).max())
    effect = float((scores[:count].mean() - scores[count:].mean()) / deviation) if deviation > level else math.nan
    exact = math.comb(2 * count, count) <= MOST_PARTITIONS
    sums = _all_sums(scores, count) if exact else _drawn_sums(scores, count, seed)
    # The sum over one side alone orders partitions as the difference of both does.
    observed, level = scores[:count].sum(), level * count
    above, below = np.count_nonzero(sums >= observed - level), np.count_nonzero(sums <= observed + level)
    total, extra = len(sums), 0 if exact else 1
    p_above, p_below = ((found + extra) / (total + extra) for found in (above, below))
    return Association(effect, p_above, min(1.0, 2 * min(p_above, p_below)), total, exact)


def adjust_holm(p_values: ArrayLike) -> Float[np.ndarray, "tests"]:
    """P-values adjusted by Holm (1979): those below a level hold together, with at most that chance of any error."""
    p_values = _check_p(p_values)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def adjust_false_discovery(p_values: ArrayLike) -> Float[np.ndarray, "tests"]:
    """P-values adjusted by Benjamini & Hochberg (1995): of those below a level, that share is false on average."""
    p_values = _check_p(p_values)
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return adjusted


def compare_groups(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Whether one group of networks has more associations than another: a permutation test over all partitions.

    Args:
      one, other: a number for each network, such as how many of its tests are below a level. SB-SSL compares 5 with 5.

    Returns the difference of the means and the one-sided p: how often a partition of the networks into groups of these
    sizes has at least this difference. Raises ValueError for an empty group, or for more than a million partitions.
    """
    values, count = np.array([*one, *other], np.float64), len(one)
    if not count or count == len(values):
        raise ValueError("compare_groups needs two groups with at least one network each")
    if math.comb(len(values), count) > 1_000_000:
        raise ValueError(f"compare_groups looks at all partitions: {len(values)} networks have too many")
    sums = _all_sums(values, count)
    observed = values[:count].sum()
    level = ROUNDING * max(1.0, np.abs(values).max()) * count
    difference = values[:count].mean() - values[count:].mean()
    return float(difference), float((sums >= observed - level).mean())


def count_below(p_values: Iterable[float], thresholds: Sequence[float]) -> list[int]:
    """How many p-values are below each threshold. With tests of several sizes it mixes what they can reach."""
    found = np.array(list(p_values))
    return [int((found < threshold).sum()) for threshold in thresholds]


def _all_sums(scores: Float[np.ndarray, "n"], count: int) -> Float[np.ndarray, "partitions"]:
    rows = itertools.combinations(range(len(scores)), count)
    return np.array([scores[list(part)].sum() for part in rows])


def _drawn_sums(scores: Float[np.ndarray, "n"], count: int, seed: int) -> Float[np.ndarray, "partitions"]:
    generator = np.random.default_rng(seed)
    blocks = [
        np.argsort(generator.random((_BLOCK, len(scores))), axis=1)[:, :count] for _ in range(MOST_PARTITIONS // _BLOCK)
    ]
    return scores[np.concatenate(blocks)].sum(axis=1)


def _unit(name: str, features: ArrayLike) -> Float[np.ndarray, "n d"]:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"iEAT needs features [N, D], got {name} {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"iEAT needs finite features, {name} has others")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError(f"row {int(np.argmin(lengths))} of {name} is 0 and has no direction")
    return features / lengths


def _check_p(p_values: ArrayLike) -> Float[np.ndarray, "tests"]:
    p_values = np.asarray(p_values, np.float64)
    if p_values.ndim != 1 or not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError("p-values are numbers from 0 to 1")
    return p_values
