"""Lists the artifacts of a store: their state, their size, and whether the config of a workdir asks for them."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts, records, workdirs
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.store.claims import find_holder
from aiseeme_jax.store.keys import shorten

# In the folder of a search of a learning rate and a batch size: the keys of its trials.
TRIALS_OF_A_SEARCH = "trials.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder of a store.

    Attributes:
      state: 'finished', 'not finished', 'damaged', or which process is making it.
      wanted: whether the plan of a workdir asks for it, or the last use of a command in it.
      bytes: size of all its files.
    """

    directory: Path
    state: str
    wanted: bool
    bytes: int

    @property
    def name(self) -> str:
        return f"{self.directory.parent.name}/{self.directory.name}"


def list_store(folders: Iterable[Path]) -> list[Entry]:
    """The artifacts of the store that these workdirs share.

    Raises MissingFile for a folder in which no run was started, UserError if the workdirs have different stores.
    """
    store, keys = open_shared_store(folders)
    return [_describe(directory, keys) for directory in store.folders()]


def open_shared_store(folders: Iterable[Path]) -> tuple[Store, set[str]]:
    """The store of the workdirs, and the short keys of all artifacts that they, and others that use it, ask for."""
    stores: dict[Path, Store] = {}
    keys: set[str] = set()
    for workdir in folders:
        store = workdirs.open_store(workdir, _read_plan(workdir))
        stores[store.root.resolve()] = store
        for user in (workdir, *workdirs.list_users(store)[0]):
            keys |= _list_keys(user)
    if len(stores) > 1:
        raise UserError(f"these workdirs have different stores: {', '.join(map(str, stores))}; name those of one")
    store = next(iter(stores.values()))
    return store, keys | set(_find_needed(store, keys))


def check_users(folders: Iterable[Path]) -> None:
    """Raises UserError if a workdir that uses the store cannot be found: nobody can say what it asks for."""
    store, _ = open_shared_store(folders)
    lost = workdirs.list_users(store)[1]
    if lost:
        names = [records.read_json(entry, remedy="delete it")["workdir"] for entry in lost]
        raise UserError(
            f"workdirs that use this store cannot be found: {', '.join(names)}. If one was moved, run its config once "
            f"at its new place. If it is gone for good, delete its entry: {', '.join(map(str, lost))}"
        )


def _read_plan(workdir: Path) -> workdirs.WorkdirPlan:
    plan = workdirs.read_plan(workdir)
    if plan is None:
        raise MissingFile(f"'{workdir}' is not the workdir of a run: it has no {workdirs.PLAN}")
    return plan


def _list_keys(workdir: Path) -> set[str]:
    """Short keys of what the plan of a workdir lists, of what that needs, and of what commands asked for."""
    arms = _read_plan(workdir).arms
    listed = [entry.key for arm in arms for entry in (*arm.stages, *arm.measurements, *arm.scores)]
    needed = [key for arm in arms for entry in arm.measurements for key in entry.needed]
    needed += [entry.tuning for arm in arms for entry in arm.stages if entry.tuning]
    return {shorten(key) for key in (*listed, *needed, *workdirs.read_requests(workdir))}


def _find_needed(store: Store, keys: set[str]) -> Iterator[str]:
    """Short keys of what no plan lists: Fisher information of wanted stages, and trials of wanted searches."""
    for directory in sorted((store.root / artifacts.FISHER).glob("*")):
        if _describe_state(directory) != "finished":
            continue
        made_from = artifacts.read_record(directory)["made_from"]
        if any(shorten(needed["key"]) in keys for needed in made_from.values()):
            yield _short_key(directory)
    for file in sorted((store.root / artifacts.TUNING).glob(f"*/{TRIALS_OF_A_SEARCH}")):
        if _short_key(file.parent) in keys:
            yield from map(shorten, records.read_json(file, remedy="the next run writes it anew")["trials"])


def _short_key(directory: Path) -> str:
    return directory.name.rpartition("-")[2]


def _describe(directory: Path, keys: set[str]) -> Entry:
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return Entry(directory, _describe_state(directory), _short_key(directory) in keys, size)


def _describe_state(directory: Path) -> str:
    holder = find_holder(directory)
    if holder is not None:
        return f"{holder} is making it"
    try:
        return "finished" if artifacts.read_record(directory) else "not finished"
    except UserError:
        return "damaged"
