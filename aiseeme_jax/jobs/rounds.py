"""Makes the orders of a round, alone or together with other workers of the same search.

Every worker takes the next order that waits in the queue and whose beginning has a score. Where none waits, it helps
with those that run: it makes the pieces that no other process is making, which are those of a worker that was killed,
or of a search of a learning rate. What diverged with one worker is not tried by another. A round ends when every order
has a score in the store, or has diverged.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aiseeme_jax.curriculum.pieces import Piece, PlannedArm, PlannedScore
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs.outlook import Pace, RunOutlook, read_pace
from aiseeme_jax.jobs.working import work_around_divergence
from aiseeme_jax.search.findings import Node
from aiseeme_jax.search.queue import Ended, Queue
from aiseeme_jax.search.storage import StorageLost
from aiseeme_jax.search.trials import Trial
from aiseeme_jax.store import claims
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training.loop import Diverged

log = logging.getLogger(__name__)

Make = Callable[[Piece, Path], dict[str, Any]]

# What a worker does next, in the place of an order that it makes.
HELP, END, DO_WITHOUT, FAIL = -1, -2, -3, -4
# Where an order of a round stands: it must wait for its beginning; it can be made; it has a score; it has none.
LATER, READY, SCORED, DIVERGED = range(4)


class Maker:
    """Makes the pieces of arms.

    Args:
      make: does a piece of work in its folder, and returns the record.

    Attributes:
      make: the same, displayed as a part of a run.
    """

    def __init__(self, store: Store, make: Make):
        self.store, self._make, self.make = store, make, make
        # Keys of the stages that diverged.
        self.diverged: set[str] = set()

    @functools.cached_property
    def _pace(self) -> Pace:
        """How fast pieces were: read once, and then kept up to date by what this worker makes."""
        return read_pace(self.store)

    def begin(self, arms: Sequence[PlannedArm]) -> None:
        """From now on pieces are displayed as parts of these arms."""
        self.make = RunOutlook(arms, self.store, self._pace).follow(self._make)

    def has_diverged(self, arm: PlannedArm) -> bool:
        """Whether a piece of an arm diverged, so that there is no score."""
        return any(piece.artifact.key in self.diverged for piece in arm.pieces())

    def must_wait(self, arm: PlannedArm) -> bool:
        """Whether another process is making the next piece of an arm."""
        left = (piece.artifact for piece in arm.pieces() if self.store.record(piece.artifact) is None)
        following = next(left, None)
        return following is not None and claims.find_holder(self.store.directory(following)) is not None

    def has_score(self, arm: PlannedArm) -> bool:
        """Whether the backbone of an arm was scored."""
        return self.store.record(arm.scores[0].artifact) is not None

    def make_all(self, arms: Iterable[PlannedArm], make: Make | None = None) -> None:
        """Makes every piece of arms that does not exist. What needs a stage that diverged is left out.

        Args:
          make: in the place of the attribute, as in `help`.
        """
        for _ in self._work(arms, make):
            pass

    def help(self, arms: Iterable[PlannedArm], make: Make | None = None) -> None:
        """Makes pieces of arms that other workers make too, until one of them has its score."""
        for piece in self._work(arms, make):
            if isinstance(piece, PlannedScore):
                return

    def _work(self, arms: Iterable[PlannedArm], make: Make | None) -> Iterable[Piece]:
        pieces = {piece.artifact.key: piece for arm in arms for piece in arm.pieces()}
        return work_around_divergence(list(pieces.values()), self.store, make or self.make, self.diverged)


@dataclasses.dataclass(frozen=True)
class Round:
    """Orders that are asked for at once, by the keys of their scores, each after its own beginning.

    Attributes:
      number: of the round.
      orders, arms: in the same order.
    """

    number: int
    orders: Mapping[str, Trial]
    arms: Mapping[str, PlannedArm]

    @classmethod
    def of(cls, number: int, arms: Iterable[tuple[Trial, PlannedArm]]) -> "Round":
        """The round of these arms, each an order with a seed."""
        keyed = {arm.scores[0].artifact.key: (trial, arm) for trial, arm in arms}
        return cls(number, {key: pair[0] for key, pair in keyed.items()}, {key: pair[1] for key, pair in keyed.items()})

    @functools.cached_property
    def beginnings(self) -> dict[str, str]:
        """For the key of an order that of the order without its last task, if that is of this round."""
        last = {find_last_stage(arm): key for key, arm in self.arms.items()}
        before = {key: arm.stages[-2].artifact.key for key, arm in self.arms.items() if len(arm.stages) > 1}
        return {key: last[stage] for key, stage in before.items() if stage in last}


class Workers:
    """The workers of a search, as one of them deals with the others: through the queue.

    If a run has several processes, the first one deals with the queue, and the others do as it says.

    Args:
      queue: of the first process; None for the others.
      describe: makes the node of an order that has ended.
    """

    def __init__(self, maker: Maker, queue: Queue | None, describe: Callable[[Trial, PlannedArm], Node]):
        self.maker, self.queue, self.describe = maker, queue, describe
        # Whether the storage answers, as all processes know it.
        self.queued = True

    def make(self, made: Round) -> None:
        """Makes the orders of a round, as far as they do not exist."""
        keys = list(made.arms)
        while self.queued:
            action, states = _agree(lambda: self._decide(made), len(keys))
            arms = dict(zip(made.arms.values(), states, strict=True))
            # The first process may know it from another worker.
            self.maker.diverged |= {find_last_stage(arm) for arm, state in arms.items() if state == DIVERGED}
            if action == END:
                self._tell(made, keys)
                return
            if action == DO_WITHOUT:
                self.queued = False
            elif action == HELP:
                self.maker.help((arm for arm, state in arms.items() if state == READY), self._make)
            else:
                self.maker.make_all([made.arms[keys[action]]], self._make)
                self._tell(made, [keys[action]])
        self.maker.make_all(made.arms.values())

    def _decide(self, made: Round) -> tuple[int, list[int]]:
        """What to do next, and where every order of a round stands."""
        with contextlib.nullcontext() if self.queue is None else self.queue.storage.lock():
            self.maker.diverged |= self._ask(Queue.find_diverged) or set()
            states: dict[str, int] = {}
            for key, arm in made.arms.items():
                states[key] = self._judge(arm, states.get(made.beginnings.get(key, ""), SCORED))
            missing = {key: order for key, order in made.orders.items() if states[key] in (LATER, READY)}
            self._ask(lambda queue: queue.enqueue(made.number, missing))
            ready = [key for key in missing if states[key] == READY]
            free = [key for key in ready if not self.maker.must_wait(made.arms[key])]
            taken = self._ask(lambda queue: queue.take(free) or queue.take(ready))
        if self.queue is None:
            return DO_WITHOUT, list(states.values())
        if not missing:
            return END, list(states.values())
        return HELP if taken is None else list(states).index(taken), list(states.values())

    def _make(self, piece: Piece, directory: Path) -> dict[str, Any]:
        """Makes a piece that is claimed, unless another worker, for which this one waited, saw its training diverge."""
        key = piece.artifact.key
        diverged, _ = _agree(lambda: (int(key in (self._ask(Queue.find_diverged) or ())), []), 0)
        if diverged:
            raise Diverged("so another worker, or an earlier run, has found")
        try:
            return self.maker.make(piece, directory)
        except Diverged:
            # The piece is still claimed: whoever waits for it reads this first.
            self._ask(lambda queue: queue.note_divergence(key))
            raise

    def _judge(self, arm: PlannedArm, beginning: int) -> int:
        if self.maker.has_diverged(arm):
            return DIVERGED
        if self.maker.has_score(arm):
            return SCORED
        return READY if beginning == SCORED else LATER

    def _tell(self, made: Round, keys: Iterable[str]) -> None:
        """Tells the queue which orders have ended, and how."""
        if self.queue is None:
            return
        arms = {key: made.arms[key] for key in keys}
        lost = {key: find_last_stage(arm) for key, arm in arms.items() if self.maker.has_diverged(arm)}
        ended = {key: Ended(self.describe(made.orders[key], arm), lost.get(key)) for key, arm in arms.items()}
        self._ask(lambda queue: queue.tell(ended))

    def _ask(self, ask: Callable[[Queue], Any]) -> Any:
        """Asks the queue. One that does not answer is asked no more, and then the answer is None."""
        if self.queue is None:
            return None
        try:
            return ask(self.queue)
        except StorageLost as error:
            log.warning("%s. The search goes on without it.", error)
            self.queue = None
            return None


def find_last_stage(arm: PlannedArm) -> str:
    """The key of the last stage of an arm."""
    return arm.stages[-1].artifact.key


def _agree(decide: Callable[[], tuple[int, list[int]]], count: int) -> tuple[int, list[int]]:
    """The decision of the first process, in all processes of a run. An error that it notices ends all of them."""
    if jax.process_count() == 1:
        return decide()
    from jax.experimental import multihost_utils

    action, states, error = FAIL, [0] * count, None
    if jax.process_index() == 0:
        try:
            action, states = decide()
        except UserError as found:
            error = found
    action, *states = map(int, multihost_utils.broadcast_one_to_all(np.array([action, *states])))
    if action == FAIL:
        raise error or UserError("the first process stopped: its message says why")
    return action, states
