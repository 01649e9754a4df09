"""Tables of one arm: metrics, areas under the ROC curve, operating points, calibration, decision curves, ISIC's rules.

A number that cannot be given is left out or NaN.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from aiseeme_jax.curriculum.costs import fill_columns
from aiseeme_jax.evaluate.labels import ClassLabels
from aiseeme_jax.evidence import auc, decisions, official_isic, reliability
from aiseeme_jax.report.measures.arms import MeasuredArm, binary

# Thresholds of decision curves where the user gives none.
THRESHOLDS = (0.02, 0.5)
POINTS = 25
# What an operating point shows of `decisions.rates`.
RATES = ("sensitivity", "specificity", "ppv", "npv", "f1", "kappa", "mcc")
TOP_LABEL, CLASS_WISE = "top label", "class-wise"


@dataclass(frozen=True)
class MetricRow:
    """A metric with its interval by the bootstrap; 'auroc/MEL' is that of one class.

    Attributes:
      pretraining_images and all after it: what the pretraining cost, a mean over its seeds, and what the runs on this
        target cost together.
    """

    arm: str
    target: str
    fraction: float
    metric: str
    value: float
    low: float
    high: float
    pretraining_images: float
    pretraining_device_seconds: float
    pretraining_joules: float
    measuring_device_seconds: float
    measuring_joules: float


@dataclass(frozen=True)
class AreaRow:
    """The area under the ROC curve of a class or finding, with Obuchowski's interval.

    Attributes:
      error, error_if_independent: standard error over patients or lesions, and DeLong's, as if images were independent.
    """

    arm: str
    target: str
    fraction: float
    of: str
    positives: int
    negatives: int
    groups: int
    value: float
    low: float
    high: float
    error: float
    error_if_independent: float


@dataclass(frozen=True)
class PointRow:
    """What a threshold gives on test images that was chosen on validation by a rule."""

    arm: str
    target: str
    fraction: float
    of: str
    rule: str
    threshold: float
    measure: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationRow:
    """Calibration of one class or finding, of the decided class ('top label'), or the mean over classes ('class-wise').

    Attributes:
      state: of the probabilities: as stored, or after what was fitted on validation.
      ece_by_chance, ece_by_chance_95: mean and 95th percentile of `ece` of a calibrated model with these probabilities.
      squared_error: the debiased one, over bins of equal mass.
    """

    arm: str
    target: str
    fraction: float
    of: str
    state: str
    images: int
    ece: float
    ece_by_chance: float
    ece_by_chance_95: float
    ece_equal_mass: float
    ece_equal_mass_by_chance: float
    squared_error: float
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float
    skill: float
    slope: float
    intercept: float
    temperature: float


@dataclass(frozen=True)
class CurveRow:
    """Net benefit of acting on one class or finding at a threshold."""

    arm: str
    target: str
    fraction: float
    of: str
    state: str
    threshold: float
    net_benefit: float
    low: float
    high: float
    treat_all: float


@dataclass(frozen=True)
class OfficialRow:
    """A measure of the ISIC scorer, of one class or as the mean over all ('macro')."""

    arm: str
    target: str
    fraction: float
    of: str
    measure: str
    value: float


def tabulate_metrics(arm: MeasuredArm) -> Iterator[MetricRow]:
    """Every metric, with those that `results.csv` leaves out; what is undefined is left out."""
    cost = fill_columns(arm.pretraining, arm.measuring)
    for name in arm.scores[0].names(further=True):
        drawn = [scores.of(name) for scores in arm.scores]
        of_class = arm.scores[0].class_of(name)
        found = arm.combine(drawn, of_class is None or bool(arm.carried[of_class]))
        if math.isfinite(found.value):
            yield MetricRow(**arm.place, metric=name, value=found.value, low=found.low, high=found.high, **cost)


def measure_areas(arm: MeasuredArm, c: int) -> tuple[auc.Areas, auc.Areas]:
    """Areas of all runs for a class or finding, over patients or lesions and as if images were independent."""
    rows = arm.known(c)
    scores = [probs[rows, c] for probs in arm.probs]
    groups = np.asarray(arm.groups)[rows]
    return tuple(auc.measure_areas(binary(arm, c), scores, of) for of in (groups, None))


def tabulate_areas(arm: MeasuredArm) -> Iterator[AreaRow]:
    """The classes or findings of which there are positives and negatives."""
    mean = np.full(len(arm.tests), 1 / len(arm.tests))
    for c, name in enumerate(arm.class_names):
        positive = binary(arm, c)
        if positive.all() or not positive.any():
            continue
        clustered, independent = (areas.contrast(mean) for areas in measure_areas(arm, c))
        value, error = clustered
        low, high = auc.logit_interval(value, error) if arm.carried[c] else (math.nan, math.nan)
        sizes = int(positive.sum()), int((~positive).sum()), len(np.unique(arm.members[arm.known(c)]))
        yield AreaRow(*arm.place.values(), name, *sizes, value, low, high, error, independent[1])


def choose_thresholds(arm: MeasuredArm, c: int, rule: str, least: float) -> list[float]:
    """The threshold of each run for a class or finding, chosen on validation; none where that is not possible.

    Args:
      rule: 'sensitivity' or 'specificity', of which the threshold has at least `least`.
    """
    if not arm.has_validation:
        return []
    choose = {
        "sensitivity": decisions.threshold_for_sensitivity,
        "specificity": decisions.threshold_for_specificity,
    }[rule]
    found = []
    for validation in arm.validations:
        truth = validation.labels
        truth = truth == c if truth.ndim == 1 else truth[:, c]
        known = ~np.isnan(truth.astype(np.float64))
        truth = truth[known] == 1
        if truth.all() or not truth.any():
            return []
        found.append(choose(truth, np.asarray(validation.probs, np.float64)[known, c], least))
    return found


def tabulate_points(arm: MeasuredArm, least: float) -> Iterator[PointRow]:
    """For each class or finding a threshold of at least that sensitivity, and one of at least that specificity."""
    for c, name in enumerate(arm.class_names):
        rows, truth = arm.known(c), binary(arm, c)
        for rule in ("sensitivity", "specificity"):
            thresholds = choose_thresholds(arm, c, rule, least)
            if not thresholds or truth.all() or not truth.any():
                continue
            drawn = [
                arm.draw(functools.partial(decisions.rates, truth, probs[rows, c] >= t), rows)
                for probs, t in zip(arm.probs, thresholds, strict=True)
            ]
            for measure in RATES:
                found = arm.combine([run[measure] for run in drawn], bool(arm.carried[c]))
                numbers = float(np.mean(thresholds)), measure, found.value, found.low, found.high
                yield PointRow(*arm.place.values(), name, f"{rule} >= {least:g} on validation", *numbers)


def tabulate_calibration(arm: MeasuredArm) -> Iterator[CalibrationRow]:
    """The decided class and the mean over classes, then each class or finding, in every state of the probabilities."""
    for state, runs in arm.states.items():
        temperatures = [one.temperature for one in arm.recalibrations.get(state, [])]
        temperature = float(np.mean(temperatures)) if temperatures else math.nan
        of_class = {}
        for c, name in enumerate(arm.class_names):
            rows, truth = arm.known(c), binary(arm, c)
            if len(truth):
                of_class[name] = np.mean([_calibrate(arm, rows, truth, probs[rows, c]) for probs in runs], axis=0)
        everything = {}
        if arm.labels.KIND == ClassLabels.KIND:
            tops = [reliability.top_label(arm.labels, probs) for probs in runs]
            rows = np.ones(len(arm.labels), bool)
            everything[TOP_LABEL] = np.mean([_calibrate(arm, rows, *top) for top in tops], axis=0)
        if of_class:
            everything[CLASS_WISE] = _mean_over_classes(list(of_class.values()))
        for name, (images, *numbers) in (everything | of_class).items():
            yield CalibrationRow(*arm.place.values(), name, state, int(images), *numbers, temperature)


def _calibrate(arm: MeasuredArm, rows: np.ndarray, truth: np.ndarray, probs: np.ndarray) -> list[float]:
    """The numbers of a `CalibrationRow`, from `images` to `intercept`."""
    groups, seed = np.asarray(arm.groups)[rows], arm.statistics["seed"]
    wide = reliability.null_of_ece(probs, groups, seed=seed)
    even = reliability.null_of_ece(probs, groups, reliability.equal_mass, seed=seed)
    parts = reliability.decompose_brier(truth, probs)
    return [
        len(truth),
        reliability.ece(truth, probs),
        *wide,
        reliability.ece(truth, probs, reliability.equal_mass),
        even[0],
        reliability.debiased_squared_error(truth, probs),
        parts.score,
        parts.reliability,
        parts.resolution,
        parts.uncertainty,
        parts.within,
        parts.skill,
        *reliability.fit_slope(truth, probs),
    ]


def _mean_over_classes(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Means of errors over the classes; skill, slope and intercept of a mean mean nothing."""
    found = np.mean(rows, axis=0)
    found[-3:] = math.nan
    # The percentile of a mean is not the mean of percentiles.
    found[3] = math.nan
    return found


