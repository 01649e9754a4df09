"""Searches a learning rate and a batch size: which candidates are tried, and for how long.

Nothing here trains. The search is a generator, as a strategy of `order.py` is: it yields the trials that should be
scored next, and is sent their scores. Optuna's samplers draw the candidates. The rungs of successive halving and of
Hyperband are our own arithmetic: Optuna's pruners cut one training short, whose learning rate would then never have
fallen, and decide by what has finished at the moment, so that several workers would not find what one finds. Here a
longer trial is a training of its own with the whole schedule, and a rung is complete before it is judged.
"""

import dataclasses
import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from aiseeme_jax import seeds
from aiseeme_jax.curriculum.trials import Candidate
from aiseeme_jax.curriculum.tuning import list_shares
from aiseeme_jax.training.optimizers import scale_rate

# The names of what Optuna samples: a factor of the scaled published rate, and the batch size.
FACTOR, BATCH = "factor", "batch_size"
# Candidates that `tpe` draws by chance before it uses its model.
STARTUP = 5
# Learning rates have so many digits, so that they can be read, and are the same on every machine.
DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Space:
    """What may be tried.

    Attributes:
      published: what the search begins with, if it may.
      batches: batch sizes.
      low, high: factors of the published learning rate, scaled with the batch; both 1 if it is not searched.
      scaling, optimizer: by which the learning rate is scaled with the batch.
    """

    published: Candidate
    batches: tuple[int, ...]
    low: float
    high: float
    scaling: str
    optimizer: str

    def make(self, factor: float, batch: int) -> Candidate:
        """The candidate with this batch size whose rate is so many times the scaled published one."""
        ratio = batch / self.published.batch_size
        scaled = scale_rate(self.published.learning_rate, ratio, self.scaling, self.optimizer)
        rate = scaled if factor == 1 else float(f"{scaled * factor:.{DIGITS}g}")
        return Candidate(rate, batch)


@dataclasses.dataclass(frozen=True)
class Run:
    """A candidate that is trained for a share of the stage's length."""

    candidate: Candidate
    share: float


# Yields the runs that should be scored next, and is sent their scores; that of a diverged one is NaN.
Proposals = Generator[Sequence[Run], Mapping[Run, float], None]


def list_brackets(search: Any) -> list[list[tuple[int, float]]]:
    """For each bracket of a search its rungs: how many candidates, and their share of the length.

    'halving' is one bracket (Jamieson & Talwalkar, arXiv 1502.07943): floor(trials / keep^k) candidates in rung k.
    'hyperband' has as many as there are rungs (Li et al., arXiv 1603.06560, algorithm 1). 'none' has rounds of
    candidates that are trained for the greatest length.
    """
    shares = list_shares(search)
    if search.pruner == "none":
        starts = range(0, search.trials, search.round)
        return [[(min(search.round, search.trials - start), shares[-1])] for start in starts]
    if search.pruner == "halving":
        return [_halve(search.trials, shares, search.keep)]
    found = []
    for spared in range(search.rungs - 1, -1, -1):
        count = math.ceil(search.rungs * search.keep**spared / (spared + 1))
        found.append(_halve(count, shares[search.rungs - 1 - spared :], search.keep))
    return found


