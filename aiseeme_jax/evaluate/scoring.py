"""What tables of results ask of a measurement, whatever it predicts: its metrics, their values and their intervals."""

import abc
from collections.abc import Mapping

import numpy as np

from aiseeme_jax.evaluate.bootstrap import Draws, interval

# Metrics of which a smaller value is the better one. Of all others it is the larger one.
LOWER_IS_BETTER = frozenset({"hausdorff95", "hausdorff95_undefined"})


class Scoring(abc.ABC):
    """The metrics of one measurement.

    Attributes:
      kind: of what was predicted; measurements of one kind have the same metrics.
      metrics: names of the metrics, in the order of a summary. The first is the main one, by which arms are compared.
        The first two stand for all.
      per_class: names of those that exist for each class or finding too.
      seed: of the resamples.
    """

    kind: str
    metrics: tuple[str, ...]
    per_class: tuple[str, ...]
    seed: int

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of test images."""

    @abc.abstractmethod
    def value(self, name: str) -> float:
        """A metric on the data as they are. Raises ValueError that says why, if it is undefined."""

    @abc.abstractmethod
    def of(self, name: str) -> Draws:
        """A metric on everything that its interval is made of."""

    @property
    def headline_names(self) -> tuple[str, ...]:
        """The two metrics that stand for all."""
        return self.metrics[:2]

    def names(self, further: bool = False) -> list[str]:
        """Every metric, with those of each class.

        Args:
          further: with those that `results.csv` leaves out.
        """
        return list(self.metrics)

    def has_interval(self, name: str) -> bool:
        """Whether enough groups stand behind a metric for an interval."""
        return True

    def count_groups(self) -> Mapping[str, int]:
        """How many lesions or patients the interval of each class or finding rests on."""
        return {}

    def headline(self) -> dict[str, float]:
        """The value of each headline metric, without intervals. What is undefined on the data is left out."""
        found = {}
        for name in self.headline_names:
            try:
                found[name] = self.value(name)
            except ValueError:
                continue
        return found

    def summarise(self, further: bool = False) -> list[dict]:
        """All metrics: {metric, value, low, high}; low and high are NaN where there is no interval.

        What is undefined on the data is left out. There is no interval where `has_interval` says so, and where all
        resamples are 0 or all are 1.

        Args:
          further: as of `names`.
        """
        rows = []
        for name in self.names(further):
            drawn = self.of(name)
            if np.isfinite(drawn.value):
                low, high = find_interval(drawn, self.seed) if self.has_interval(name) else (np.nan, np.nan)
                rows.append({"metric": name, "value": drawn.value, "low": low, "high": high})
        return rows


def find_interval(drawn: Draws, seed: int) -> tuple[float, float]:
    """The interval of one run, NaN where all resamples are 0 or all are 1."""
    low, high = interval([drawn], seed)
    # If none of 20 lesions was found, a sixth of all lesions may still be findable. Where no resample leaves the end of
    # the range, the resamples cannot say how far from it the truth is.
    return (np.nan, np.nan) if low == high and low in (0, 1) else (low, high)
