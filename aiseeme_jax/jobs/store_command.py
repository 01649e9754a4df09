"""The command `store`: lists the artifacts of a store, and deletes those that are not needed any more.

    python -m aiseeme_jax store list runs/isic               lists every artifact with its state and size
    python -m aiseeme_jax store prune runs/isic              deletes those that the present config does not ask for
    python -m aiseeme_jax store remove runs/isic/stages/00-rotation-3f9a2c41d0e7

If several workdirs share a store (`runtime.store`), what any of them asks for is not deleted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts
from aiseeme_jax.store.claims import find_holder
from aiseeme_jax.store.files import format_bytes
from aiseeme_jax.store.listing import Entry, check_users, list_store


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
    check_users(workdirs)
    unwanted = _list_unwanted(workdirs)
    if not _confirm(unwanted, yes, f"{len(unwanted)} artifacts that the present config does not ask for"):
        return
    # While the question was open, a run may have asked for some of them.
    still = {entry.directory for entry in _list_unwanted(workdirs)}
    _delete([entry for entry in unwanted if entry.directory in still])


def _list_unwanted(workdirs: Sequence[Path]) -> list[Entry]:
    return [entry for entry in list_store(workdirs) if not entry.wanted and find_holder(entry.directory) is None]


def remove(folders: Sequence[Path], yes: bool) -> None:
    """Deletes, after a question, the folders of artifacts."""
    folders = list(dict.fromkeys(folder if folder.is_symlink() else folder.resolve() for folder in folders))
    for folder in folders:
        if not folder.is_dir():
            raise MissingFile(f"there is no folder '{folder}'")
        if folder.absolute().parent.name not in artifacts.KINDS or not artifacts.NAME.fullmatch(folder.name):
            raise UserError(f"'{folder}' is not the folder of an artifact: those are in {', '.join(artifacts.KINDS)}/")
        if find_holder(folder) is not None:
            raise UserError(f"{find_holder(folder)} is at work in '{folder}': stop it first")
    sizes = [sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in folders]
    entries = [Entry(folder, "", False, size) for folder, size in zip(folders, sizes, strict=True)]
    if _confirm(entries, yes, f"{len(entries)} artifacts"):
        _delete(entries)


def _confirm(entries: Sequence[Entry], yes: bool, what: str) -> bool:
    """Shows what would be deleted and asks. Raises UserError if nobody can answer."""
    if not entries:
        print("nothing to delete")
        return False
    for entry in entries:
        print(f"{entry.name}  {format_bytes(entry.bytes)}")
    if yes:
        return True
    try:
        answer = input(f"Delete {what}, {format_bytes(sum(entry.bytes for entry in entries))}? [y/N] ")
    except EOFError:
        raise UserError("nobody can answer here: --yes deletes without a question") from None
    if answer != "y":
        print("nothing was deleted")
    return answer == "y"


def _delete(entries: Sequence[Entry]) -> None:
    for entry in entries:
        artifacts.remove(entry.directory)
    print(f"deleted {len(entries)}")
