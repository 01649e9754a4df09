"""One arm less another, on the same test images and seeds: metrics, areas under the ROC curve, gaps of subgroups."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aiseeme_jax.errors import UserError
from aiseeme_jax.evidence import auc
from aiseeme_jax.evidence.multiple import adjust_holm
from aiseeme_jax.report.measures.arms import MeasuredArm, binary
from aiseeme_jax.report.measures.groups import GroupTables, subtract_gaps

BOOTSTRAP, OBUCHOWSKI = "bootstrap", "Obuchowski"
OVERALL, OF_CLASS, GAP = "overall", "class", "gap"


@dataclass(frozen=True)
class DifferenceRow:
    """One arm less another.

    Attributes:
      method: of interval and p: 'bootstrap', or 'Obuchowski' for areas under the ROC curve of one class.
      kind: of the metric: over all classes, of one class, or a gap of subgroups.
      p_holm: for all arms and metrics of one kind and method on one target together.
    """

    arm: str
    against: str
    target: str
    fraction: float
    kind: str
    metric: str
    method: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan


def check_comparable(arm: MeasuredArm, other: MeasuredArm) -> None:
    """Raises UserError unless two arms have the same test images and as many seeds."""
    table = arm.tests[0].differing_table(other.tests[0])
    if table:
        raise UserError(f"{arm.title} and {other.arm} were measured on test images with different {table}")
    if (arm.pretrainings, len(arm.tests)) != (other.pretrainings, len(other.tests)):
        raise UserError(
            f"{arm.title} has {len(arm.tests)} seeds, and {other.arm} {len(other.tests)}: finish the run, or compare "
            "arms with the same seeds"
        )


def subtract(arm: MeasuredArm, other: MeasuredArm, groups: Sequence[GroupTables]) -> list[DifferenceRow]:
    """All differences of two arms on one target.

    Args:
      groups: the subgroups of the first and of the second; none if there are none.

    Raises UserError as `check_comparable` does.
    """
    check_comparable(arm, other)
    return [*_subtract_metrics(arm, other), *_subtract_areas(arm, other), *_subtract_gaps(arm, other, groups)]


def adjust(rows: Sequence[DifferenceRow]) -> list[DifferenceRow]:
    """The rows with Holm's p-values: for all arms and metrics of one target, share of the labels, kind and method."""
    adjusted = np.full(len(rows), np.nan)
    tables = [(row.target, row.fraction, row.kind, row.method) for row in rows]
    for table in set(tables):
        places = [place for place, of in enumerate(tables) if of == table]
        adjusted[places] = adjust_holm([rows[place].p for place in places])
    return [replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def _subtract_metrics(arm: MeasuredArm, other: MeasuredArm) -> Iterator[DifferenceRow]:
    for name in arm.scores[0].names(further=True):
        pairs = zip(arm.scores, other.scores, strict=True)
        of_class = arm.scores[0].class_of(name)
        drawn = [one.of(name) - two.of(name) for one, two in pairs]
        found = arm.combine(drawn, of_class is None or bool(arm.carried[of_class]))
        if math.isfinite(found.value):
            numbers = found.value, found.low, found.high, found.p_value
            kind = OF_CLASS if "/" in name else OVERALL
            yield DifferenceRow(arm.arm, other.arm, arm.target, arm.fraction, kind, name, BOOTSTRAP, *numbers)


def _subtract_areas(arm: MeasuredArm, other: MeasuredArm) -> Iterator[DifferenceRow]:
    runs = len(arm.tests)
    weights = np.repeat([1 / runs, -1 / runs], runs)
    for c, name in enumerate(arm.class_names):
        truth, rows = binary(arm, c), arm.known(c)
        if truth.all() or not truth.any() or not arm.carried[c]:
            continue
        scores = [probs[rows, c] for one in (arm, other) for probs in one.probs]
        difference, error = auc.measure_areas(truth, scores, np.asarray(arm.groups)[rows]).contrast(weights)
        half = 1.959964 * error if error > 0 else math.nan
        numbers = difference, difference - half, difference + half, auc.compare_areas(difference, error)[1]
        place = arm.arm, other.arm, arm.target, arm.fraction, OF_CLASS
        yield DifferenceRow(*place, f"auroc/{name}", OBUCHOWSKI, *numbers)


def _subtract_gaps(arm: MeasuredArm, other: MeasuredArm, groups: Sequence[GroupTables]) -> Iterator[DifferenceRow]:
    if not groups:
        return
    one, two = groups
    for place in one.drawn:
        found = subtract_gaps(arm, one.drawn[place], two.drawn[place])
        if math.isfinite(found.value):
            attribute, metric = place
            numbers = found.value, found.low, found.high, found.p_value
            place = arm.arm, other.arm, arm.target, arm.fraction, GAP
            yield DifferenceRow(*place, f"gap by {attribute}: {metric}", BOOTSTRAP, *numbers)
