"""How sure a ranking of orders is: means over pretraining seeds, paired differences, and sentences about them.

Two things make a score uncertain: another pretraining would give another backbone, and other validation images would
give another score. The variance of a mean over R seeds is taken as the sum of s²/R, with s the standard deviation over
the seeds, and of the variance of that mean over resamples of the images. Intervals are those of Student's t, with the
degrees of freedom of Welch & Satterthwaite. s contains a little of the second part too, so they are somewhat too long.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t as student

from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.search.planning import name_trial
from aiseeme_jax.search.trials import Trial

# Scores of one trial by pretraining seed.
BySeed = Mapping[int, Score]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def estimate_mean(scores: BySeed, level: float = 0.95) -> Interval:
    """The mean over the seeds."""
    return _interval([score.value for score in scores.values()], [score.draws for score in scores.values()], level)


def estimate_difference(one: BySeed, other: BySeed, level: float = 0.95) -> Interval:
    """The mean difference over the seeds that both have, paired by seed and by image."""
    pairs = [(one[seed], other[seed]) for seed in one if seed in other]
    values = [first.value - second.value for first, second in pairs]
    sizes = [min(len(first.draws), len(second.draws)) for first, second in pairs]
    draws = [first.draws[:n] - second.draws[:n] for (first, second), n in zip(pairs, sizes, strict=True)]
    return _interval(values, draws, level)


def _interval(values: Sequence[float], draws: Sequence[np.ndarray], level: float) -> Interval:
    mean = float(np.mean(values)) if len(values) else math.nan
    count = len(values)
    seeds = float(np.var(values, ddof=1)) / count if count > 1 else 0.0
    drawn = np.mean(draws, axis=0) if count and len({len(one) for one in draws}) == 1 else np.zeros(0)
    drawn = drawn[np.isfinite(drawn)]
    images = float(np.var(drawn, ddof=1)) if len(drawn) > 1 else 0.0
    variance = seeds + images
    if not math.isfinite(mean) or not variance > 0:
        return Interval(mean, math.nan, math.nan)
    freedom = variance**2 / (seeds**2 / (count - 1)) if seeds else math.inf
    half = float(student.ppf(0.5 + level / 2, freedom)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


@dataclasses.dataclass(frozen=True)
class Compared:
    """A trial beside the best one.

    Attributes:
      part: 'finalist', or why it was trained beside them: 'reverse', 'single', 'random'.
      mean: over the seeds.
      behind: the best order minus this one; None for the best order itself.
    """

    trial: Trial
    part: str
    mean: Interval
    behind: Interval | None


def compare_finalists(parts: Mapping[Trial, str], scores: Mapping[Trial, BySeed]) -> list[Compared]:
    """The finalists and what was trained beside them. The first is the best finalist by its mean over the seeds.

    The intervals of the differences hold together with 95 % (Bonferroni).
    """

    def mean(trial: Trial) -> float:
        found = estimate_mean(scores[trial]).value
        return found if math.isfinite(found) else -math.inf

    best = max((trial for trial, part in parts.items() if part == "finalist"), key=mean)
    others = sorted((trial for trial in parts if trial != best), key=mean, reverse=True)
    level = 1 - 0.05 / max(1, len(others))
    return [
        Compared(best, "finalist", estimate_mean(scores[best]), None),
        *(
            Compared(
                other,
                parts[other],
                estimate_mean(scores[other]),
                estimate_difference(scores[best], scores[other], level),
            )
            for other in others
        ),
    ]


def describe_comparison(compared: Sequence[Compared], proxy: str, seeds: Sequence[int], new: bool) -> list[str]:
    """Plain sentences: which order is the best, and from which others it can be told apart.

    Args:
      proxy: what the scores are.
      seeds: of the pretrainings.
      new: whether they are others than the one with which the finalists were chosen.
    """
    best, *others = compared
    kind = "new pretraining seed" if new else "pretraining seed, with which it was chosen"
    many = f"{len(seeds)} {kind}{'s' if len(seeds) > 1 else ''}"
    sentences = [f"The best order is {name_trial(best.trial)}: {proxy} {_in_words(best.mean)} over {many}."]
    if len(seeds) < 2:
        sentences.append("With one seed, the intervals say nothing about another pretraining.")
    return sentences + [_describe_pair(other, _judge(other)) for other in others]


def _judge(other: Compared) -> str:
    if not math.isfinite(other.mean.value):
        return "diverged"
    if not (math.isfinite(other.behind.low) and other.behind.excludes_zero):
        return "alike"
    return "better" if other.behind.value > 0 else "worse"


WHAT = {
    "finalist": "",
    "reverse": "its reverse, ",
    "single": "one task for as many images, ",
    "random": "a random order, ",
}


def _describe_pair(other: Compared, verdict: str) -> str:
    name = f"{WHAT[other.part]}{name_trial(other.trial)}"
    difference = _in_words(other.behind, signed=True)
    if verdict == "diverged":
        return f"The training of {name} diverged."
    if verdict == "alike":
        return f"It cannot be told apart from {name}: the difference is {difference}."
    if verdict == "better":
        return f"It is better than {name}, by {difference}."
    return f"It is worse than {name}: the difference is {difference}."


def _in_words(found: Interval, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value = f"{found.value:{sign}.3f}"
    if not math.isfinite(found.low):
        return f"{value} (no interval)".replace("-", "−")
    to = " to " if signed else "–"
    return f"{value} [{found.low:{sign}.3f}{to}{found.high:{sign}.3f}]".replace("-", "−")
