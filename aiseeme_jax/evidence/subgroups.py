"""Whether a classifier is worse for some people than for others.

Each subgroup (women, people of 60 to 79, images of the scalp) is measured by itself, at thresholds that were chosen for
everybody. An image of which the attribute is not known belongs to the subgroup 'unknown'.

The gap of a metric is the highest value of a subgroup less the lowest. It is biased upwards: four equal subgroups with
50 positives each have on average a gap of .12 at a sensitivity of .8. So beside each gap stands what it is by chance:
the attribute is dealt out anew among the patients (or lesions) with the same class, so that each subgroup keeps its
number of patients of each class. Where a patient has images in several subgroups, each of these parts is dealt by
itself. What depends on how frequent the class is, as a ppv does, is dealt out among all patients.

The interval of a gap is that of the difference between the two subgroups that are highest and lowest on these images.
It does not cover that they were picked for that: the p-value from dealing does.

Equalised odds (Hardt, Price & Srebro 2016) hold if sensitivity and false alarms are equal in all subgroups: the
distance from it is the larger of the two gaps.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate.bootstrap import MIN_GROUPS, Draws, draw_weights, interval, number_groups, split_draws

UNKNOWN = "unknown"
# Ends of age bands in years: a band begins with its first age and ends before the next.
AGES = (20, 40, 60, 80)
# Times that an attribute is dealt out anew.
DEALS = 500
# Entries of one block of deals.
_BLOCK = 2**18

# Weightings of all rows [S, N], and whether a row is of the subgroup ([N], or [S, N]) -> a value for each weighting, or
# NaN where it is undefined.
Measure = Callable[[Float[np.ndarray, "s n"], Bool[np.ndarray, "*s n"]], Float[np.ndarray, "s"]]


def name_subgroups(values: Sequence, attribute: str = "") -> Sequence[str]:
    """The subgroup of each image: the text of its attribute, of an age its band; '' and NaN are 'unknown'.

    Args:
      values: [N], text or numbers.
      attribute: its name. Numbers are put into bands if it is 'age'; other numbers are written as they are.
    """
    values = np.asarray(values)
    if values.dtype.kind == "f":
        write = name_age if attribute == "age" else lambda number: UNKNOWN if math.isnan(number) else f"{number:g}"
        return [write(float(value)) for value in values]
    return [str(value).strip() or UNKNOWN for value in values.tolist()]


def intersect(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """The subgroup of each image by several attributes at once, such as 'female, 60–79' or 'female, unknown'.

    Args:
      parts: of each attribute what `name_subgroups` gave.
    """
    joined = zip(*parts, strict=True)
    return [UNKNOWN if set(names) == {UNKNOWN} else ", ".join(names) for names in joined]


def name_age(age: float) -> str:
    """'40–59' for 45.0; 'unknown' for NaN and below 0."""
    if not age >= 0:
        return UNKNOWN
    place = int(np.searchsorted(AGES, age, side="right"))
    if place == 0:
        return f"0–{AGES[0] - 1}"
    return f"{AGES[place - 1]}+" if place == len(AGES) else f"{AGES[place - 1]}–{AGES[place] - 1}"


@dataclass(frozen=True)
class Subgroup:
    """A metric of one subgroup.

    Attributes:
      images, groups: how many, and of how many patients or lesions.
      positives: how many of these have the class or finding; of a metric over all classes all of them.
      low, high: ends of the 95 % interval; NaN where fewer than MIN_GROUPS patients or lesions would carry it.
    """

    name: str
    images: int
    groups: int
    positives: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gap:
    """The highest value of a subgroup less the lowest.

    Attributes:
      highest, lowest: names of the subgroups; '' if fewer than two have a value, and then all numbers are NaN.
      low, high: ends of the 95 % interval of the difference between these two.
      by_chance, by_chance_95: mean and 95th percentile of the gap if the attribute made no difference.
      p_value: share of the deals with at least this gap, which count the attribute as it is.
      smallest: images of the smallest subgroup that takes part.
      smallest_counted: the fewest patients or lesions with a counted row in a subgroup that takes part.
    """

    highest: str
    lowest: str
    value: float
    low: float
    high: float
    by_chance: float
    by_chance_95: float
    p_value: float
    smallest: int
    smallest_counted: int


class Subgroups:
    """One attribute of the images of a test set.

    Args:
      names: [N], the subgroup of each image, of `name_subgroups`.
      groups: [N], patient or lesion of each image; None if all are independent.
      samples, seed: of the resamples, as of `bootstrap_ci`.
    """

    def __init__(self, names: Sequence[str], groups: Sequence | None, *, samples: int, seed: int):
        self.names, self.samples, self.seed = np.asarray(names, object), samples, seed
        self.members = number_groups(groups, len(self.names))
        self.groups = groups
        self._dealt: tuple[np.ndarray, int, dict[str, np.ndarray]] | None = None
        found = sorted(set(self.names))
        # Last, since it is no subgroup of people.
        self.found = [name for name in found if name != UNKNOWN] + [name for name in found if name == UNKNOWN]

    def rows(self, name: str) -> Bool[np.ndarray, "n"]:
        """Whether an image is of a subgroup."""
        return self.names == name

    def measure(self, measure: Measure, counted: Bool[np.ndarray, "n"]) -> dict[str, Draws]:
        """A metric of each subgroup on the same resamples of all patients.

        Args:
          counted: the rows that the metric needs, as the positives for a sensitivity; a subgroup without one has no
            value.
        """
        return self.measure_all([(measure, counted)])[0]

    def measure_all(self, asked: Sequence[tuple[Measure, Bool[np.ndarray, "n"]]]) -> list[dict[str, Draws]]:
        """`measure` for many metrics, for which the resamples are drawn once."""
        made: list[dict[str, list[np.ndarray]]] = [
            {name: [] for name in self.found if (counted & self.rows(name)).any()} for _, counted in asked
        ]
        for weights in draw_weights(self.groups, len(self.names), self.samples, self.seed):
            for (measure, _), of_groups in zip(asked, made, strict=True):
                for name, values in of_groups.items():
                    values.append(measure(weights, self.rows(name)))
        return [
            {name: split_draws(np.concatenate(values), self.samples) for name, values in of_groups.items()}
            for of_groups in made
        ]

    def describe(
        self, drawn: Sequence[Mapping[str, Draws]], counted: Bool[np.ndarray, "n"], positives: Bool[np.ndarray, "n"]
    ) -> list[Subgroup]:
        """Values, each the mean over runs, with intervals and sizes.

        Args:
          drawn: what `measure` gave for each run (seed).
          counted: as of `measure`; a subgroup in which fewer than MIN_GROUPS patients have one has no interval.
          positives: the rows that `Subgroup.positives` counts.
        """
        rows = []
        for name in self.found:
            inside = self.rows(name)
            enough = self.carries(name, counted)
            runs = [run[name] for run in drawn if name in run]
            value = float(np.mean([run.value for run in runs])) if runs else math.nan
            low, high = interval(runs, self.seed) if enough and math.isfinite(value) else (math.nan, math.nan)
            # Where all resamples are alike they cannot say how far away the truth is.
            low, high = (math.nan, math.nan) if low == high else (low, high)
            sizes = int(inside.sum()), self._count(inside), self._count(inside & positives)
            rows.append(Subgroup(name, *sizes, value, low, high))
        return rows

    def carries(self, name: str, counted: Bool[np.ndarray, "n"]) -> bool:
        """Whether enough patients of a subgroup have a counted row for an interval, and for a part in a gap."""
        return self._count(self.rows(name) & counted) >= MIN_GROUPS

    def _count(self, rows: Bool[np.ndarray, "n"]) -> int:
        """Patients or lesions that have some of these rows."""
        return len(np.unique(self.members[rows]))

    def measure_gap(
        self,
        measures: Sequence[Measure],
        drawn: Sequence[Mapping[str, Draws]],
        counted: Bool[np.ndarray, "n"],
        strata: Int[np.ndarray, "n"],
        deals: int = DEALS,
    ) -> Gap:
        """The gap of a metric, a mean over runs, with what it is by chance.

        Only subgroups that have a value and at least MIN_GROUPS patients with a counted row take part: with fewer, the
        gap would say no more than that they are few.

        Args:
          measures, drawn: of each run what `measure` was given, and what it gave.
          counted: as of `measure`.
          strata: [N], a number for the class of each image; patients of one class exchange their attribute.
        """
        means = {name: float(np.mean([run[name].value for run in drawn])) for name in drawn[0]}
        values = {name: value for name, value in means.items() if math.isfinite(value) and self.carries(name, counted)}
        if len(values) < 2:
            return Gap("", "", *[math.nan] * 6, 0, 0)
        highest, lowest = max(values, key=values.get), min(values, key=values.get)
        gap = values[highest] - values[lowest]
        low, high = interval([run[highest] - run[lowest] for run in drawn], self.seed)
        chance = self._deal_gaps(measures, list(values), strata, deals)
        chance = chance[np.isfinite(chance)]
        p_value = (1 + np.sum(chance >= gap - 1e-12)) / (1 + len(chance)) if len(chance) else math.nan
        mean, most = (chance.mean(), np.percentile(chance, 95)) if len(chance) else (math.nan, math.nan)
        smallest = min(int(self.rows(name).sum()) for name in values)
        fewest = min(self._count(self.rows(name) & counted) for name in values)
        return Gap(highest, lowest, gap, low, high, float(mean), float(most), float(p_value), smallest, fewest)

    def _deal_gaps(
        self, measures: Sequence[Measure], found: Sequence[str], strata: Int[np.ndarray, "n"], deals: int
    ) -> Float[np.ndarray, "d"]:
        """The gap after each deal."""
        insides = self._deal(strata, deals)
        # Blocks that fit into the cache of a core are several times as fast.
        block = max(1, _BLOCK // len(self.names))
        gaps = []
        for start in range(0, deals, block):
            part = slice(start, start + block)
            once = np.ones(insides[found[0]][part].shape)
            of_each = [np.mean([one(once, insides[name][part]) for one in measures], axis=0) for name in found]
            gaps.append(np.ptp(of_each, axis=0))
        return np.concatenate(gaps)

    def _deal(self, strata: Int[np.ndarray, "n"], deals: int) -> dict[str, Bool[np.ndarray, "d n"]]:
        """For each subgroup, which images are dealt to it. Those of the last strata are kept: metrics share them."""
        if self._dealt is None or not np.array_equal(self._dealt[0], strata) or self._dealt[1] != deals:
            # Numbers are compared faster than names.
            names, numbers = np.unique(self.names.astype(str), return_inverse=True)
            dealt = deal_attribute(numbers.reshape(-1), self.members, strata, deals, self.seed)
            self._dealt = strata, deals, {name: dealt == number for number, name in enumerate(names.tolist())}
        return self._dealt[2]


def deal_attribute(
    names: ArrayLike, members: Int[np.ndarray, "n"], strata: ArrayLike, deals: int, seed: int
) -> np.ndarray:
    """The attribute of each image [deals, N] after it was dealt out anew among patients of the same class.

    What is dealt to is a part of a patient: the images that have one attribute and one class.
    """
    names, strata = np.asarray(names), np.asarray(strata)
    numbers = np.unique(names.astype(str), return_inverse=True)[1].reshape(-1)
    parts, first, part_of = np.unique(
        np.column_stack([members, numbers, strata]), axis=0, return_index=True, return_inverse=True
    )
    # Not the streams of `draw_weights`.
    rng = np.random.default_rng((seed, 3))
    held = np.broadcast_to(names[first], (deals, len(parts))).copy()
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata[first] == stratum)
        held[:, places] = rng.permuted(held[:, places], axis=1)
    return held[:, part_of.reshape(-1)]


def larger_gap(one: Gap, other: Gap) -> Gap:
    """The distance from equalised odds: the larger of the gaps of sensitivity and of false alarms."""
    if not math.isfinite(one.value) or not math.isfinite(other.value):
        return one if math.isfinite(one.value) else other
    return one if one.value >= other.value else other
