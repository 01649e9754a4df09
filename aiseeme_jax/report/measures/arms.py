"""An arm on a target: its predictions for test and validation images, over all seeds."""

import fnmatch
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from aiseeme_jax.curriculum.costs import Cost, mean_costs
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import metrics, over_seeds, results
from aiseeme_jax.evaluate.bootstrap import (
    MIN_GROUPS,
    Draws,
    draw_weights,
    interval,
    mean_over_runs,
    number_groups,
    split_draws,
)
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.labels import Labels, check_labels_and_probs, make_labels
from aiseeme_jax.evaluate.masks import MaskScoring
from aiseeme_jax.evaluate.scores import check_predictions, load_validation
from aiseeme_jax.evidence.multiple import resampled_p_value
from aiseeme_jax.evidence.reliability import Recalibration, recalibrate
from aiseeme_jax.report.contents import Contents, Run, sum_measuring
from aiseeme_jax.report.estimates import Estimates
from aiseeme_jax.report.names import describe_target

# Methods against class imbalance that train as if all classes were equally frequent.
BALANCED = ("inverse_frequency", "balanced_sampling", "balanced_softmax", "logit_adjustment")
# What the arms of a study are called: 'curriculum, seed 1'.
SEED = ", seed "
AS_STORED, TEMPERATURE, FREQUENCIES = "as stored", "temperature", "frequencies, temperature"


@dataclass(frozen=True)
class Number:
    """A value with the ends of its 95 % interval, and the p-value of the hypothesis that it is 0; NaN without one."""

    value: float
    low: float
    high: float
    p_value: float = math.nan


