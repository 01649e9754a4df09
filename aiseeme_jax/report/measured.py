"""The numbers of the report: values over the seeds and differences between arms, each with its interval.

All intervals are made in one way. Each bootstrap resample draws groups of test images, and where there are several
seeds it draws seeds too, the same for both arms of a difference; the interval is that of the mean over the drawn. So it
covers the choice of test images and, with several seeds, the draw of labels and the seed of fine-tuning. It does not
cover another pretraining, nor with a single seed anything but the test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aiseeme_jax.evaluate import bootstrap, metrics, results
from aiseeme_jax.report.contents import Contents, Run


class Incomparable(Exception):
    """An arm has no value, or two have no difference; the message says why."""


@dataclass(frozen=True)
class Cell:
    """A value with its interval, `signed` for a difference; its place on the section's scale, in percent."""

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
        return number(self.value, self.signed)

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def interval(self) -> str:
        if not self.bounded:
            return "[–]"
        to = " to " if self.signed else "–"
        return f"[{number(self.low, self.signed)}{to}{number(self.high, self.signed)}]"


def number(value: float, signed: bool = False) -> str:
    """Three decimals and a real minus."""
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", "−")


class Measured:
    """What was measured in a workdir. Predictions are read, and their resamples scored, once and when first wanted."""

    def __init__(self, contents: Contents):
        self.contents = contents
        self._predictions: dict[Path, results.Predictions] = {}
        self._scores: dict[Path, metrics.Scores] = {}

    def over_seeds(self, arm: str, target: str, fraction: float | None, metric: str) -> Cell | None:
        """Mean over the seeds, None if nothing was measured.

        There is no interval where a seed has none by itself, or where predictions of several seeds are not to be had.
        ValueError as of `same_images`.
        """
        key = (arm, target, fraction, metric)
        rows = [row for row in self.contents.rows if (row.arm, row.target, row.fraction, row.metric) == key]
        if not rows:
            return None
        value = float(np.mean([row.value for row in rows]))
        if len(rows) == 1:
            return Cell(value, rows[0].low, rows[0].high)
        runs = self._runs(arm, target, fraction)
        seeds = [row.seed for row in rows]
        has_interval = np.isfinite([row.low for row in rows]).all() and runs.keys() >= set(seeds)
        if not has_interval or not self.same_images([runs[seed] for seed in seeds]):
            return Cell(value, np.nan, np.nan)
        return Cell(value, *self._interval([self._drawn(runs[seed], metric) for seed in seeds]))

    def as_it_is(self, arm: str, target: str, fraction: float, metric: str) -> Cell:
        """`over_seeds`; where that is None, Incomparable says why."""
        cell = self.over_seeds(arm, target, fraction, metric)
        if cell is None:
            # results.csv leaves out what is undefined; the metric itself says why it is.
            for run in self._runs(arm, target, fraction).values():
                self._value(run, metric)
            raise Incomparable(f"there are no results of {arm}")
        return cell

    def difference(
        self,
        arm: str,
        reference: str,
        target: str,
        metric: str = "balanced_accuracy",
        fraction: float | None = None,
    ) -> Cell:
        """A metric of one arm minus that of another, over the seeds that both have.

        On the largest share of the labels unless told otherwise.

        Paired: both on the same resamples of the same test images, in whatever order they were stored.

        Raises Incomparable if there is nothing to subtract, ValueError as of `same_images`.
        """
        fraction = self.contents.fraction_of(target) if fraction is None else fraction
        runs = [self._runs(name, target, fraction) for name in (arm, reference)]
        for name, found in zip((arm, reference), runs, strict=True):
            if not found:
                raise Incomparable(f"there are no predictions of {name}")
        seeds = sorted(runs[0].keys() & runs[1].keys())
        if not seeds:
            raise Incomparable(f"{arm} and {reference} have no seed in common")
        pairs = [(runs[0][seed], runs[1][seed]) for seed in seeds]
        if not self.same_images([run for pair in pairs for run in pair]):
            raise Incomparable(f"{arm} and {reference} were measured on different test images")
        values = [self._value(first, metric) - self._value(second, metric) for first, second in pairs]
        drawn = [self._drawn(first, metric) - self._drawn(second, metric) for first, second in pairs]
        return Cell(float(np.mean(values)), *self._interval(drawn), signed=True)

    def groups_of_classes(self, target: str) -> dict[str, int]:
        """How many groups of the test split hold each class; empty if nothing was predicted."""
        run = next((run for run in self.contents.runs if run.target == target), None)
        if run is None:
            return {}
        test = self._read(run)
        held = bootstrap.groups_of_classes(test.labels, test.groups, len(test.class_names))
        return dict(zip(map(str, test.class_names), held.tolist(), strict=True))

    def same_images(self, runs: Sequence[Run]) -> bool:
        """Whether all runs are of the same test images.

        ValueError names two folders that have the images in common, but not their classes, labels or groups.
        """
        first, *others = map(self._read, runs)
        if any(not np.array_equal(other.ids, first.ids) for other in others):
            return False
        for run, other in zip(runs[1:], others, strict=True):
            for name in ("class_names", "labels", "groups"):
                if not np.array_equal(getattr(other, name), getattr(first, name)):
                    raise ValueError(
                        f"{runs[0].directory} and {run.directory} hold the same test images with different "
                        f"{name.replace('_', ' ')}: measure both on one preparation of the data"
                    )
        return True

    def _runs(self, arm: str, target: str, fraction: float | None) -> dict[int, Run]:
        """By seed."""
        key = (arm, target, fraction)
        return {run.seed: run for run in self.contents.runs if (run.arm, run.target, run.fraction) == key}

    def _read(self, run: Run) -> results.Predictions:
        if run.directory not in self._predictions:
            self._predictions[run.directory] = results.load_predictions(run.directory).by_id()
        return self._predictions[run.directory]

    def _value(self, run: Run, metric: str) -> float:
        test = self._read(run)
        try:
            return metrics.METRICS[metric](test.labels, test.probs)
        except ValueError as error:
            raise Incomparable(str(error)) from error

    def _drawn(self, run: Run, metric: str) -> np.ndarray:
        if run.directory not in self._scores:
            test = self._read(run)
            self._scores[run.directory] = metrics.resampled_scores(
                test.labels,
                test.probs,
                groups=test.groups,
                class_names=list(map(str, test.class_names)),
                **self.contents.statistics,
            )
        return self._scores[run.directory].of(metric)

    def _interval(self, drawn: Sequence[np.ndarray]) -> tuple[float, float]:
        return bootstrap.interval(bootstrap.mean_over_runs(drawn, self.contents.statistics["seed"]))
