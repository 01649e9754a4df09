"""Works through a plan. It makes only what does not exist, and waits for what another process is making."""

import contextlib
import itertools
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aiseeme_jax import weights
from aiseeme_jax.curriculum.pieces import Piece
from aiseeme_jax.curriculum.trials import PlannedTuning
from aiseeme_jax.errors import UserError
from aiseeme_jax.search.tuning import list_rounds, note_trials
from aiseeme_jax.store import claims, files
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.store.claims import Holder, claim
from aiseeme_jax.training import barrier
from aiseeme_jax.training.loop import Diverged
from aiseeme_jax.training.memory import give_back_memory

log = logging.getLogger(__name__)

# Seconds between two checks of what another process is making.
LOOK_AGAIN = 2.0
# What a run does next with a piece.
MAKE, PASS_OVER, WAIT, FAIL, UNFOLD = 0, 1, 2, 3, 4


def work_through(
    pieces: Sequence[Piece], store: Store, make: Callable[[Piece, Path], dict[str, Any]]
) -> Iterator[Piece]:
    """Makes every piece that is not finished, and yields each piece when it is finished.

    The trials of a search of a learning rate and a batch size are pieces too, though no plan lists them. Each round of
    them is put before the search when the round before it is finished.

    If one run has several processes, the first decides, and all make the same piece together. If several runs share a
    store, a piece that another run is making is made here only if that run ends without finishing it.

    Args:
      pieces: each after those that it needs.
      make: does a piece of work in its folder, and returns the record.

    Raises UserError if a finished piece was made from other inputs than those that exist now.
    """
    pieces = list(pieces)
    left = list(pieces)
    waiting_for = None
    while left:
        with contextlib.ExitStack() as stack:
            place, action, holder = _agree_on_next(left, pieces, store, stack)
            if action == UNFOLD:
                new = _list_next_round(left[place], pieces, store)
                left[place:place] = new
                pieces += new
                continue
            if action == WAIT:
                if holder is not None and str(holder) != waiting_for:
                    waiting_for = str(holder)
                    log.info("waiting for %s, which %s is making", left[place].artifact.name, holder)
                time.sleep(LOOK_AGAIN)
                continue
            piece = left.pop(place)
            if action == MAKE:
                _make(piece, store, make)
        yield piece


def work_around_divergence(
    pieces: Sequence[Piece], store: Store, make: Callable[[Piece, Path], dict[str, Any]], diverged: set[str]
) -> Iterator[Piece]:
    """`work_through`, but a stage whose training diverges ends nothing: what needs it is left out.

    Args:
      diverged: keys of the stages that diverged before. New ones are added.
    """
    left = {piece.artifact.key: piece for piece in pieces}
    failed: list[Piece] = []

    def note_divergence(piece: Piece, directory: Path) -> dict[str, Any]:
        try:
            return make(piece, directory)
        except Diverged:
            failed.append(piece)
            raise

    while left:
        left = {key: piece for key, piece in left.items() if not needs_any(piece, diverged)}
        try:
            for piece in work_through(list(left.values()), store, note_divergence):
                # A trial of a search is none of them.
                left.pop(piece.artifact.key, None)
                yield piece
        except Diverged as error:
            log.warning("%s diverged, and what needs it is left out: %s", failed[-1].artifact.name, error)
            diverged.add(failed[-1].artifact.key)


def needs_any(piece: Piece, keys: set[str]) -> bool:
    """Whether a piece is one of those with these keys, or needs one of them."""
    return piece.artifact.key in keys or any(needs_any(needed, keys) for needed in piece.inputs.values())


def _list_next_round(tuning: PlannedTuning, pieces: Sequence[Piece], store: Store) -> list[Piece]:
    """The trials of the next round of a search, without those that are among the pieces already.

    All processes of a run find the same, since a round depends on the finished rounds before it alone.
    """
    if jax.process_index() == 0:
        note_trials(tuning, store)
    known = {piece.artifact.key for piece in pieces}
    new = ([trial for trial in found if trial.artifact.key not in known] for found in list_rounds(tuning, store))
    return next(filter(None, new))


def _make(piece: Piece, store: Store, make: Callable[[Piece, Path], dict[str, Any]]) -> None:
    directory = store.begin(piece.artifact)
    with files.explain_disk_errors(directory):
        if jax.process_index() == 0:
            files.delete_leftovers(directory)
        record = make(piece, directory)
        claims.check_held(directory)
        made_from = {name: _identify(needed, store) for name, needed in piece.inputs.items()}
        # Written last: a piece without a record is not finished.
        store.finish(piece.artifact, {**record, "made_from": made_from})
    give_back_memory()
    barrier.wait_for_all(f"made {piece.artifact.name}")


