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
from typing import Any

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
      units: how many targets, or patients with targets, there are on each side.
    """

    effect_size: float
    p_value: float
    p_two_sided: float
    partitions: int
    exact: bool
    units: tuple[int, int]


@dataclass(frozen=True)
class Units:
    """What changes sides in a partition, by its score.

    Attributes:
      x, y: of targets, or of patients whose targets are all on one side.
      pairs: [k, 2], of patients with targets on both sides: their score on that of x, and on that of y.
    """

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " m"]
    pairs: Float[np.ndarray, "k 2"]

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.x) + len(self.pairs), len(self.y) + len(self.pairs)

    def sides(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
        """The scores on each side."""
        return np.concatenate([self.x, self.pairs[:, 0]]), np.concatenate([self.y, self.pairs[:, 1]])


def ieat(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike, *, seed: int) -> tuple[float, float]:
    """The effect size and the one-sided p-value of `associate`."""
    found = associate(x, y, a, b, seed=seed)
    return found.effect_size, found.p_value


def associate(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int,
    groups: tuple[Sequence[Any], Sequence[Any]] | None = None,
) -> Association:
    """Tests whether targets x are associated with attributes a, and y with b.

    The p-value comes from partitions of the targets into two halves: all of them if there are at most 10,000 (7 targets
    on each side), else 10,000 by chance, with the observed one counted as one more. Partitions that are as large as the
    observed one count against the association. The smallest p that can be reached is 1 over the number of partitions:
    .014 for 4 targets on each side, .001 for 6.

    Images of one patient are alike, and so no partition takes them apart if `groups` says which they are. The score of
    a patient is the mean over the targets on a side. Patients with targets on one side alone change sides with each
    other. Those with targets on both sides exchange the two scores within themselves.

    Args:
      x, y: features of the targets [N, D], at least 2 on each side, and as many on each side if there are no groups.
      a, b: features of the attributes [M, D] and [K, D].
      seed: of the partitions that are drawn.
      groups: patient or lesion of each target of x, and of y; by default all targets are independent.

    Raises ValueError if shapes do not fit, a value is not finite, or a row is 0 and so has no direction.
    """
    x, y, a, b = (_unit(name, rows) for name, rows in zip("xyab", (x, y, a, b), strict=True))
    if groups is None and (len(x) != len(y) or len(x) < 2):
        raise ValueError(f"iEAT needs as many targets x as y, at least 2 of each, got {len(x)} and {len(y)}")
    if len({rows.shape[1] for rows in (x, y, a, b)}) != 1:
        raise ValueError(f"iEAT needs features of one length, got {[rows.shape[1] for rows in (x, y, a, b)]}")
    # A mean of cosines with unit vectors is the product with their mean.
    towards_a = a.mean(axis=0) - b.mean(axis=0)
    units = pool_patients(x @ towards_a, y @ towards_a, groups)
    if min(units.counts) < 2:
        raise ValueError(f"iEAT needs at least 2 patients on each side, got {units.counts[0]} and {units.counts[1]}")
    one, other = units.sides()
    scores = np.concatenate([one, other])
    deviation = scores.std(ddof=1)
    level = ROUNDING * max(1.0, np.abs(scores).max())
    effect = float((one.mean() - other.mean()) / deviation) if deviation > level else math.nan
    sums, exact = _sum_partitions(units, seed)
    # The number of units on a side stays, so the sum over one side orders partitions as the difference of means does.
    observed, level = one.sum(), level * len(one)
    above, below = np.count_nonzero(sums >= observed - level), np.count_nonzero(sums <= observed + level)
    total, extra = len(sums), 0 if exact else 1
    p_above, p_below = ((found + extra) / (total + extra) for found in (above, below))
    return Association(effect, p_above, min(1.0, 2 * min(p_above, p_below)), total, exact, units.counts)


def pool_patients(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " m"],
    groups: tuple[Sequence[Any], Sequence[Any]] | None,
) -> Units:
    """The units of a test from the scores of its targets; see `associate`."""
    if groups is None:
        return Units(x, y, np.zeros((0, 2)))
    if (len(groups[0]), len(groups[1])) != (len(x), len(y)):
        raise ValueError(f"iEAT needs a group for each target, got {len(groups[0])} and {len(groups[1])}")
    of_x, of_y = (_mean_by_group(scores, names) for scores, names in zip((x, y), groups, strict=True))
    both = [name for name in of_x if name in of_y]
    return Units(
        np.array([score for name, score in of_x.items() if name not in of_y]),
        np.array([score for name, score in of_y.items() if name not in of_x]),
        np.array([(of_x[name], of_y[name]) for name in both]).reshape(-1, 2),
    )


def _mean_by_group(scores: Float[np.ndarray, " n"], names: Sequence[Any]) -> dict[str, float]:
    names = np.asarray(names).astype(str)
    return {name: float(scores[names == name].mean()) for name in np.unique(names).tolist()}


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


def compare_groups(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Whether one group of networks has more associations than another: a permutation test over the partitions.

    It looks at all of them up to 10,000 (7 networks in each group), else at 10,000 by chance, as `associate` does.

    Args:
      one, other: a number for each network, such as how many of its tests are below a level. SB-SSL compares 5 with 5.
      seed: of the partitions that are drawn.

    Returns the difference of the means and the one-sided p: how often a partition of the networks into groups of these
    sizes has at least this difference. Raises ValueError for an empty group.
    """
    values, count = np.array([*one, *other], np.float64), len(one)
    if not count or count == len(values):
        raise ValueError("compare_groups needs two groups with at least one network each")
    sums, exact = _sum_partitions(Units(values[:count], values[count:], np.zeros((0, 2))), seed)
    observed, extra = values[:count].sum(), 0 if exact else 1
    level = ROUNDING * max(1.0, np.abs(values).max()) * count
    difference = values[:count].mean() - values[count:].mean()
    return float(difference), float(((sums >= observed - level).sum() + extra) / (len(sums) + extra))


def count_below(p_values: Iterable[float], thresholds: Sequence[float]) -> list[int]:
    """How many p-values are below each threshold. With tests of several sizes it mixes what they can reach."""
    found = np.array(list(p_values))
    return [int((found < threshold).sum()) for threshold in thresholds]


def _sum_partitions(units: Units, seed: int) -> tuple[Float[np.ndarray, " partitions"], bool]:
    """The sum over the side of x in each partition, and whether these are all partitions."""
    scores, count = np.concatenate([units.x, units.y]), len(units.x)
    kept, other = units.pairs.T
    if math.comb(len(scores), count) * 2 ** len(kept) <= MOST_PARTITIONS:
        flips = np.array(list(itertools.product((False, True), repeat=len(kept))), bool).reshape(
            2 ** len(kept), len(kept)
        )
        return (_all_sums(scores, count)[:, None] + np.where(flips, other, kept).sum(axis=1)).reshape(-1), True
    flips = np.random.default_rng((seed, 1)).random((MOST_PARTITIONS, len(kept))) < 0.5
    return _drawn_sums(scores, count, seed) + np.where(flips, other, kept).sum(axis=1), False


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
