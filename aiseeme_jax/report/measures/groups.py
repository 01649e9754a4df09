"""Tables of subgroups of one arm: values with intervals and sizes, gaps, and the distance from equalised odds."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiseeme_jax import data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import metrics, weighted
from aiseeme_jax.evaluate.bootstrap import Draws
from aiseeme_jax.evaluate.labels import ClassLabels
from aiseeme_jax.evidence import subgroup_measures, subgroups
from aiseeme_jax.evidence.multiple import adjust_holm
from aiseeme_jax.report.measures.arms import MeasuredArm, Number
from aiseeme_jax.report.measures.tables import choose_thresholds

# Attributes that are taken where the user names none, as far as the data set has them.
ATTRIBUTES = ("sex", "age", "skin_tone", "skin_type", "race", "site", "view", "scanner", "manufacturer")
# Between attributes whose subgroups are intersected.
JOINED = "+"
EQUALISED_ODDS = "equalised_odds"


@dataclass(frozen=True)
class GroupRow:
    """A metric of one subgroup.

    Attributes:
      decided: how images are called positive for sensitivity, false alarms and ppv.
      positives: patients or lesions of the subgroup that have the class.
    """

    arm: str
    target: str
    fraction: float
    attribute: str
    metric: str
    decided: str
    subgroup: str
    images: int
    groups: int
    positives: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GapRow:
    """The gap of a metric over the subgroups of an attribute.

    Attributes:
      by_chance, by_chance_95: mean and 95th percentile if the attribute made no difference.
      p, p_holm: by dealing the attribute out anew; Holm's, over all gaps of one arm on one target.
      smallest: images of the smallest subgroup that takes part.
      smallest_counted: the fewest patients or lesions of such a subgroup that the metric counts: of a sensitivity those
        with the class.
    """

    arm: str
    target: str
    fraction: float
    attribute: str
    metric: str
    highest: str
    lowest: str
    gap: float
    low: float
    high: float
    by_chance: float
    by_chance_95: float
    p: float
    p_holm: float
    smallest: int
    smallest_counted: int


@dataclass(frozen=True)
class GroupTables:
    """Rows of subgroups and of gaps, and what the gaps were made of.

    Attributes:
      drawn: by attribute and metric, of each run its subgroups.
    """

    groups: list[GroupRow]
    gaps: list[GapRow]
    drawn: Mapping[tuple[str, str], list[dict[str, Draws]]]


@dataclass(frozen=True)
class GroupMetric:
    """What is measured in subgroups.

    Attributes:
      measures: of each run.
      counted: bool [N], the rows without which a subgroup has no value.
      positives: bool [N], the rows with the class; all of them for a metric over all classes.
      strata: int [N], what images exchange their attribute within.
      decided: as of `GroupRow`.
    """

    name: str
    measures: Sequence[subgroups.Measure]
    counted: np.ndarray
    positives: np.ndarray
    strata: np.ndarray
    decided: str = ""


def read_attributes(arm: MeasuredArm, name: str, data_dir: str, wanted: Sequence[str]) -> dict[str, Sequence[str]]:
    """The subgroup of each test image, by attribute.

    Args:
      name: of the data set.
      wanted: attributes, or several joined by '+' for subgroups that have all of them in common, as in 'sex+age'; by
        default those of ATTRIBUTES that tell some images from others.

    Raises UserError if the data set cannot be opened, if it has not the test images that were measured, or if it lacks
    an attribute that is wanted.
    """
    split = data.each_picture(data.open_split(name, "test", data_dir))
    unknown = [one for asked in wanted for one in asked.split(JOINED) if one not in split.attributes]
    if unknown:
        there = ", ".join(sorted(split.attributes)) or "none"
        raise UserError(f"{split.name} has no attribute '{unknown[0]}': there are {there}")
    place = {str(i): row for row, i in enumerate(split.ids.tolist())}
    missing = [str(i) for i in arm.tests[0].ids if str(i) not in place]
    if missing:
        raise UserError(
            f"{split.name} lacks {len(missing)} of the {len(arm.labels)} test images of {arm.title}, such as "
            f"'{missing[0]}': give the --data_dir with the preparation that was measured"
        )
    rows = np.array([place[str(i)] for i in arm.tests[0].ids])
    chosen = wanted or [attribute for attribute in ATTRIBUTES if attribute in split.attributes]
    found = {}
    for asked in chosen:
        parts = [subgroups.name_subgroups(split.attributes[one][rows], one) for one in asked.split(JOINED)]
        found[asked] = subgroups.intersect(parts)
    return found if wanted else {one: names for one, names in found.items() if len(set(names)) > 1}


def tabulate_groups(
    arm: MeasuredArm,
    attributes: Mapping[str, Sequence[str]],
    least: float,
    classes: Sequence[str],
    deals: int = subgroups.DEALS,
) -> GroupTables:
    """Subgroups and gaps of every metric.

    Args:
      attributes: of `read_attributes`.
      least: sensitivity on validation of the threshold for all subgroups.
      classes: names of those that are measured by themselves; by default all.
      deals: of each attribute, for the gaps by chance.
    """
    made = list(list_metrics(arm, least, classes))
    groups, gaps, drawn = [], [], {}
    for attribute, names in attributes.items():
        found = subgroups.Subgroups(names, arm.groups, **arm.statistics)
        of_metric = {}
        measured = iter(found.measure_all([(one, metric.counted) for metric in made for one in metric.measures]))
        for metric in made:
            runs = [next(measured) for _ in metric.measures]
            drawn[attribute, metric.name] = [
                {name: one for name, one in run.items() if found.carries(name, metric.counted)} for run in runs
            ]
            place = {**arm.place, "attribute": attribute, "metric": metric.name}
            for row in found.describe(runs, metric.counted, metric.positives):
                numbers = dataclasses.asdict(row)
                groups.append(GroupRow(**place, decided=metric.decided, subgroup=numbers.pop("name"), **numbers))
            of_metric[metric.name] = found.measure_gap(metric.measures, runs, metric.counted, metric.strata, deals)
        gaps += [(attribute, name, gap) for name, gap in _with_equalised_odds(of_metric)]
    return GroupTables(groups, _adjust(arm, gaps), drawn)


def _with_equalised_odds(gaps: Mapping[str, subgroups.Gap]) -> Iterator[tuple[str, subgroups.Gap]]:
    for name, gap in gaps.items():
        yield name, gap
        metric, _, of = name.partition("/")
        if metric == "false_alarms":
            yield f"{EQUALISED_ODDS}/{of}", subgroups.larger_gap(gaps[f"sensitivity/{of}"], gap)


def _adjust(arm: MeasuredArm, gaps: Sequence[tuple[str, str, subgroups.Gap]]) -> list[GapRow]:
    """The rows of gaps, with p-values for all of them together; the one of equalised odds is that of its gap."""
    tested = [math.nan if name.startswith(EQUALISED_ODDS) else gap.p_value for _, name, gap in gaps]
    rows = []
    for (attribute, name, gap), adjusted in zip(gaps, adjust_holm(tested), strict=True):
        p = math.nan if name.startswith(EQUALISED_ODDS) else gap.p_value
        numbers = gap.value, gap.low, gap.high, gap.by_chance, gap.by_chance_95, p, float(adjusted)
        numbers = *numbers, gap.smallest, gap.smallest_counted
        rows.append(GapRow(*arm.place.values(), attribute, name, gap.highest, gap.lowest, *numbers))
    return rows


def list_metrics(arm: MeasuredArm, least: float, classes: Sequence[str]) -> Iterator[GroupMetric]:
    """The main metrics, then of each class or finding its areas and, where images are called, the rates."""
    labels = arm.labels
    everything = np.ones(len(labels), bool)
    strata = labels.values if labels.KIND == ClassLabels.KIND else labels.present.any(axis=1).astype(np.int64)
    for name in labels.METRICS[:2]:
        measures = [
            functools.partial(subgroup_measures.measure_all, metrics.METRICS[name], labels, probs)
            for probs in arm.probs
        ]
        yield GroupMetric(name, measures, everything, everything, strata)
    for c, name in enumerate(arm.class_names):
        known = arm.known(c)
        present = labels.present[:, c]
        if (classes and name not in classes) or not present.any() or present[known].all():
            continue
        yield from _metrics_of_class(arm, c, known, present, least)


def _metrics_of_class(
    arm: MeasuredArm, c: int, known: np.ndarray, present: np.ndarray, least: float
) -> Iterator[GroupMetric]:
    name, strata = arm.class_names[c], present.astype(np.int64)
    # What depends on how frequent the class is has no gap by chance that keeps the frequencies.
    one_stratum = np.zeros(len(present), np.int64)
    for metric, across in (("auroc", False), ("auroc_against_others", True)):
        measures = [
            functools.partial(subgroup_measures.measure_area, known, present, probs[:, c], across)
            for probs in arm.probs
        ]
        yield GroupMetric(f"{metric}/{name}", measures, known & present, present, strata)
    excess = [
        functools.partial(subgroup_measures.measure_excess, known, present, probs[:, c])
        for probs in arm.states[arm.calibrated]
    ]
    yield GroupMetric(f"excess_probability/{name}", excess, known, present, one_stratum, arm.calibrated)
    called, decided = call_positive(arm, c, least)
    if not called:
        return
    prevalence = float(present[known].mean())
    for metric, counted in (
        ("sensitivity", known & present),
        ("false_alarms", known & ~present),
        ("ppv", known),
        ("ppv_at_one_prevalence", known),
    ):
        measures = [
            functools.partial(subgroup_measures.measure_rate, metric, known, present, one, prevalence) for one in called
        ]
        within = one_stratum if metric == "ppv" else strata
        yield GroupMetric(f"{metric}/{name}", measures, counted, present, within, decided)


def call_positive(arm: MeasuredArm, c: int, least: float) -> tuple[list[np.ndarray], str]:
    """Which images each run calls positive, at a threshold from validation, or by the highest probability without one.

    Findings cannot be called without validation: then there is none.
    """
    thresholds = choose_thresholds(arm, c, "sensitivity", least)
    if thresholds:
        called = [probs[:, c] >= t for probs, t in zip(arm.probs, thresholds, strict=True)]
        return called, f"sensitivity >= {least:g} on validation"
    if arm.labels.KIND == ClassLabels.KIND:
        return [weighted.decisions(probs) == c for probs in arm.probs], "highest probability"
    return [], ""


def subtract_gaps(arm: MeasuredArm, one: list[dict[str, Draws]], two: list[dict[str, Draws]]) -> Number:
    """The gap of one arm less that of another, on the same resamples; both are biased upwards alike."""
    return arm.combine([_gap(a) - _gap(b) for a, b in zip(one, two, strict=True)])


def _gap(run: dict[str, Draws]) -> Draws:
    """Highest less lowest value, on the images as they are and on each resample, of subgroups that have a value."""
    parts = [drawn for drawn in run.values() if math.isfinite(drawn.value)]
    if len(parts) < 2:
        return Draws(math.nan, np.empty(0), np.empty(0))
    spread = {name: np.ptp([getattr(p, name) for p in parts], axis=0) for name in ("value", "without", "resampled")}
    return Draws(float(spread["value"]), spread["without"], spread["resampled"])