@dataclass(frozen=True)
class MeasuredArm:
    """One arm on one target with one share of the labels.

    Attributes:
      tests, validations: predictions of each run, in the order of their ids. Where there are several pretraining seeds,
        the runs of the first come first. Validation is None where it was not kept.
      temperatures: that each run fitted on validation when it was made; None where it fitted none.
      pretrainings: number of pretraining seeds.
      balanced: whether the classifier was trained as if all classes were equally frequent.
      statistics: samples and seed of the bootstrap.
      pretraining, measuring: what the pretraining cost, a mean over its seeds, and the runs on this target together.
    """

    arm: str
    target: str
    fraction: float
    tests: tuple[results.Predictions, ...]
    validations: tuple[results.Predictions | None, ...]
    temperatures: tuple[float | None, ...]
    pretrainings: int
    balanced: bool
    statistics: Mapping[str, int]
    pretraining: Cost = Cost()
    measuring: Cost = Cost()

    @property
    def title(self) -> str:
        return f"{self.arm}, {self.measured}"

    @property
    def measured(self) -> str:
        """The target in words, with the share of the labels."""
        share = "" if self.fraction == 1 else f" on {in_words(self.fraction)}"
        return f"{describe_target(self.target)}{share}"

    @property
    def place(self) -> dict[str, Any]:
        """The columns with which each row of a table begins."""
        return {"arm": self.arm, "target": self.target, "fraction": self.fraction}

    @functools.cached_property
    def labels(self) -> Labels:
        return make_labels(self.tests[0].labels, len(self.class_names))

    @functools.cached_property
    def class_names(self) -> list[str]:
        return list(map(str, self.tests[0].class_names))

    @property
    def groups(self) -> Sequence[str]:
        return self.tests[0].groups

    @functools.cached_property
    def members(self) -> Int[np.ndarray, "n"]:
        return number_groups(self.groups, len(self.labels))

    @functools.cached_property
    def probs(self) -> list[Float[np.ndarray, "n c"]]:
        """As stored, of each run."""
        return [check_labels_and_probs(test.labels, test.probs)[1] for test in self.tests]

    @functools.cached_property
    def carried(self) -> Bool[np.ndarray, "c"]:
        """Whether enough patients or lesions have a class or finding for an interval of its own."""
        return self.labels.groups_for_interval(self.members) >= MIN_GROUPS

    @functools.cached_property
    def scores(self) -> list[metrics.Scores]:
        options = {"groups": self.groups, "class_names": self.class_names, **self.statistics}
        return [metrics.Scores(self.tests[0].labels, probs, **options) for probs in self.probs]

    @property
    def has_validation(self) -> bool:
        return all(validation is not None for validation in self.validations)

    @functools.cached_property
    def recalibrations(self) -> dict[str, list[Recalibration]]:
        """What was fitted on validation in each run: nothing, a temperature, and frequencies beside it, as known."""
        if not self.has_validation:
            if None in self.temperatures:
                return {}
            return {TEMPERATURE: [Recalibration(t, None, "") for t in self.temperatures]}
        pairs = [(validation.labels, validation.probs) for validation in self.validations]
        found = {TEMPERATURE: [recalibrate(*pair) for pair in pairs]}
        if self.balanced:
            found[FREQUENCIES] = [recalibrate(*pair, balanced=True) for pair in pairs]
        return found

    @functools.cached_property
    def states(self) -> dict[str, list[Float[np.ndarray, "n c"]]]:
        """Test probabilities of each run as they are stored, and after what was fitted on validation."""
        found = {AS_STORED: self.probs}
        for name, fitted in self.recalibrations.items():
            found[name] = [one.apply(self.labels, probs) for one, probs in zip(fitted, self.probs, strict=True)]
        return found

    @property
    def calibrated(self) -> str:
        """The name of the state that is calibrated best."""
        return list(self.states)[-1]

    def known(self, c: int) -> Bool[np.ndarray, "n"]:
        """The rows in which a finding is known; of a class all rows."""
        return np.asarray(self.labels.known[:, c])

    def draw(
        self, measure: Callable[[Float[np.ndarray, "s k"]], Mapping[str, np.ndarray]], rows: Bool[np.ndarray, "n"]
    ) -> dict[str, Draws]:
        """Measures on everything that their intervals are made of.

        Args:
          measure: weightings of the k chosen rows -> for each name a value for each weighting.
          rows: which rows are chosen.
        """
        blocks = draw_weights(self.groups, len(self.labels), **self.statistics)
        found = [measure(weights[:, rows]) for weights in blocks]
        return {
            name: split_draws(np.concatenate([block[name] for block in found]), self.statistics["samples"])
            for name in found[0]
        }

    def combine(self, drawn: Sequence[Draws], carried: bool = True) -> Number:
        """The mean over all runs with its interval.

        With several pretraining seeds the interval covers another pretraining (`over_seeds`); with one it covers test
        images, and the seeds of the labels if there are several.

        Args:
          carried: False if too few patients or lesions carry an interval.
        """
        value = float(np.mean([run.value for run in drawn]))
        if not carried or not math.isfinite(value):
            return Number(value, math.nan, math.nan)
        if self.pretrainings > 1:
            values = np.reshape([run.value for run in drawn], (self.pretrainings, -1))
            found = over_seeds.estimate(values, over_seeds.vary_images(drawn))
            ends = found.interval()
            return Number(value, ends.low, ends.high, found.p_value)
        seed = self.statistics["seed"]
        low, high = interval(drawn, seed)
        if low == high:
            # Where all resamples are alike, they cannot say how far from them the truth is.
            return Number(value, math.nan, math.nan)
        return Number(value, low, high, resampled_p_value(mean_over_runs([run.resampled for run in drawn], seed)))


def collect_arms(
    contents: Contents, arms: Sequence[str], targets: Sequence[str], fraction: float | None
) -> list[MeasuredArm]:
    """The arms that patterns name on each target, with the largest share of the labels or the one asked for.

    In the workdir of a study, the pretraining seeds of an arm are taken together.

    Raises UserError for a pattern that names nothing, if nothing was measured, and for runs of other test images.
    """
    grouped = _group_pretrainings(contents)
    named = _match(list(grouped), arms)
    estimates = Estimates(contents)
    measured = list_classified(estimates)
    if not measured:
        raise UserError("nothing has been measured yet that gives probabilities")
    unknown = [target for target in targets if target not in measured]
    if unknown:
        raise UserError(f"no target '{unknown[0]}' was measured: there are {', '.join(measured)}")
    found = []
    for target in targets or measured:
        shares = contents.fractions_of(target)
        chosen = shares[-1:] if fraction is None else [share for share in shares if f"{share:g}" == f"{fraction:g}"]
        for share in chosen:
            for arm in named:
                if runs := _find_runs(contents, grouped[arm], target, share):
                    if not estimates.have_same_images([run for row in runs for run in row]):
                        raise UserError(f"the seeds of {arm} on {target} were measured on different test images")
                    found.append(_load_arm(contents, arm, target, share, runs))
    if not found:
        known = sorted({f"{share:g}" for target in measured for share in contents.fractions_of(target)})
        raise UserError(f"nothing was measured of that: the shares of the labels are {', '.join(known)}")
    return found


