"""How sure a ranking of orders is: means over pretraining seeds, paired differences, and sentences about them.

`evaluate.over_seeds` says what the intervals cover. A score has no seed of the labels, and its images are those of
validation.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from aiseeme_jax.evaluate.over_seeds import Interval, estimate, vary_resamples
from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.search.planning import name_trial
from aiseeme_jax.search.trials import Trial

# Scores of one trial by pretraining seed.
BySeed = Mapping[int, Score]


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
    drawn = np.mean(draws, axis=0) if len(values) and len({len(one) for one in draws}) == 1 else np.zeros(0)
    return estimate(np.reshape(values, (-1, 1)), vary_resamples(drawn)).interval(level)


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
    sentences = [f"The best order is {name_trial(best.trial)}: {proxy} {best.mean.in_words()} over {many}."]
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
    difference = other.behind.in_words(signed=True)
    if verdict == "diverged":
        return f"The training of {name} diverged."
    if verdict == "alike":
        return f"It cannot be told apart from {name}: the difference is {difference}."
    if verdict == "better":
        return f"It is better than {name}, by {difference}."
    return f"It is worse than {name}: the difference is {difference}."
