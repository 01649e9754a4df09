"""The numbers of the report: values over the seeds and differences between arms, each with its interval.

All intervals are made in one way. Each bootstrap resample draws groups of test images, and where there are several
seeds it draws seeds too, the same for both arms of a difference; the interval is that of the mean over the drawn. So it
covers the choice of test images and, with several seeds, the draw of labels and the seed of fine-tuning. It does not
cover another pretraining. With a single seed it covers nothing but the test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import bootstrap, results
from aiseeme_jax.evaluate.masks import MaskScoring
from aiseeme_jax.evaluate.over_seeds import format_number
from aiseeme_jax.evaluate.scores import make_scoring
from aiseeme_jax.evaluate.scoring import Scoring
from aiseeme_jax.report import names
from aiseeme_jax.report.contents import Contents, Run


class Incomparable(Exception):
    """An arm has no value, or two arms have no difference; the message says why."""


@dataclass(frozen=True)
class Cell:
    """A value with its 95 % interval, as a table shows it.

    Attributes:
      low, high: ends of the interval, NaN where there is none.
      signed: whether it is a difference.
      best: whether it is the best of its column.
      left, width, dot: place of the interval and of the value on the scale of the section, in percent.
    """

    value: float
    low: float
    high: float
    signed: bool = False
    best: bool = False
    left: float = 0.0
    width: float = 0.0
    dot: float = 0.0

    @property
    def text(self) -> str:
        return format_number(self.value, self.signed)

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def interval(self) -> str:
        if not self.bounded:
            return "[–]"
        to = " to " if self.signed else "–"
        return f"[{format_number(self.low, self.signed)}{to}{format_number(self.high, self.signed)}]"


class Estimates:
    """What was measured in a workdir. Predictions are read, and their resamples scored, once and when first wanted."""

    def __init__(self, contents: Contents):
        self.contents = contents
        self._rows: dict[tuple[str, str, float, str], list[results.Row]] = {}
        for row in contents.rows:
            self._rows.setdefault((row.arm, row.target, row.fraction, row.metric), []).append(row)
        self._predictions: dict[Path, results.AnyPredictions] = {}
        self._scores: dict[Path, Scoring] = {}

    # Targets

    def read_predictions(self, target: str) -> results.AnyPredictions:
        """Some predictions of a target that was measured; all are of the same test images."""
        return self._read(self._find_run(target))

    def scoring_of(self, target: str) -> Scoring:
        """The metrics that exist for a target that was measured, those of one of its measurements."""
        return self._score(self._find_run(target))

    def main_metric(self, target: str) -> str:
        """The metric by which arms are compared on a target: balanced accuracy, macro AUROC of findings, Jaccard."""
        return self.scoring_of(target).metrics[0]

    def headline_names(self, target: str) -> tuple[str, ...]:
        """The metrics that stand for all of a target, its main one first."""
        return self.scoring_of(target).headline_names

    def describe_metric(self, target: str, metric: str | None = None) -> str:
        """A metric of a target in words; by default its main one."""
        return names.describe_metric(metric or self.main_metric(target), self.scoring_of(target).kind)

    def _find_run(self, target: str) -> Run:
        return next(run for run in self.contents.runs if run.target == target)

    def chance(self, target: str, metric: str | None = None) -> float | None:
        """What a metric of a target is, in the mean, for decisions or scores that do not depend on the image.

        None if it has no such value, or one that depends on how common the classes are.

        Args:
          metric: by default the main one.
        """
        scoring, metric = self.scoring_of(target), metric or self.main_metric(target)
        if scoring.kind == MaskScoring.kind:
            return None
        # Whoever always decides for one of the classes in the test images is right about that one.
        values = {"auroc": 0.5, "balanced_accuracy": 1 / max(len(scoring.labels.measured), 1)}
        return values.get(metric)

    # Numbers

    def estimate(self, arm: str, target: str, fraction: float, metric: str) -> Cell | None:
        """The mean of a metric over the seeds; None if nothing was measured, or the metric is undefined.

        There is no interval where one of the seeds has none by itself.

        Raises UserError as `have_same_images` does.
        """
        rows = self._rows.get((arm, target, fraction, metric))
        if not rows:
            return None
        value = float(np.mean([row.value for row in rows]))
        if len(rows) == 1:
            return Cell(value, rows[0].low, rows[0].high)
        found = self._runs(arm, target, fraction)
        runs = [found[row.seed] for row in rows]
        if not np.isfinite([row.low for row in rows]).all() or not self.have_same_images(runs):
            return Cell(value, np.nan, np.nan)
        return Cell(value, *self._interval([self._draw(run, metric) for run in runs]))

    def require_estimate(self, arm: str, target: str, fraction: float, metric: str) -> Cell:
        """As `estimate`, but where that gives None, raises Incomparable, which says why."""
        cell = self.estimate(arm, target, fraction, metric)
        if cell is None:
            # The table of results leaves out what is undefined; the metric itself says why it is.
            for run in self._runs(arm, target, fraction).values():
                self._value(run, metric)
            raise Incomparable(f"there are no results of {arm}")
        return cell

    def estimate_difference(
        self, arm: str, reference: str, target: str, metric: str | None = None, fraction: float | None = None
    ) -> Cell:
        """A metric of one arm minus that of another, over the seeds that both have.

        It is paired: both arms are scored on the same resamples of the same test images, in whatever order they were
        stored.

        Args:
          metric: by default the main one of the target.
          fraction: of the labels; by default the largest that the target was measured with.

        Raises Incomparable if there is nothing to subtract, UserError as `have_same_images` does.
        """
        fraction = self.contents.largest_fraction_of(target) if fraction is None else fraction
        runs = [self._runs(name, target, fraction) for name in (arm, reference)]
        for name, found in zip((arm, reference), runs, strict=True):
            if not found:
                raise Incomparable(f"there are no predictions of {name}")
        seeds = sorted(runs[0].keys() & runs[1].keys())
        if not seeds:
            raise Incomparable(f"{arm} and {reference} have no seed in common")
        pairs = [(runs[0][seed], runs[1][seed]) for seed in seeds]
        if not self.have_same_images([run for pair in pairs for run in pair]):
            raise Incomparable(f"{arm} and {reference} were measured on different test images")
        metric = metric or self.main_metric(target)
        values = [self._value(first, metric) - self._value(second, metric) for first, second in pairs]
        drawn = [self._draw(first, metric) - self._draw(second, metric) for first, second in pairs]
        return Cell(float(np.mean(values)), *self._interval(drawn), signed=True)

    def have_same_images(self, runs: Sequence[Run]) -> bool:
        """Whether all runs are of the same test images.

        Raises UserError that names two folders with the same images, but other classes, labels or groups.
        """
        first, *others = map(self._read, runs)
        for run, other in zip(runs[1:], others, strict=True):
            table = first.differing_table(other)
            if table == "ids":
                return False
            if table:
                raise UserError(
                    f"{runs[0].directory} and {run.directory} hold the same test images with different "
                    f"{table.replace('_', ' ')}: measure both on one preparation of the data"
                )
        return True

    def _runs(self, arm: str, target: str, fraction: float | None) -> dict[int, Run]:
        """By seed."""
        return {run.seed: run for run in self.contents.runs_of(arm, target, fraction)}

    def _read(self, run: Run) -> results.AnyPredictions:
        if run.directory not in self._predictions:
            self._predictions[run.directory] = results.load_predictions(run.directory).by_id()
        return self._predictions[run.directory]

    def _value(self, run: Run, metric: str) -> float:
        try:
            return self._score(run).value(metric)
        except ValueError as error:
            raise Incomparable(str(error)) from error

    def _draw(self, run: Run, metric: str) -> bootstrap.Draws:
        """A metric of a run on everything that its interval is made of."""
        return self._score(run).of(metric)

    def _score(self, run: Run) -> Scoring:
        if run.directory not in self._scores:
            self._scores[run.directory] = make_scoring(self._read(run), **self.contents.statistics)
        return self._scores[run.directory]

    def _interval(self, drawn: Sequence[bootstrap.Draws]) -> tuple[float, float]:
        return bootstrap.interval(drawn, self.contents.statistics["seed"])
