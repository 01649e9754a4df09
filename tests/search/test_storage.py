"""The queue of a search in an Optuna storage."""

import concurrent.futures

import optuna
import pytest

from aiseeme_jax.errors import UserError
from aiseeme_jax.search.findings import Node
from aiseeme_jax.search.queue import Ended, Queue, read_diverged
from aiseeme_jax.search.storage import Storage, check_storage
from aiseeme_jax.search.trials import Trial

POOL = ("rotation", "npid")
ENDED = {
    "r": Ended(Node(("rotation",), 1.0, 0.6, 0.1, 0.02)),
    "rn": Ended(Node(("rotation", "npid"), 1.0, 0.7, 0.1, 0.02)),
    "n": Ended(Node(("npid",), 0.5, None, None, float("nan")), "key of the stage"),
}
ORDERS = {key: Trial(ended.node.order, ended.node.share) for key, ended in ENDED.items()}
STATES = optuna.trial.TrialState


def open_queue(folder, where="search.journal"):
    return Queue(Storage(where, folder), "derm", POOL)


def list_trials(folder, where):
    """The trials as another program reads them."""
    journal = optuna.storages.journal.JournalFileBackend
    storage = where if "://" in where else optuna.storages.JournalStorage(journal(str(folder / where)))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


@pytest.mark.parametrize("where", ["search.journal", "sqlite"])
def test_every_order_is_a_trial_that_waits_runs_and_ends_once(where, tmp_path):
    where = f"sqlite:///{tmp_path}/search.db" if where == "sqlite" else where
    one, other = (open_queue(tmp_path, where) for _ in range(2))
    for queue in (one, other):
        queue.enqueue(3, {key: ORDERS[key] for key in ("r", "rn")})
    assert [trial.state for trial in list_trials(tmp_path, where)] == [STATES.WAITING] * 2
    assert one.take(["rn"]) == "rn" and other.take(["r", "rn"]) == "r" and one.take(["r", "rn"]) is None
    assert [trial.state for trial in list_trials(tmp_path, where)] == [STATES.RUNNING] * 2
    one.tell({"rn": ENDED["rn"]})
    other.tell(ENDED)
    # Another run of the same search.
    open_queue(tmp_path, where).tell(ENDED)
    trials = list_trials(tmp_path, where)
    assert [trial.params for trial in trials] == [
        {"task 1": "rotation"},
        {"task 1": "rotation", "task 2": "npid"},
        {"task 1": "npid"},
    ]
    assert [trial.value for trial in trials] == [0.6, 0.7, None]
    assert [trial.state for trial in trials] == [STATES.COMPLETE, STATES.COMPLETE, STATES.FAIL]
    assert trials[1].user_attrs["name"] == "rotation > npid" and trials[1].user_attrs["gain"] == 0.1
    assert trials[1].user_attrs["round"] == 3 and "process" in trials[1].user_attrs["worker"]
    assert trials[2].user_attrs["share"] == 0.5 and trials[2].user_attrs["standard error"] is None
    assert other.study.best_trial.params == {"task 1": "rotation", "task 2": "npid"}


@pytest.mark.parametrize("where", ["~/orders/search.journal", "sqlite:///search.db"])
def test_what_diverged_is_known_and_can_be_read_without_making_anything(where, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "store"
    assert not read_diverged(where, store, "derm") and not list(tmp_path.iterdir())
    queue = open_queue(store, where)
    queue.tell(ENDED)
    queue.note_divergence("key of another stage")
    assert queue.find_diverged() == {"key of the stage", "key of another stage"}
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("search.*")]
    assert files == ["store/search.db" if "sqlite" in where else "home/orders/search.journal"]
    assert read_diverged(where, store, "derm") == queue.find_diverged()
    assert not read_diverged(where, store, "another")


def test_workers_at_the_same_time_enqueue_and_take_and_tell_each_trial_once(tmp_path):
    workers = [open_queue(tmp_path) for _ in range(4)]
    every = concurrent.futures.ThreadPoolExecutor().map
    list(every(lambda worker: worker.enqueue(1, ORDERS), workers))

    def work(worker):
        taken = worker.take(ORDERS)
        worker.tell(ENDED)
        return taken

    taken = [key for key in every(work, workers) if key]
    assert len(list_trials(tmp_path, "search.journal")) == 3 and len(set(taken)) == len(taken)


@pytest.mark.parametrize(
    "where", ["postgresql://nobody@localhost:1/none", "sqlite:////nowhere/at/all/search.db", "quantum://host/trials"]
)
def test_a_storage_that_does_not_answer_is_one_message(where, tmp_path):
    with pytest.raises(UserError, match=f"search.storage: {where} does not answer: .+ leave search.storage empty"):
        open_queue(tmp_path, where)


def test_a_password_in_a_url_is_refused():
    with pytest.raises(UserError, match="search.storage has a password, which would stand in config.json") as error:
        check_storage("postgresql://me:secret@host/trials")
    assert "secret" not in str(error.value)
    for fine in ("", "search.journal", "postgresql://me@host/trials", "sqlite:///search.db"):
        check_storage(fine)
