"""What an Optuna storage is told of a search."""

import concurrent.futures

import optuna
import pytest

from aiseeme_jax.errors import UserError
from aiseeme_jax.search.findings import Node
from aiseeme_jax.search.storage import Storage, check_storage

POOL = ("rotation", "npid")
NODES = (
    Node((), 1.0, 0.5, None, 0.0),
    Node(("rotation",), 1.0, 0.6, 0.1, 0.02),
    Node(("rotation", "npid"), 1.0, 0.7, 0.1, 0.02),
    Node(("npid",), 0.5, None, None, float("nan")),
)


def journal(path):
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def told(storage):
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


@pytest.mark.parametrize("where", ["search.journal", "sqlite"])
def test_every_order_is_a_trial_and_is_told_once(where, tmp_path):
    where = f"sqlite:///{tmp_path}/search.db" if where == "sqlite" else where
    storage = Storage(where, tmp_path, "derm", POOL)
    storage.tell(NODES[:2])
    storage.tell(NODES)
    # Another run of the same search.
    Storage(where, tmp_path, "derm", POOL).tell(NODES)
    trials = told(where if "://" in where else journal(tmp_path / where))
    assert [trial.params for trial in trials] == [
        {"task 1": "rotation"},
        {"task 1": "rotation", "task 2": "npid"},
        {"task 1": "npid"},
    ], "without the backbone as it is at the start"
    assert [trial.value for trial in trials] == [0.6, 0.7, None]
    states = optuna.trial.TrialState
    assert [trial.state for trial in trials] == [states.COMPLETE, states.COMPLETE, states.FAIL]
    assert trials[1].user_attrs["name"] == "rotation > npid" and trials[1].user_attrs["gain"] == 0.1
    assert trials[2].user_attrs["share"] == 0.5 and trials[2].user_attrs["standard error"] is None


def test_a_best_trial_is_that_with_the_highest_score(tmp_path):
    storage = Storage("search.journal", tmp_path, "derm", POOL)
    storage.tell(NODES)
    assert storage.study.best_trial.params == {"task 1": "rotation", "task 2": "npid"}


def test_workers_that_tell_at_the_same_time_tell_each_trial_once(tmp_path):
    workers = [Storage("search.journal", tmp_path, "derm", POOL) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda worker: worker.tell(NODES), workers))
    assert len(told(journal(tmp_path / "search.journal"))) == 3


@pytest.mark.parametrize(
    "where", ["postgresql://nobody@localhost:1/none", "sqlite:////nowhere/at/all/search.db", "quantum://host/trials"]
)
def test_a_storage_that_does_not_answer_is_one_message(where, tmp_path):
    with pytest.raises(UserError, match=f"search.storage: {where} does not answer: .+ leave search.storage empty"):
        Storage(where, tmp_path, "derm", POOL)


def test_a_password_in_a_url_is_refused():
    with pytest.raises(UserError, match="search.storage has a password, which would stand in config.json") as error:
        check_storage("postgresql://me:secret@host/trials")
    assert "secret" not in str(error.value)
    for fine in ("", "search.journal", "postgresql://me@host/trials", "sqlite:///search.db"):
        check_storage(fine)
