"""Works through a plan: what exists is not made again, and what another process is making is waited for."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aiseeme_jax.curriculum.pieces import Piece
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import artifacts, files
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.store.claims import Holder, claim

log = logging.getLogger(__name__)

# Seconds between two looks at what another process is making.
LOOK_AGAIN = 2.0
# What the first process may decide to do next.
MAKE, PASS_OVER, WAIT = 0, 1, 2


def work_through(
    pieces: Sequence[Piece], store: Store, make: Callable[[Piece, Path], dict[str, Any]]
) -> Iterator[Piece]:
    """Makes every piece that is not finished, after those that it needs, and yields each when it is finished.

    Of several processes of one run the first decides, and all make the same piece together. Several runs may share a
    store: a piece that another run is making is left to it, and made here only if that run ends without finishing it.

    Args:
      pieces: each after those that it needs.
      make: does the work of a piece in its folder, and returns what its record says.

    Raises UserError if a finished piece was made from other bits than the present ones of what it needs.
    """
    left = list(pieces)
    waiting_for = None
    while left:
        with contextlib.ExitStack() as stack:
            place, action, holder = _agree_on_next(left, store, stack)
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


def _make(piece: Piece, store: Store, make: Callable[[Piece, Path], dict[str, Any]]) -> None:
    directory = store.begin(piece.artifact)
    if jax.process_index() == 0:
        files.sweep(directory)
    record = make(piece, directory)
    made_from = {name: _identify(needed, store) for name, needed in piece.inputs.items()}
    # The record last: a piece without it is not finished.
    store.finish(piece.artifact, {**record, "made_from": made_from})
    _wait_for_all(f"made {piece.artifact.name}")


def _agree_on_next(left: Sequence[Piece], store: Store, stack: contextlib.ExitStack) -> tuple[int, int, Holder | None]:
    """The piece to turn to, what to do with it, and who is making it if somebody else is."""
    place, action, holder = _choose_next(left, store, stack) if jax.process_index() == 0 else (0, WAIT, None)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        place, action = map(int, multihost_utils.broadcast_one_to_all(np.array([place, action])))
    return place, action, holder


def _choose_next(left: Sequence[Piece], store: Store, stack: contextlib.ExitStack) -> tuple[int, int, Holder | None]:
    """The first piece that is finished, or that can be made now and that nobody else is making.

    A piece to be made is claimed until `stack` is closed.
    """
    unfinished = {piece.artifact.key for piece in left}
    blocked: tuple[int, Holder | None] = (0, None)
    for place, piece in enumerate(left):
        if store.record(piece.artifact) is not None:
            check_made_from(piece, store)
            return place, PASS_OVER, None
        if any(needed.artifact.key in unfinished for needed in piece.inputs.values()):
            continue
        with contextlib.ExitStack() as attempt:
            holder = attempt.enter_context(claim(store.begin(piece.artifact)))
            # It may have been finished between the first look and the claim.
            if holder is None and store.record(piece.artifact) is None:
                stack.push(attempt.pop_all())
                return place, MAKE, None
            if holder is None:
                return place, PASS_OVER, None
            blocked = blocked if blocked[1] else (place, holder)
    return blocked[0], WAIT, blocked[1]


def check_made_from(piece: Piece, store: Store) -> None:
    """Raises UserError if a finished piece was made from other bits than those that its inputs have now.

    A stage that was removed and trained anew may end with other weights, on another machine, say.
    """
    directory = store.directory(piece.artifact)
    made_from = store.record(piece.artifact)["made_from"]
    for name, needed in piece.inputs.items():
        if store.record(needed.artifact) is None:
            # It was removed, and is made anew before anything asks for it.
            continue
        now, then = _identify(needed, store), made_from[name]
        if now != then:
            raise UserError(
                f"{directory} was made from another {name} than {store.directory(needed.artifact)} now holds "
                f"({then['hash'][:12]} is not {now['hash'][:12]}); {artifacts.remedy(directory)}"
            )


def _identify(piece: Piece, store: Store) -> dict[str, str]:
    """A finished piece by its key, and by the hash of what came out of it."""
    record = store.record(piece.artifact)
    return {"key": piece.artifact.key, "hash": record.get("backbone_hash") or record["fisher_of"]}


def _wait_for_all(name: str) -> None:
    """Waits until all processes are here: what the first one wrote before, the others find after."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