def list_classified(estimates: Estimates) -> list[str]:
    """The targets that were measured and give probabilities of classes or findings, unlike masks."""
    targets = estimates.contents.measured_targets()
    return [target for target in targets if estimates.scoring_of(target).kind != MaskScoring.kind]


def _match(known: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that patterns stand for, in their order. Raises UserError for a pattern that stands for none."""
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise UserError(f"no arm '{pattern}': there are {', '.join(known)}")
    return [name for name in known if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _group_pretrainings(contents: Contents) -> dict[str, list[str]]:
    """The arms of a workdir; in that of a study, those that differ by the pretraining seed alone are one."""
    found: dict[str, list[str]] = {}
    for arm in contents.arms:
        name = arm.rpartition(SEED)[0] if contents.config["job"] == "study" else arm
        found.setdefault(name or arm, []).append(arm)
    return found


def _find_runs(contents: Contents, arms: Sequence[str], target: str, fraction: float) -> list[list[Run]]:
    """The runs of each pretraining seed, with the label seeds that all of them have."""
    rows = [{run.seed: run for run in contents.runs_of(arm, target, fraction)} for arm in arms]
    rows = [row for row in rows if row]
    common = sorted(set.intersection(*(set(row) for row in rows))) if rows else []
    return [[row[seed] for seed in common] for row in rows] if common else []


def _load_arm(contents: Contents, arm: str, target: str, fraction: float, runs: list[list[Run]]) -> MeasuredArm:
    flat = [run for row in runs for run in row]
    for run in flat:
        check_predictions(run.directory)
    validations = [load_validation(run.directory) for run in flat]
    return MeasuredArm(
        arm=arm,
        target=target,
        fraction=fraction,
        tests=tuple(results.load_predictions(run.directory).by_id() for run in flat),
        validations=tuple(None if one is None else one.by_id() for one in validations),
        temperatures=tuple(run.record.get("temperature") for run in flat),
        pretrainings=len(runs),
        balanced=trains_balanced(contents.fields_of(target)),
        statistics=contents.statistics,
        pretraining=mean_costs(contents.pretraining_cost(row[0].arm) for row in runs),
        measuring=sum_measuring(flat),
    )


def join_runs(arm: MeasuredArm) -> MeasuredArm:
    """The ensemble of all runs of an arm: one classifier, whose probabilities are the means of theirs."""

    def join(runs: Sequence[results.Predictions | None]) -> results.Predictions | None:
        if None in runs or any(list(run.ids) != list(runs[0].ids) for run in runs):
            return None
        return replace(runs[0], probs=np.mean([run.probs for run in runs], axis=0))

    return replace(
        arm,
        arm=f"{arm.arm}, ensemble of {len(arm.tests)}",
        tests=(join(arm.tests),),
        validations=(join(arm.validations),),
        temperatures=(None,),
        pretrainings=1,
    )


def trains_balanced(fields: Mapping[str, Any]) -> bool:
    """Whether a target trains its classifier as if all classes were equally frequent.

    That of `class_balanced`, `focal`, `ldam_drw` and `ccl` lies between that and the frequencies as they are, so that
    no shift is known for it.
    """
    if "imbalance" in fields:
        method = fields["imbalance"]
        return method["name"] in BALANCED and method.get("tau", 1.0) == 1
    return fields.get("class_weight") == "balanced"


def binary(arm: MeasuredArm, c: int) -> Bool[np.ndarray, "k"]:
    """Whether each row in which a class or finding is known has it."""
    return np.asarray(arm.labels.present[arm.known(c), c])
