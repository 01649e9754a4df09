"""Says where a piece of work stands in its run, and how long what comes after it will take."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiseeme_jax.curriculum.pieces import (
    Piece,
    PlannedArm,
    PlannedFisher,
    PlannedMeasurement,
    PlannedScore,
    PlannedStage,
    find_planned_key,
)
from aiseeme_jax.curriculum.trials import PlannedProbe, PlannedTrial
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import artifacts
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training import display

Make = Callable[[Piece, Path], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast finished pieces of work were.

    Attributes:
      speeds: images per second of stages, by `PlannedStage.speed_of`.
      seconds: of measurements, by the name of their target.
    """

    speeds: dict[str, float]
    seconds: dict[str, list[float]]


class RunOutlook:
    """Displays pieces of work as parts of a run.

    Args:
      arms: of the run, in their order.
      store: whose records tell which pieces are finished.
      pace: how fast other pieces were, to which the pieces of this run are added; None: as the store tells.
    """

    def __init__(self, arms: Sequence[PlannedArm], store: Store, pace: Pace | None = None):
        self._arms, self._store = arms, store
        self._pace = read_pace(store) if pace is None else pace
        found = [(piece, number) for number, arm in enumerate(arms, start=1) for piece in arm.pieces()]
        # The number of the first arm that a piece belongs to, by its key.
        self._arm_of = {piece.artifact.key: number for piece, number in reversed(found)}
        # Those that are not known to be finished, in the order in which they are made.
        self._left = {piece.artifact.key: piece for piece, _ in found}

    def follow(self, make: Make) -> Make:
        """Returns `make`, displayed as part of the run."""

        def make_in_sight(piece: Piece, directory: Path) -> dict[str, Any]:
            self._leave_out_finished(piece)
            after = list(self._left.values())
            outlook = display.Outlook(self.describe(piece), lambda speed: self._sum_seconds(after, speed))
            with display.announce(outlook), display.Display(piece.title):
                record = make(piece, directory)
            self._note(piece, record)
            return record

        return make_in_sight

    def describe(self, piece: Piece) -> str:
        """Such as 'arm 2/5 · stage 3/7 simclr', without the number of the only arm."""
        number = self._arm_of.get(find_planned_key(piece))
        if number is None:
            return piece.title
        of_arms = f"arm {number}/{len(self._arms)} · " if len(self._arms) > 1 else ""
        return f"{of_arms}{_describe_in_arm(piece, self._arms[number - 1])}"

    def _leave_out_finished(self, piece: Piece) -> None:
        """Leaves out a piece that begins, and those before it that are finished."""
        for key, other in list(self._left.items()):
            if other is piece or self._is_finished(other):
                del self._left[key]
            if key == find_planned_key(piece):
                return

    def _is_finished(self, piece: Piece) -> bool:
        """Whether a piece has a record. One that cannot be read ends the work that needs it, and not the display."""
        try:
            return self._store.record(piece.artifact) is not None
        except (UserError, OSError):
            return False

    def _note(self, piece: Piece, record: dict[str, Any]) -> None:
        """Notes how fast a piece was."""
        if isinstance(piece, PlannedStage) and "images_per_second" in record:
            self._pace.speeds[piece.speed_of] = record["images_per_second"]
        if isinstance(piece, PlannedMeasurement):
            self._pace.seconds.setdefault(piece.name, []).append(record["seconds"])

    def _sum_seconds(self, pieces: Sequence[Piece], speed: float) -> tuple[float, bool]:
        """Seconds that pieces take, as far as that is known, and whether it is known of all.

        Args:
          speed: images per second, for stages whose speed was not measured.
        """
        found = [self._estimate(piece, speed) for piece in pieces]
        return sum(one for one in found if not math.isnan(one)), not any(map(math.isnan, found))

    def _estimate(self, piece: Piece, speed: float) -> float:
        if isinstance(piece, PlannedStage):
            return piece.limit_seconds(piece.images_shown / self._pace.speeds.get(piece.speed_of, speed))
        if isinstance(piece, PlannedMeasurement) and (times := self._pace.seconds.get(piece.name)):
            return sum(times) / len(times)
        return math.nan


def _describe_in_arm(piece: Piece, arm: PlannedArm) -> str:
    keys = [[other.artifact.key for other in pieces] for pieces in (arm.stages, arm.measurements)]
    match piece:
        case PlannedStage():
            of_all = _count(piece, keys[0])
            return f"stage{of_all} {piece.fields.task}"
        case PlannedMeasurement():
            return f"measurement{_count(piece, keys[1])} {piece.target.protocol}"
        case PlannedScore():
            return f"score {piece.proxy.proxy}"
        case PlannedFisher():
            return f"Fisher information of {piece.stage.fields.task}"
        case PlannedTrial() | PlannedProbe():
            return f"trial of {piece.stage.fields.task}"
    return f"search for {piece.stage.fields.task}"


def _count(piece: Piece, keys: Sequence[str]) -> str:
    """Which of several a piece is; nothing for a piece that is none of them, as what a measurement needs."""
    return f" {keys.index(piece.artifact.key) + 1}/{len(keys)}" if piece.artifact.key in keys else ""


def read_pace(store: Store) -> Pace:
    """How fast the finished pieces of a store were."""
    seconds: dict[str, list[float]] = {}
    for record in _read_records(store, artifacts.MEASUREMENTS):
        if "seconds" in record:
            seconds.setdefault(record["target"], []).append(record["seconds"])
    return Pace(read_speeds(store), seconds)


def read_speeds(store: Store) -> dict[str, float]:
    """Images per second of finished stages, by `PlannedStage.speed_of`."""
    records = _read_records(store, artifacts.STAGES)
    return {record["speed_of"]: record["images_per_second"] for record in records if "images_per_second" in record}


def _read_records(store: Store, kind: str) -> Iterator[dict[str, Any]]:
    """The records of finished pieces of a kind.

    Other runs may use the store: what is damaged, or deleted meanwhile, is left out, since this run need not need it.
    """
    for folder in store.folders():
        if folder.parent.name == kind:
            with contextlib.suppress(UserError, OSError):
                yield artifacts.read_record(folder) or {}