def _agree_on_next(
    left: Sequence[Piece], pieces: Sequence[Piece], store: Store, stack: contextlib.ExitStack
) -> tuple[int, int, Holder | None]:
    """The place of the next piece, what to do with it, and the process that is making it, if another one is.

    An error that the first process notices ends all of them: the others would wait for it for ever.
    """
    if jax.process_count() == 1:
        return _choose_next(left, pieces, store, stack)
    from jax.experimental import multihost_utils

    place, action, holder, error = 0, FAIL, None, None
    if jax.process_index() == 0:
        try:
            place, action, holder = _choose_next(left, pieces, store, stack)
        except UserError as found:
            error = found
    place, action = map(int, multihost_utils.broadcast_one_to_all(np.array([place, action])))
    if action == FAIL:
        raise error or UserError("the first process stopped: its message says why")
    return place, action, holder


def _choose_next(
    left: Sequence[Piece], pieces: Sequence[Piece], store: Store, stack: contextlib.ExitStack
) -> tuple[int, int, Holder | None]:
    """Chooses the first piece that is finished, or that can be made now and that no other process is making.

    A piece to be made is claimed until `stack` is closed.
    """
    unfinished = {piece.artifact.key for piece in left}
    blocked: tuple[int, Holder | None] = (0, None)
    for place, piece in enumerate(left):
        if store.record(piece.artifact) is not None:
            check_finished(piece, pieces, store)
            return place, PASS_OVER, None
        if any(needed.artifact.key in unfinished for needed in piece.inputs.values()):
            continue
        if isinstance(piece, PlannedTuning):
            trials = {trial.artifact.key for trial in itertools.chain(*list_rounds(piece, store))}
            if trials - {known.artifact.key for known in pieces}:
                return place, UNFOLD, None
            if trials & unfinished:
                continue
        with contextlib.ExitStack() as attempt:
            holder = attempt.enter_context(claim(store.begin(piece.artifact)))
            # It may have been finished between the first check and the claim.
            if holder is None and store.record(piece.artifact) is None:
                stack.push(attempt.pop_all())
                return place, MAKE, None
            if holder is None:
                return place, PASS_OVER, None
            blocked = blocked if blocked[1] else (place, holder)
    return blocked[0], WAIT, blocked[1]


def check_finished(piece: Piece, pieces: Sequence[Piece], store: Store) -> None:
    """Raises UserError if a finished piece is not what its record says, or was made from other inputs than exist now.

    The latter happens if a stage was removed and trained again, and ended with other weights (on another machine,
    perhaps). The message names every piece that has to be made again.
    """
    weights.check_artifact(store.directory(piece.artifact))
    if not _is_stale(piece, store):
        return
    stale: dict[str, Path] = {}
    for other in pieces:
        needs_stale = any(needed.artifact.key in stale for needed in other.inputs.values())
        if store.record(other.artifact) is not None and (needs_stale or _is_stale(other, store)):
            stale[other.artifact.key] = store.directory(other.artifact)
    first, *others = stale.values()
    rest = f", and so were {len(others)} that need it or what it needs" if others else ""
    command = " ".join(shlex.quote(str(folder)) for folder in stale.values())
    raise UserError(
        f"{first} was made from other inputs than those that exist now{rest}: a stage was trained again and ended with "
        f"other weights. `python -m aiseeme_jax store remove {command}` removes what is out of date, and the next run "
        "makes it again"
    )


def _is_stale(piece: Piece, store: Store) -> bool:
    """Whether a finished piece was made from other bits than its inputs have now.

    An input that was removed does not count: it will be made again before anything needs it.
    """
    made_from = store.record(piece.artifact)["made_from"]
    finished = {name: needed for name, needed in piece.inputs.items() if store.record(needed.artifact) is not None}
    return any(_identify(needed, store) != made_from[name] for name, needed in finished.items())


def _identify(piece: Piece, store: Store) -> dict[str, str]:
    """Identifies a finished piece by its key and by the hash of its result."""
    record = store.record(piece.artifact)
    names = ("classifier_hash", "network_hash", "backbone_hash", "fisher_hash", "fisher_of", "tuning_hash")
    hashes = (record.get(name) for name in names)
    return {"key": piece.artifact.key, "hash": next(filter(None, hashes))}
