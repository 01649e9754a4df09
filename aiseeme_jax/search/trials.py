"""What a search works with: orders of tasks, the space of all orders, and scores.

Nothing here trains. A strategy proposes trials, `run` has them scored, and the strategy gets the scores. So a strategy
can be tested on a table of scores.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

import numpy as np

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.proxies import Score

# Names of the pool, in the order in which they are trained. Without names it is the start, before any stage.
Order = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Trial:
    """An order whose stages are trained for a share of their length.

    Attributes:
      share: in (0, 1]; every stage is so much shorter than the pool says.
    """

    order: Order
    share: float = 1.0

    def stages(self) -> list["Trial"]:
        """The trials that end with each of its stages, the shortest first. The last one is this trial."""
        return [Trial(self.order[:count], self.share) for count in range(1, len(self.order) + 1)]

    @property
    def beginning(self) -> "Trial":
        """The trial without its last stage. That of a single stage, and of the start, is the start of all orders."""
        return START if len(self.order) < 2 else Trial(self.order[:-1], self.share)


START = Trial(())


@dataclasses.dataclass(frozen=True)
class Space:
    """All orders that a search may try.

    Attributes:
      pool: names of the tasks.
      length: of the longest order.
      repeat: whether a task may come twice in an order.
      seed: of what a strategy draws.
    """

    pool: tuple[str, ...]
    length: int
    repeat: bool = False
    seed: int = 0

    @property
    def longest(self) -> int:
        """The length that orders can have at most: without repetition, no more than there are tasks."""
        return self.length if self.repeat else min(self.length, len(self.pool))

    def extend(self, order: Order) -> list[Order]:
        """The orders with one more task at the end; none if the order is as long as can be."""
        if len(order) >= self.longest:
            return []
        return [(*order, name) for name in self.pool if self.repeat or name not in order]

    def orders(self, length: int) -> Iterator[Order]:
        """All orders of a length."""
        return itertools.product(self.pool, repeat=length) if self.repeat else itertools.permutations(self.pool, length)

    def count(self, length: int) -> int:
        """How many orders of a length there are."""
        return len(self.pool) ** length if self.repeat else math.perm(len(self.pool), length)

    def draw(self, generator: np.random.Generator, length: int) -> Order:
        """An order of a length, each with the same probability."""
        return tuple(map(str, generator.choice(self.pool, size=length, replace=self.repeat)))


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a strategy decides by.

    Attributes:
      scores: of all trials so far, and of the trials that end with each of their stages; START is one of them.
      similarity: of the backbones of two orders that were scored, from 0 to 1.
    """

    scores: Mapping[Trial, Score]
    similarity: Callable[[Order, Order], float]

    def value(self, trial: Trial) -> float:
        """The score of a trial; that of a diverged one is below all others."""
        value = self.scores[trial].value
        return -math.inf if math.isnan(value) else value

    def rank(self, trials: Iterable[Trial]) -> list[Trial]:
        """Trials by their scores, the best first. Equal ones stay in their order."""
        return sorted(trials, key=self.value, reverse=True)

    def has(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those of the trials that were scored."""
        return [trial for trial in trials if trial in self.scores]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of the strategies. Each strategy says which of them it reads.

    Attributes:
      margin: `greedy`: a task must help by more than so many standard errors.
      width: `beam`: orders that are kept of each length.
      batch: `surrogate`, `random`: orders that are proposed at once, for as many workers.
      candidates, keep, shortest: `bandit`: orders at the start; one in `keep` is trained further; the share of the
        length with which it starts.
    """

    margin: float = 1.0
    width: int = 3
    batch: int = 4
    candidates: int = 27
    keep: int = 3
    shortest: float = 1 / 9


# A strategy yields the trials that should be scored next, and is sent the evidence.
Proposals = Generator[Sequence[Trial], Evidence, None]
Strategy = Callable[[Space, Settings], Proposals]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
      scores: of all trials, in the order in which they were proposed.
      stages: how many were trained; a shortened stage counts as its share.
      stopped: whether the budget ended the search before the strategy did.
    """

    scores: Mapping[Trial, Score]
    stages: float
    stopped: bool

    def ranking(self) -> list[Trial]:
        """The trials of full length that have stages, the best first. A diverged one is not among them."""
        whole = [trial for trial in self.scores if trial.order and trial.share == 1]
        whole = [trial for trial in whole if not math.isnan(self.scores[trial].value)]
        # Of equal ones the shorter, since it costs less.
        return sorted(whole, key=lambda trial: (-self.scores[trial].value, len(trial.order)))

    def check(self) -> None:
        """Raises UserError if no trial of full length has a score."""
        if self.ranking():
            return
        if any(math.isnan(score.value) for trial, score in self.scores.items() if trial != START):
            raise UserError("the training of every order diverged: lower the learning rates of search.pool")
        raise UserError("search.stages ends the search before any order is trained in its full length: raise it")


def run(
    proposals: Proposals,
    score: Callable[[Sequence[Trial]], Mapping[Trial, Score]],
    similarity: Callable[[Order, Order], float],
    budget: float = math.inf,
) -> Outcome:
    """Runs a strategy to its end, or until the budget is spent.

    What it does depends on the scores alone. So a search that is run again, or by several workers, does the same.

    Args:
      score: gives the scores of trials. It is called once for each trial, with all that are new in a round.
      budget: so many stages may be trained. What several trials begin with counts once. Of the proposed trials those
        are left out that would exceed it, and then the search ends.
    """
    scores = dict(score([START]))
    spent, stopped = 0.0, False
    evidence: Evidence | None = None
    while not stopped:
        try:
            proposed = next(proposals) if evidence is None else proposals.send(evidence)
        except StopIteration:
            break
        wanted: dict[Trial, None] = {}
        for trial in proposed:
            new = [stage for stage in trial.stages() if stage not in scores and stage not in wanted]
            cost = math.fsum(stage.share for stage in new)
            # Shares are sums of fractions, which are not exact.
            if spent + cost > budget + 1e-9:
                stopped = True
                continue
            spent += cost
            wanted |= dict.fromkeys(new)
        if wanted:
            scores |= score(list(wanted))
        evidence = Evidence(dict(scores), similarity)
    proposals.close()
    return Outcome(scores, spent, stopped)