def _halve(count: int, shares: Sequence[float], keep: int) -> list[tuple[int, float]]:
    rungs = [(count // keep**rung, share) for rung, share in enumerate(shares)]
    return [(left, share) for left, share in rungs if left]


def propose(space: Space, search: Any, seed: int) -> Proposals:
    """The search, from its beginning to its end.

    A candidate whose score has not improved for `patience` rungs is given up. One that diverged is not kept.
    """
    sampler = Sampler(space, search, seed)
    for bracket in list_brackets(search):
        asked = sampler.ask(bracket[0][0])
        alive = list(asked)
        for rung, (count, share) in enumerate(bracket):
            if rung:
                alive = _promote(alive, count, search.patience)
            if not alive:
                break
            scores = yield [Run(one.candidate, share) for one in alive]
            for one in alive:
                one.values.append(scores[Run(one.candidate, share)])
        sampler.tell(asked, len(bracket))


@dataclasses.dataclass(eq=False)
class Asked:
    """A candidate that was drawn, with its scores from rung to rung, and what Optuna knows it by."""

    candidate: Candidate
    trial: Any
    values: list[float] = dataclasses.field(default_factory=list)


def _promote(asked: Sequence[Asked], count: int, patience: int) -> list[Asked]:
    """Those with the best last scores, at most `count`, without those that have not improved for long. Of equal ones
    the earlier.
    """
    finite = [one for one in asked if math.isfinite(one.values[-1])]
    best = sorted(finite, key=lambda one: -one.values[-1])[:count]
    return [one for one in best if len(one.values) - 1 - int(np.argmax(one.values)) < patience]


class Sampler:
    """Draws candidates by one of Optuna's samplers. It draws the same if it is told the same."""

    def __init__(self, space: Space, search: Any, seed: int):
        # Takes a second to import, and most runs search nothing.
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        number = seeds.derive(seed, "learning rate and batch size") % 2**32
        self.optuna, self.space, self.grid = optuna, space, None
        if search.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=STARTUP, constant_liar=True)
        else:
            sampler = optuna.samplers.RandomSampler(seed=number)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.distributions: dict[str, Any] = {BATCH: optuna.distributions.CategoricalDistribution(space.batches)}
        if space.low < space.high:
            self.distributions[FACTOR] = optuna.distributions.FloatDistribution(space.low, space.high, log=True)
        if search.sampler == "grid":
            self.grid = iter(self._shuffle_grid(search.points, number))
        elif space.published.batch_size in space.batches and space.low <= 1 <= space.high:
            self.study.enqueue_trial({FACTOR: 1.0, BATCH: space.published.batch_size})

    def _shuffle_grid(self, points: int, number: int) -> list[dict[str, Any]]:
        """All points of the grid, in a random order, so that a part of them is spread over the whole."""
        factors = np.geomspace(self.space.low, self.space.high, points) if FACTOR in self.distributions else [1.0]
        every = [{FACTOR: float(f), BATCH: size} for f, size in itertools.product(factors, self.space.batches)]
        return [every[place] for place in np.random.default_rng(number).permutation(len(every))]

    def ask(self, count: int) -> list[Asked]:
        """So many candidates; fewer if the grid has no more."""
        if self.grid is not None:
            points = list(itertools.islice(self.grid, count))
            for point in points:
                self.study.enqueue_trial(point)
            count = len(points)
        found = []
        for _ in range(count):
            trial = self.study.ask(self.distributions)
            found.append(Asked(self.space.make(trial.params.get(FACTOR, 1.0), trial.params[BATCH]), trial))
        return found

    def tell(self, asked: Sequence[Asked], rungs: int) -> None:
        """Reports the scores of candidates that are not trained any further.

        To Optuna, a candidate that did not come to the last rung was pruned: it ranks below those that came further.
        """
        states = self.optuna.trial.TrialState
        for one in asked:
            for rung, value in enumerate(one.values):
                one.trial.report(value, rung)
            if len(one.values) == rungs and math.isfinite(one.values[-1]):
                self.study.tell(one.trial, one.values[-1])
            else:
                self.study.tell(one.trial, state=states.PRUNED)


def find_best(scores: Mapping[Run, float]) -> Run | None:
    """The run with the highest score among the longest ones that have a score; None if all diverged.

    Scores of different lengths are not compared. Of equal ones it is the earlier.
    """
    finite = {run: value for run, value in scores.items() if math.isfinite(value)}
    if not finite:
        return None
    longest = max(run.share for run in finite)
    return max((run for run in finite if run.share == longest), key=lambda run: finite[run])
