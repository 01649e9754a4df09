"""Opens the Optuna storage in which the trials of a search wait for workers, and explains its errors."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import claims

if TYPE_CHECKING:
    import optuna

# Folder in the store that is claimed by the worker that writes to the storage.
LOCK = ".queue"
WAIT_SECONDS = 0.2
# To open a storage.
TRIES, TRY_SECONDS = 3, 1.0
# How the URL of a data base in a file begins. The path of the file follows, with a slash of its own if it is absolute.
SQLITE = "sqlite:///"


class StorageLost(UserError):
    """A storage does not answer."""


class Storage:
    """An Optuna storage that the workers of a search share.

    Args:
      where: a URL that SQLAlchemy knows (`sqlite:///FILE`, `postgresql://HOST/DATABASE`), or a file of Optuna's
        journal. A relative path is one in the store; it may begin with `~`.
      store: folder of the artifacts, which all workers share.

    Raises StorageLost if the storage does not answer.
    """

    def __init__(self, where: str, store: Path):
        self.where, self._lock, self._locked = where, store / LOCK, False
        with self.use():
            self.backend = _try_again(lambda: _open(where, store))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """While it lasts no other worker uses the storage. It may be locked within a lock."""
        if self._locked:
            yield
            return
        with _claim_alone(self._lock):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """`lock` for a use of the storage. Raises StorageLost in the place of whatever the storage raises."""
        with self.lock(), _explain(self.where):
            yield

    def open_study(self, name: str) -> "optuna.Study":
        """The study of a name, which is made if there is none. Higher scores are better."""
        with self.use():
            return _try_again(lambda: _open_study(self.backend, name))


def read_study(where: str, store: Path, name: str) -> "optuna.Study | None":
    """The study of a name, to look at. None if there is none, or the storage does not answer. Nothing is made.

    Args:
      where, store: as those of `Storage`.
    """
    import optuna

    file = _find_file(where, store)
    if file is not None and not file.exists():
        return None
    with contextlib.suppress(Exception):
        return optuna.load_study(storage=_open(where, store, make=False), study_name=name)
    return None


def _open(where: str, store: Path, *, make: bool = True) -> "optuna.storages.BaseStorage":
    # Takes a second to import.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = _find_file(where, store)
    if "://" in where:
        _, mark, options = where.partition("?")
        url = where if file is None else f"{SQLITE}{file}{mark}{options}"
        return optuna.storages.RDBStorage(url, skip_table_creation=not make)
    file.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))


def _find_file(where: str, store: Path) -> Path | None:
    """The file that a storage is; None for a server."""
    if "://" not in where:
        return store / Path(where).expanduser()
    file = where.partition("?")[0].removeprefix(SQLITE)
    if not where.startswith(SQLITE) or file in ("", ":memory:"):
        return None
    return (store / Path(file).expanduser()).absolute()


def _open_study(backend: "optuna.storages.BaseStorage", name: str) -> "optuna.Study":
    import optuna

    return optuna.create_study(storage=backend, study_name=name, direction="maximize", load_if_exists=True)


def _try_again(open_once: Callable[[], Any]) -> Any:
    """Of two workers that make the tables of a data base at the same time, one gets an error.

    They do so if their stores are not the same folder.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(Exception):
            return open_once()
        time.sleep(TRY_SECONDS)
    return open_once()


@contextlib.contextmanager
def _claim_alone(folder: Path) -> Iterator[None]:
    while True:
        with claims.claim(folder) as holder:
            if holder is None:
                yield
                return
        time.sleep(WAIT_SECONDS)


@contextlib.contextmanager
def _explain(where: str) -> Iterator[None]:
    """Makes what a data base raises one message."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        reason = next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise StorageLost(
            f"search.storage: {where} does not answer: {reason}. Start the data base, or leave "
            "search.storage empty: the search does not need it"
        ) from error


def check_storage(where: str) -> None:
    """Raises UserError for a URL with a password, which would be written into config.json."""
    if "://" in where and urlsplit(where).password is not None:
        raise UserError(
            "search.storage has a password, which would stand in config.json: leave it out of the URL, and give it as "
            "the data base's own client takes it (PostgreSQL: ~/.pgpass or PGPASSWORD)"
        )
