"""Tells an Optuna storage what a search has tried, so that `optuna-dashboard` and other tools show it while it runs.

The search itself reads nothing there: it decides by the scores in the store, and several workers would otherwise not
find what one finds. A storage may be lost, and the next run fills it again.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiseeme_jax.errors import UserError
from aiseeme_jax.search.findings import Node
from aiseeme_jax.search.planning import name_order
from aiseeme_jax.store import claims

if TYPE_CHECKING:
    import optuna

# Folder in the workdir that is claimed by the worker that writes.
TELLING = ".telling"
WAIT_SECONDS = 0.2
# To open a storage.
TRIES, TRY_SECONDS = 3, 1.0
# What identifies a trial among those of a study.
ORDER, SHARE = "order", "share"


class Storage:
    """The study of a search in an Optuna storage.

    Args:
      where: a URL that SQLAlchemy knows (`sqlite:///FILE`, `postgresql://HOST/DATABASE`), or a file of Optuna's
        journal, in the workdir if its path is relative.
      workdir: of the search.
      name: of the study.
      pool: names of the tasks.

    Raises UserError if the storage does not answer.
    """

    def __init__(self, where: str, workdir: Path, name: str, pool: Sequence[str]):
        self.where, self.workdir, self.pool = where, workdir, tuple(pool)
        with _claim_alone(workdir / TELLING), _explain(where):
            self.study = _open_patiently(where, workdir, name)

    def tell(self, nodes: Sequence[Node]) -> None:
        """Adds the trials that are not there yet. A worker waits while another one does so.

        Raises UserError if the storage does not answer any more.
        """
        with _claim_alone(self.workdir / TELLING), _explain(self.where):
            told = {_identify(trial.user_attrs) for trial in self.study.get_trials(deepcopy=False)}
            for node in nodes:
                if node.order and (node.order, node.share) not in told:
                    self.study.add_trial(self._make_trial(node))

    def _make_trial(self, node: Node) -> "optuna.trial.FrozenTrial":
        """An order as parameters 'task 1', 'task 2', ...; one that diverged has failed."""
        import optuna

        names = {f"task {place}": task for place, task in enumerate(node.order, start=1)}
        attributes: Mapping[str, Any] = {
            ORDER: list(node.order),
            SHARE: node.share,
            "name": name_order(node.order),
            "gain": node.gain,
            "standard error": node.error if math.isfinite(node.error) else None,
        }
        states = optuna.trial.TrialState
        return optuna.trial.create_trial(
            state=states.FAIL if node.value is None else states.COMPLETE,
            value=node.value,
            params=names,
            distributions={name: optuna.distributions.CategoricalDistribution(self.pool) for name in names},
            user_attrs=dict(attributes),
        )


def _open_patiently(where: str, workdir: Path, name: str) -> "optuna.Study":
    """Tries again: of two workers that make the tables of a data base at the same time, one gets an error."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(Exception):
            return _open_study(where, workdir, name)
        time.sleep(TRY_SECONDS)
    return _open_study(where, workdir, name)


def _open_study(where: str, workdir: Path, name: str) -> "optuna.Study":
    # Takes a second to import.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" in where:
        opened: Any = optuna.storages.RDBStorage(where)
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        opened = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(workdir / where)))
    return optuna.create_study(storage=opened, study_name=name, direction="maximize", load_if_exists=True)


def _identify(attributes: Mapping[str, Any]) -> tuple[tuple[str, ...], float]:
    return tuple(attributes.get(ORDER, ())), attributes.get(SHARE, math.nan)


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
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        reason = next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
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
