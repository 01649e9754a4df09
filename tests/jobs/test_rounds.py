"""Workers that take orders from one queue, with pieces of work that train nothing."""

import shutil
import threading
import types

import optuna
import pytest

from aiseeme_jax.curriculum.pieces import PlannedArm, PlannedScore
from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.jobs import working
from aiseeme_jax.jobs.rounds import Maker, Round, Workers
from aiseeme_jax.search import findings
from aiseeme_jax.search.queue import Queue
from aiseeme_jax.search.storage import Storage
from aiseeme_jax.search.trials import Trial
from aiseeme_jax.store.artifacts import SCORES, STAGES, Artifact, Store
from aiseeme_jax.training.loop import Diverged

POOL = ("a", "b", "c")
STATES = optuna.trial.TrialState


class ScoreOf(PlannedScore):
    """A score of what stands in the place of a stage."""

    @property
    def inputs(self):
        return {"backbone": self.start}


def plan(*orders, number=1):
    """A round of orders, 'ab' for a then b; what they begin with has the same stages."""
    arms = []
    for order in orders:
        stages, before = [], {}
        for end in range(1, len(order) + 1):
            stages.append(types.SimpleNamespace(artifact=Artifact(STAGES, order[:end], {"of": order[:end]})))
            stages[-1].inputs, before = before, {"start": stages[-1]}
        score = ScoreOf(Artifact(SCORES, order, {"of": order}), order, None, "", stages[-1])
        arms.append((Trial(tuple(order)), PlannedArm(order, tuple(stages), (), stages[-1], (), (score,))))
    return Round.of(number, arms)


class Worker:
    """One worker: its labels of what it made, and the queue as it reads it."""

    def __init__(self, folder, journal="search.journal", *, make=lambda label: None):
        self.store, self.made, self.do = Store(folder / "store"), [], make
        self.queue = Queue(Storage(journal, self.store.root), "derm", POOL)
        self.maker = Maker(self.store, self.make)
        self.workers = Workers(self.maker, self.queue, self.describe)

    def make(self, piece, directory):
        label = f"{piece.artifact.kind} {piece.artifact.label}"
        self.made.append(label)
        self.do(label)
        return {"backbone_hash": piece.artifact.key, "value": len(piece.artifact.label) / 10}

    def describe(self, trial, arm):
        record = self.store.record(arm.scores[0].artifact)
        return findings.make_node(trial, Score(record["value"] if record else float("nan")))

    def list_trials(self):
        return [
            ("".join(trial.user_attrs["order"]), trial.state, trial.value) for trial in self.queue.study.get_trials()
        ]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(working, "LOOK_AGAIN", 0.01)
    # Nothing is trained, and so there are no weights.
    monkeypatch.setattr(working.weights, "check_artifact", lambda directory: None)


def complete(*orders):
    return [(order, STATES.COMPLETE, len(order) / 10) for order in orders]


EVERY = [f"{kind} {label}" for label in ("a", "ab", "c") for kind in (STAGES, SCORES)]


def test_one_worker_makes_every_order_and_tells_each_once(tmp_path):
    worker = Worker(tmp_path)
    worker.workers.make(plan("a", "ab", "c"))
    assert worker.made == EVERY and worker.list_trials() == complete("a", "ab", "c")
    worker.workers.make(plan("ab", "abc", number=2))
    assert worker.made[len(EVERY) :] == ["stages abc", "scores abc"], "only what is new"
    assert worker.list_trials() == complete("a", "ab", "c", "abc")
    assert [trial.user_attrs["round"] for trial in worker.queue.study.get_trials()] == [1, 1, 1, 2]


def test_two_workers_take_different_orders_and_make_each_piece_once(tmp_path):
    together = threading.Barrier(2)

    def meet(label):
        # Both are at work at once. An order waits for its beginning, while another one is ready.
        if label in ("stages a", "stages c"):
            together.wait(timeout=30)

    pair = [Worker(tmp_path, make=meet) for _ in range(2)]
    threads = [threading.Thread(target=worker.workers.make, args=(plan("a", "ab", "c"),)) for worker in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pair[0].made + pair[1].made) == sorted(EVERY)
    assert {"stages a", "stages c"}.isdisjoint(set(pair[0].made) & set(pair[1].made))
    assert pair[0].list_trials() == complete("a", "ab", "c")


def test_the_order_of_a_worker_that_died_is_made_by_another(tmp_path):
    dead, other = Worker(tmp_path), Worker(tmp_path)
    made = plan("a", "b")
    dead.queue.enqueue(1, made.orders)
    assert made.orders[dead.queue.take(made.orders)] == Trial(("a",))
    other.workers.make(made)
    assert other.made == ["stages b", "scores b", "stages a", "scores a"], "what waits first"
    assert other.list_trials() == complete("a", "b")


