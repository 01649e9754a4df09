"""The command `store`: lists the artifacts of a store, and deletes those that are not needed any more.

    python -m aiseeme_jax store list runs/isic               lists every artifact with its state and size
    python -m aiseeme_jax store prune runs/isic              deletes those that the present config does not ask for
    python -m aiseeme_jax store remove runs/isic/stages/00-rotation-3f9a2c41d0e7

If several workdirs share a store (`runtime.store`), what any of them asks for is not deleted.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts
from aiseeme_jax.store.claims import find_holder
from aiseeme_jax.store.listing import Entry, list_store


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("list", "prune", "remove"))
    parser.add_argument("folders", nargs="+", type=Path, help="workdirs; for `remove`, folders of artifacts")
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    options = parser.parse_args(arguments)
    actions = {"list": print_list, "prune": prune, "remove": remove}
    actions[options.action](options.folders, options.yes)


def print_list(workdirs: Sequence[Path], yes: bool) -> None:
    """Prints a line for each artifact, and the sums."""
    del yes
    entries = list_store(workdirs)
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        wanted = "" if entry.wanted else ", not wanted by the present config"
        print(f"{entry.name:{width}}  {format_bytes(entry.bytes):>9}  {entry.state}{wanted}")
    unwanted = [entry for entry in entries if not entry.wanted]
    print(
        f"{len(entries)} artifacts, {format_bytes(sum(entry.bytes for entry in entries))}; "
        f"{len(unwanted)} not wanted, {format_bytes(sum(entry.bytes for entry in unwanted))}"
    )


def prune(workdirs: Sequence[Path], yes: bool) -> None:
    """Deletes, after a question, what no plan of the workdirs asks for, unless a process is making it."""
    unwanted = [entry for entry in list_store(workdirs) if not entry.wanted and find_holder(entry.directory) is None]
    _delete(unwanted, yes, f"{len(unwanted)} artifacts that the present config does not ask for")


def remove(folders: Sequence[Path], yes: bool) -> None:
    """Deletes, after a question, the folders of artifacts."""
    for folder in folders:
        if not folder.is_dir():
            raise MissingFile(f"there is no folder '{folder}'")
        if folder.absolute().parent.name not in artifacts.KINDS:
            raise UserError(f"'{folder}' is not the folder of an artifact: those are in {', '.join(artifacts.KINDS)}/")
        if find_holder(folder) is not None:
            raise UserError(f"{find_holder(folder)} is at work in '{folder}': stop it first")
    sizes = [sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in folders]
    entries = [Entry(folder, "", False, size) for folder, size in zip(folders, sizes, strict=True)]
    _delete(entries, yes, f"{len(entries)} artifacts")


def _delete(entries: Sequence[Entry], yes: bool, what: str) -> None:
    if not entries:
        print("nothing to delete")
        return
    for entry in entries:
        print(f"{entry.name}  {format_bytes(entry.bytes)}")
    if not yes and input(f"Delete {what}, {format_bytes(sum(entry.bytes for entry in entries))}? [y/N] ") != "y":
        print("nothing was deleted")
        return
    for entry in entries:
        artifacts.remove(entry.directory)
    print(f"deleted {len(entries)}")


def format_bytes(count: float) -> str:
    """A number of bytes as in '3.4 MB'."""
    units = ("B", "kB", "MB", "GB")
    power = min(int(math.log10(count) // 3), len(units) - 1) if count >= 1 else 0
    return f"{count / 1000**power:.{1 if power else 0}f} {units[power]}"