def tabulate_curves(arm: MeasuredArm, thresholds: Sequence[float]) -> Iterator[CurveRow]:
    """Net benefit of each class or finding over thresholds, with the probabilities that are calibrated best."""
    state = arm.calibrated
    for c, name in enumerate(arm.class_names):
        rows, truth = arm.known(c), binary(arm, c)
        if truth.all() or not truth.any():
            continue
        drawn = [
            arm.draw(functools.partial(_benefits, truth, probs[rows, c], thresholds), rows)
            for probs in arm.states[state]
        ]
        everybody = decisions.treat_all(float(truth.mean()), thresholds)
        for place, threshold in enumerate(thresholds):
            found = arm.combine([run[place] for run in drawn], bool(arm.carried[c]))
            numbers = float(threshold), found.value, found.low, found.high, float(everybody[place])
            yield CurveRow(*arm.place.values(), name, state, *numbers)


def _benefits(truth, probs, thresholds, weights) -> dict[int, np.ndarray]:
    """Net benefit by the place of its threshold."""
    return dict(enumerate(decisions.net_benefit(truth, probs, thresholds, weights).T))


def spread_thresholds(lowest: float, highest: float) -> list[float]:
    """POINTS thresholds between two, evenly on the logit, so that small ones are not crowded."""
    ends = special.logit([lowest, highest])
    return special.expit(np.linspace(*ends, POINTS)).round(6).tolist()


def tabulate_official(arm: MeasuredArm) -> Iterator[OfficialRow]:
    """Nothing for findings."""
    if arm.labels.KIND != ClassLabels.KIND:
        return
    runs = [official_isic.score_classes(arm.tests[0].labels, probs) for probs in arm.probs]
    for measure in official_isic.MEASURES:
        of_class = np.mean([run[measure] for run in runs], axis=0)
        for name, value in zip(arm.class_names, of_class, strict=True):
            yield OfficialRow(*arm.place.values(), name, measure, float(value))
        yield OfficialRow(*arm.place.values(), "macro", measure, float(of_class.mean()))