def test_a_storage_that_was_deleted_is_filled_again_and_nothing_is_made_again(tmp_path):
    Worker(tmp_path).workers.make(plan("a", "ab"))
    (tmp_path / "store" / "search.journal").unlink()
    worker = Worker(tmp_path)
    worker.workers.make(plan("a", "ab"))
    assert not worker.made and worker.list_trials() == complete("a", "ab")


def test_a_score_that_was_deleted_is_made_again_though_the_storage_has_it(tmp_path):
    Worker(tmp_path).workers.make(plan("a"))
    for kind in (STAGES, SCORES):
        shutil.rmtree(tmp_path / "store" / kind)
    worker = Worker(tmp_path)
    worker.workers.make(plan("a"))
    assert worker.made == ["stages a", "scores a"] and worker.list_trials() == complete("a", "a")


def test_a_storage_that_does_not_answer_any_more_is_done_without(tmp_path, caplog):
    def break_off(label):
        worker.queue.study = None

    worker = Worker(tmp_path, make=break_off)
    worker.workers.make(plan("a", "b"))
    worker.workers.make(plan("c", number=2))
    assert worker.made == [f"{kind} {label}" for label in POOL for kind in (STAGES, SCORES)]
    assert caplog.text.count("search.storage: search.journal does not answer") == 1


def test_what_diverged_with_one_worker_is_not_trained_by_another(tmp_path):
    def diverge(label):
        if label == "stages b":
            raise Diverged("of all things")

    first, second = Worker(tmp_path, make=diverge), Worker(tmp_path, make=diverge)
    for worker in (first, second):
        worker.workers.make(plan("a", "b", "ba"))
    assert first.made == ["stages a", "scores a", "stages b"] and not second.made
    assert second.maker.has_diverged(plan("ba").arms[next(iter(plan("ba").arms))])
    assert second.list_trials() == [*complete("a"), ("b", STATES.FAIL, None), ("ba", STATES.FAIL, None)]


def test_what_diverges_while_another_worker_waits_for_it_is_not_trained_again(tmp_path):
    waits = threading.Event()

    def diverge(label):
        assert waits.wait(timeout=30)
        raise Diverged("of all things")

    first, second = Worker(tmp_path, make=diverge), Worker(tmp_path, make=diverge)
    take = second.queue.take

    def find_none(keys):
        taken = take(keys)
        # What it does next was decided: it helps.
        waits.set()
        return taken

    second.queue.take = find_none
    made = plan("b")
    first.queue.enqueue(1, made.orders)
    assert first.queue.take(made.orders)
    thread = threading.Thread(target=first.workers.make, args=(made,))
    thread.start()
    second.workers.make(plan("b"))
    thread.join()
    assert len(first.made + second.made) == 1 and second.list_trials() == [("b", STATES.FAIL, None)]


def test_an_order_whose_next_stage_another_worker_trains_comes_last(tmp_path):
    """As of finalists, whose beginnings are no orders of their round."""
    made = plan("ab", "ac", "ca")

    def break_off(label):
        raise KeyboardInterrupt

    def look_at_the_other(label):
        if label == "stages a":
            with pytest.raises(KeyboardInterrupt):
                other.workers.make(made)

    first, other = Worker(tmp_path, make=look_at_the_other), Worker(tmp_path, make=break_off)
    first.workers.make(made)
    assert other.made == ["stages c"]
    assert len(first.made) == len(set(first.made)) == 5 + 3


def test_orders_of_another_search_in_the_same_study_are_left_alone(tmp_path):
    worker = Worker(tmp_path)
    worker.queue.enqueue(1, plan("c").orders)
    worker.workers.make(plan("a"))
    assert worker.made == ["stages a", "scores a"]
    assert worker.list_trials() == [("c", STATES.WAITING, None), *complete("a")]


def test_a_store_of_its_own_makes_all_whoever_else_uses_the_study(tmp_path):
    """Two workdirs with one URL: what the other finishes first is told by it, and this one goes on."""
    url = f"sqlite:///{tmp_path}/search.db"
    pair = [Worker(tmp_path / name, url) for name in ("one", "other")]
    made = plan("a", "b")
    for worker in pair:
        worker.queue.enqueue(1, made.orders)
    assert len(pair[0].list_trials()) == 2, "the other store finds them waiting"
    for worker in pair:
        worker.workers.make(made)
        assert worker.made == [f"{kind} {label}" for label in "ab" for kind in (STAGES, SCORES)]
