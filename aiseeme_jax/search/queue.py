"""The queue of a search: its orders as trials of an Optuna study, from which every worker takes the next one.

A trial waits, then runs, and is complete when its order has a score, or has failed if its training diverged. The queue
says who trains what and when. It does not say what was found: that is in the store. So a queue that was lost is filled
again, and nothing is trained twice.
"""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from aiseeme_jax import models
from aiseeme_jax.search.findings import Node
from aiseeme_jax.search.planning import name_order
from aiseeme_jax.search.storage import Storage, read_study
from aiseeme_jax.search.trials import Trial
from aiseeme_jax.store import claims, keys

if TYPE_CHECKING:
    import optuna

# Attributes of a trial: the key of its score, by which it is found; of one that diverged, the key of its last stage.
KEY, DIVERGED = "key", "diverged"
# How the name of an attribute of a study begins; the key of a stage that diverged follows.
DIVERGED_STAGE = "diverged stage "


@dataclasses.dataclass(frozen=True)
class Ended:
    """What became of an order.

    Attributes:
      node: its score, or none.
      last_stage: if it diverged, the key of its last stage.
    """

    node: Node
    last_stage: str | None = None

    def describe(self) -> dict[str, Any]:
        """The attributes of the trial."""
        error = self.node.error if math.isfinite(self.node.error) else None
        found = {"gain": self.node.gain, "standard error": error}
        return found if self.last_stage is None else {**found, DIVERGED: self.last_stage}


class Queue:
    """The trials of one study.

    Args:
      storage: that contains the study.
      name: of the study.
      pool: names of the tasks.

    Everything raises StorageLost if the storage does not answer.
    """

    def __init__(self, storage: Storage, name: str, pool: Sequence[str]):
        self.storage, self.pool = storage, tuple(pool)
        self.study = storage.open_study(name)

    def enqueue(self, number: int, orders: Mapping[str, Trial]) -> None:
        """Lets the orders of a round wait which do not wait or run yet. Whichever worker comes first does so.

        Args:
          number: of the round.
          orders: by the keys of their scores. If the queue has a score of one and the store has none, the order waits
            again. Look at the store while the storage is locked: another worker may score it in this moment.
        """
        with self.storage.use():
            there = {trial.user_attrs.get(KEY) for trial in self._list() if not trial.state.is_finished()}
            for key, order in orders.items():
                if key not in there:
                    self.study.add_trial(self._make_trial(order, {KEY: key, "round": number}))

    def take(self, keys: Collection[str]) -> str | None:
        """Takes the first of some trials that waits, and lets it run. None if none of them waits."""
        from optuna.trial import TrialState

        with self.storage.use():
            for trial in self._list():
                key = trial.user_attrs.get(KEY)
                if trial.state == TrialState.WAITING and key in keys and self._start(trial.number):
                    self._describe(trial.number, {"worker": str(claims.identify_process())})
                    return key
        return None

    def find_diverged(self) -> set[str]:
        """Keys of the stages that cannot be trained, as this worker, another one or an earlier run has found."""
        with self.storage.use():
            return list_diverged(self.study)

    def note_divergence(self, stage: str) -> None:
        """Lets all workers know that the training of the stage of this key diverged."""
        with self.storage.use():
            self.study.set_user_attr(f"{DIVERGED_STAGE}{stage}", True)

    def tell(self, orders: Mapping[str, Ended]) -> None:
        """Ends the trials of orders, by the keys of their scores, and adds those that are not there."""
        from optuna.trial import TrialState

        with self.storage.use():
            known = {trial.user_attrs.get(KEY): trial for trial in self._list()}
            for key, ended in orders.items():
                node, attributes = ended.node, ended.describe()
                state = TrialState.FAIL if node.value is None else TrialState.COMPLETE
                if key not in known:
                    order, attributes = Trial(node.order, node.share), {KEY: key, **attributes}
                    self.study.add_trial(self._make_trial(order, attributes, state, node.value))
                elif not known[key].state.is_finished():
                    self._finish(known[key].number, attributes, state, node.value)

    def _list(self) -> list[Any]:
        """All trials, the oldest first."""
        return self.study.get_trials(deepcopy=False)

    def _start(self, number: int) -> bool:
        """Lets a waiting trial run, unless another worker was faster. `Study.ask` does the same with any trial."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        # Searches with different stores may use one study. They do not wait for each other.
        with contextlib.suppress(UpdateFinishedTrialError):
            return self.storage.backend.set_trial_state_values(self._find(number), TrialState.RUNNING)
        return False

    def _finish(self, number: int, attributes: Mapping[str, Any], state: Any, value: float | None) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        self._start(number)
        with contextlib.suppress(UpdateFinishedTrialError):
            self._describe(number, attributes)
            self.storage.backend.set_trial_state_values(self._find(number), state, None if value is None else [value])

    def _describe(self, number: int, attributes: Mapping[str, Any]) -> None:
        for name, attribute in attributes.items():
            self.storage.backend.set_trial_user_attr(self._find(number), name, attribute)

    def _find(self, number: int) -> int:
        backend = self.storage.backend
        return backend.get_trial_id_from_study_id_trial_number(
            backend.get_study_id_from_name(self.study.study_name), number
        )

    def _make_trial(
        self, order: Trial, attributes: Mapping[str, Any], state: Any = None, value: float | None = None
    ) -> Any:
        """An order as parameters 'task 1', 'task 2', ... By default it waits."""
        import optuna

        names = {f"task {place}": task for place, task in enumerate(order.order, start=1)}
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING if state is None else state,
            value=value,
            params=names,
            distributions={name: optuna.distributions.CategoricalDistribution(self.pool) for name in names},
            user_attrs={"order": list(order.order), "share": order.share, "name": name_order(order.order)}
            | dict(attributes),
        )


def list_diverged(study: "optuna.Study") -> set[str]:
    """Keys of the stages of a study that diverged, and of those that end orders which begin with them."""
    trials = study.get_trials(deepcopy=False)
    told = {trial.user_attrs[DIVERGED] for trial in trials if DIVERGED in trial.user_attrs}
    noted = (name for name in study.user_attrs if name.startswith(DIVERGED_STAGE))
    return told | {name.removeprefix(DIVERGED_STAGE) for name in noted}


def read_diverged(where: str, store: Path, name: str) -> set[str]:
    """`list_diverged` of the study of a name, as far as the storage tells. Nothing is made.

    Args:
      where, store: as those of `Storage`.
    """
    study = read_study(where, store, name)
    return set() if study is None else list_diverged(study)


def name_study(config: ConfigDict) -> str:
    """The name of a search in a storage: its data, and a key of everything that its trials depend on."""
    fields = config.search
    content = {
        "pool": {name: keys.to_json(stage) for name, stage in fields.pool.items()},
        "proxy": keys.to_json(fields.proxy),
        "model": keys.to_json(models.describe_model(config.model)),
        "data": keys.to_json(config.data),
        **{name: config[name] for name in ("seed", "init")},
    }
    return f"{config.title or config.data.name} {keys.make_key(keys.to_json(content))[:12]}"
