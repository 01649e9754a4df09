"""What a study says: means over the seeds, and differences between arms or variants, paired by seed and by image.

`evaluate.over_seeds` says what the intervals cover. The intervals of the differences of one table (one target, share of
the labels and metric) hold together with 95 %, and their p-values are those times the number of differences
(Bonferroni). There is no correction over several tables.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aiseeme_jax.evaluate.bootstrap import Draws
from aiseeme_jax.evaluate.over_seeds import Estimate, Interval, estimate, vary_images
from aiseeme_jax.study.measured import Cost, Measured
from aiseeme_jax.study.variants import Study

LEVEL = 0.95
# What is measured: target, share of the labels, metric.
Table = tuple[str, float, str]
# Variant and arm.
Place = tuple[str, str]


@dataclass(frozen=True)
class Value:
    """A row of study.csv."""

    variant: str
    arm: str
    target: str
    fraction: float
    metric: str
    pretraining_seed: int
    label_seed: int
    value: float


@dataclass(frozen=True)
class Summary:
    """A row of summary.csv: the mean over the seeds with its 95 % interval.

    Attributes:
      x: place of the variant on the axis; NaN if it has none.
      pretraining_seeds: those that gave different backbones: 1 where the backbone does not depend on them.
      label_seeds: of each.
      images, device_seconds, joules: what the pretraining cost, a mean over the seeds.
    """

    variant: str
    x: float
    arm: str
    target: str
    fraction: float
    metric: str
    value: float
    low: float
    high: float
    pretraining_seeds: int
    label_seeds: int
    images: float
    device_seconds: float
    joules: float


@dataclass(frozen=True)
class Difference:
    """A row of differences.csv: one arm or variant minus the one that it is compared with.

    Attributes:
      difference, low, high: mean over the seeds that both have, with an interval that holds together with those of all
        differences of the table.
      p: two-sided, of this difference alone.
      p_adjusted: times the number of comparisons, at most 1.
      comparisons: number of differences of the table.
      pretraining_seeds: those that gave different pairs of backbones.
      note: why there is no difference or no interval; '' if there is one.
    """

    variant: str
    x: float
    arm: str
    reference_variant: str
    reference: str
    target: str
    fraction: float
    metric: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    comparisons: int
    pretraining_seeds: int
    label_seeds: int
    note: str

    @property
    def interval(self) -> Interval:
        return Interval(self.difference, self.low, self.high)


class Outcomes:
    """The measurements of a study, by what they are about."""

    def __init__(self, study: Study, measured: Iterable[Measured], costs: Mapping[Place, Cost]):
        self.study, self.costs = study, costs
        self.xs = {one.name: math.nan if one.x is None else one.x for one in study.variants}
        self.cells: dict[tuple[str, str, str, float], dict[tuple[int, int], Measured]] = {}
        for one in measured:
            cell = self.cells.setdefault((one.variant, one.arm, one.target, one.fraction), {})
            cell[one.seed, one.label_seed] = one

    def tables(self) -> list[Table]:
        """What was measured, in the order of the targets, with the smallest share of the labels first."""
        found = {
            (target, fraction, metric): None
            for (_, _, target, fraction), cell in self.cells.items()
            for one in cell.values()
            for metric in one.scored.draws
        }
        return sorted(found, key=lambda table: (self.study.targets.index(table[0]), table[1]))

    def main_tables(self) -> list[Table]:
        """The tables of the first metric of each target, by which arms are compared."""
        first: dict[tuple[str, float], Table] = {}
        for table in self.tables():
            first.setdefault(table[:2], table)
        return list(first.values())

    def kind_of(self, target: str) -> str:
        """The kind of the labels of a target."""
        cell = next(cell for (_, _, name, _), cell in self.cells.items() if name == target)
        return next(iter(cell.values())).scored.kind

    def find(self, place: Place, table: Table) -> dict[tuple[int, int], Measured]:
        """The measurements of a variant and arm by pretraining and label seed, as far as the metric is defined."""
        cell = self.cells.get((*place, *table[:2]), {})
        return {seeds: one for seeds, one in cell.items() if table[2] in one.scored.draws}

    def places(self) -> list[Place]:
        """Every variant with every arm that was measured in it."""
        known = dict.fromkeys(place[:2] for place in self.cells)
        order = {variant.name: i for i, variant in enumerate(self.study.variants)}
        return sorted(known, key=lambda place: (order[place[0]], self.study.arms.index(place[1])))


def list_values(outcomes: Outcomes) -> list[Value]:
    """Every value that was measured."""
    return [
        Value(*place, *table, *seeds, one.scored.draws[table[2]].value)
        for place in outcomes.places()
        for table in outcomes.tables()
        for seeds, one in sorted(outcomes.find(place, table).items())
    ]


def summarise(outcomes: Outcomes) -> list[Summary]:
    """The mean of every variant and arm in every table."""
    found = []
    for table in outcomes.tables():
        for variant, arm in outcomes.places():
            cell = balance(outcomes.find((variant, arm), table))
            if not cell:
                continue
            cost = outcomes.costs.get((variant, arm), Cost(math.nan, math.nan, math.nan))
            interval = estimate_cell({seeds: one.scored.draws[table[2]] for seeds, one in cell.items()}).interval(LEVEL)
            alike = len({one.scored.images for one in cell.values()}) == 1
            found.append(
                Summary(
                    variant,
                    outcomes.xs[variant],
                    arm,
                    *table,
                    interval.value,
                    interval.low if alike else math.nan,
                    interval.high if alike else math.nan,
                    count_different({seeds: one.key for seeds, one in cell.items()}),
                    len({label for _, label in cell}),
                    cost.images,
                    cost.device_seconds,
                    cost.joules,
                )
            )
    return found


def compare(outcomes: Outcomes) -> list[Difference]:
    """Each arm minus the reference of its variant, and each variant minus the reference variant, in every table."""
    found = []
    for table in outcomes.tables():
        arms, variants = [], []
        for variant, arm in outcomes.places():
            reference = find_reference(outcomes, variant, table)
            if reference and arm != reference:
                arms.append(((variant, arm), (variant, reference)))
            other = outcomes.study.reference_variant
            if other and variant != other:
                variants.append(((variant, arm), (other, arm)))
        for family in (arms, variants):
            found += [compare_pair(outcomes, one, other, table, len(family)) for one, other in family]
    return found


def find_reference(outcomes: Outcomes, variant: str, table: Table) -> str:
    """The arm that the others of a variant are compared with; '' if it was not measured.

    Where it is the best of several, validation images say which, never the test images on which it is compared.
    """
    if outcomes.study.reference:
        return outcomes.study.reference if outcomes.find((variant, outcomes.study.reference), table) else ""
    scores = {}
    for arm in outcomes.study.candidates:
        cell = outcomes.find((variant, arm), table)
        if cell:
            scores[arm] = float(np.mean([one.validation for one in cell.values()]))
    return max(scores, key=lambda arm: scores[arm] if math.isfinite(scores[arm]) else -math.inf, default="")


def compare_pair(outcomes: Outcomes, one: Place, other: Place, table: Table, comparisons: int) -> Difference:
    """The difference of two variants or arms, paired by seed and by image.

    Args:
      comparisons: differences of the table, whose intervals hold together.
    """
    cells = [outcomes.find(place, table) for place in (one, other)]
    pairs = {seeds: (cells[0][seeds], cells[1][seeds]) for seeds in cells[0] if seeds in cells[1]}
    pairs = balance(pairs)
    note = explain_absence(pairs, cells)
    metric = table[2]
    drawn = {
        seeds: first.scored.draws[metric] - second.scored.draws[metric]
        for seeds, (first, second) in pairs.items()
        if not note
    }
    found = estimate_cell(drawn)
    interval, p = found.interval(1 - (1 - LEVEL) / comparisons), found.p_value
    if not note and not math.isfinite(interval.low):
        same = all(first.key == second.key for first, second in pairs.values())
        note = "both are the same measurements" if same else "there are too few seeds, and too few lesions or patients"
    return Difference(
        one[0],
        outcomes.xs[one[0]],
        one[1],
        *other,
        *table,
        interval.value,
        interval.low,
        interval.high,
        p,
        min(1.0, comparisons * p) if math.isfinite(p) else math.nan,
        comparisons,
        count_different({seeds: (first.key, second.key) for seeds, (first, second) in pairs.items()}),
        len({label for _, label in pairs}),
        note,
    )


def explain_absence(
    pairs: Mapping[tuple[int, int], tuple[Measured, Measured]], cells: Sequence[Mapping[tuple[int, int], Measured]]
) -> str:
    """Why two cells have no difference; '' if they have one."""
    if not all(cells):
        return "one of them has no results"
    if not pairs:
        return "they have no seed in common"
    if len({one.scored.images for pair in pairs.values() for one in pair}) > 1:
        return "they were measured on different test images"
    return ""


def balance(cell: Mapping[tuple[int, int], object]) -> dict:
    """The part of a cell in which every pretraining seed has every label seed that any has.

    While a study is not finished, those pretraining seeds are left out that lack a label seed. If all do, the label
    seeds that all of them have count.
    """
    labels = {label for _, label in cell}
    by_seed: dict[int, set[int]] = {}
    for seed, label in cell:
        by_seed.setdefault(seed, set()).add(label)
    whole = [seed for seed, found in by_seed.items() if found == labels]
    if not whole:
        labels, whole = set.intersection(*by_seed.values()) if by_seed else set(), list(by_seed)
    return {seeds: one for seeds, one in cell.items() if seeds[0] in whole and seeds[1] in labels}


def estimate_cell(drawn: Mapping[tuple[int, int], Draws]) -> Estimate:
    """The mean over pretraining seeds and label seeds.

    Args:
      drawn: by pretraining and label seed, each with each.
    """
    if not drawn:
        return Estimate(math.nan, math.nan, math.inf)
    return estimate(make_grid({seeds: one.value for seeds, one in drawn.items()}), vary_images(list(drawn.values())))


def make_grid(values: Mapping[tuple[int, int], float]) -> Float[np.ndarray, "r l"]:
    """Values by pretraining seed (row) and label seed (column)."""
    rows, columns = (sorted({seeds[i] for seeds in values}) for i in (0, 1))
    return np.array([[values[row, column] for column in columns] for row in rows])


def count_different(keys: Mapping[tuple[int, int], Hashable]) -> int:
    """How many different pretrainings, or pairs of them, there are among those of one label seed.

    Args:
      keys: of measurements, by pretraining and label seed.
    """
    found: dict[int, set[Hashable]] = {}
    for (_, label), key in keys.items():
        found.setdefault(label, set()).add(key)
    return max(map(len, found.values()), default=0)
