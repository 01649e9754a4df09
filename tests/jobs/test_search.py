"""Whole searches on arrays in memory: what is trained, what is found, what is never read."""

import json

import pytest
import tiny
from short_runs import Killed, stage
from short_runs import config as short_config

from aiseeme_jax import data
from aiseeme_jax.curriculum import stages as stage_work
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.jobs import curriculum, search
from aiseeme_jax.search import findings, scoring
from aiseeme_jax.search.planning import TrialPlanner
from aiseeme_jax.search.queue import Queue
from aiseeme_jax.search.storage import Storage
from aiseeme_jax.search.trials import START, Outcome, Trial
from aiseeme_jax.store import artifacts, listing
from configs import base

pytestmark = [pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")]
POOL = ("rotation", "npid", "simclr")


def config(*pool, **changes):
    made = base.get_search_config()
    made.update(
        {name: value for name, value in short_config().items() if name not in ("stages", "job", "search", "budget")}
    )
    with made.search.unlocked():
        made.search.pool = base.ConfigDict({name: stage(name, 2) for name in pool or POOL[:2]}).lock()
        made.search.proxy = base.proxy("knn", size=tiny.SIZE, views=tiny.PLAIN, neighbours=3, samples=20)
    made.search.update({"length": 2, "finalists": 1, "finalist_seeds": (), "compare": (), **changes})
    return made


@pytest.fixture
def trained(monkeypatch):
    """Labels of the stages that were trained, in their order."""
    done = []
    train = stage_work.train_stage

    def note(planned, context, directory):
        done.append(f"{planned.artifact.label} of seed {planned.seed % 1000}")
        return train(planned, context, directory)

    monkeypatch.setattr(curriculum, "train_stage", note)
    return done


def outcome(workdir):
    """Hash of every backbone, and every score, by the folder."""
    found = {}
    for folder in sorted([*workdir.glob("stages/*"), *workdir.glob("scores/*")]):
        record = artifacts.read_record(folder)
        found[folder.name] = record["backbone_hash"], record.get("value")
    return found


@pytest.mark.slow
class TestSearch:
    def test_finds_an_order_and_trains_what_orders_share_once(self, tmp_path, trained):
        made = config(strategy="exhaustive")
        search.run(made, tmp_path / "run")
        assert len(trained) == 2 + 2
        found = findings.read_findings(tmp_path / "run")
        assert len(found.nodes) == 1 + 2 + 2 and found.cost.stages == 4 and found.cost.images == 4 * 2 * 8
        assert found.cost.device_seconds > 0
        assert {"devices", "seconds", "joules"} <= set(artifacts.read_record(next(tmp_path.glob("run/scores/*"))))
        best = max((node for node in found.nodes if node.order), key=lambda node: (node.value, -len(node.order)))
        assert found.best == best.order
        page = (tmp_path / "run" / "report.html").read_text()
        assert "<svg" in page and found.sentences[0] in page.replace("&gt;", ">")

    def test_again_trains_nothing_and_a_wider_one_only_what_is_new(self, tmp_path, trained):
        search.run(config(strategy="exhaustive"), tmp_path / "run")
        before = outcome(tmp_path / "run")
        trained.clear()
        search.run(config(strategy="greedy"), tmp_path / "run")
        assert not trained and outcome(tmp_path / "run") == before
        search.run(config(*POOL, strategy="exhaustive", length=1), tmp_path / "run")
        assert [label.split()[0] for label in trained] == ["00-simclr"]

    def test_after_a_kill_it_ends_like_one_that_was_not_killed(self, tmp_path, trained, monkeypatch):
        made = config(strategy="exhaustive", finalist_seeds=(1,), compare=("reverse", "single", "random"))
        search.run(made, tmp_path / "whole")
        count = len(trained)
        trained.clear()
        score = scoring.Scorer.score
        calls = []

        def kill(*arguments):
            calls.append(1)
            if len(calls) in (2, 4):
                raise Killed
            return score(*arguments)

        monkeypatch.setattr(scoring.Scorer, "score", kill)
        for _ in range(2):
            with pytest.raises(Killed):
                search.run(made, tmp_path / "killed")
        search.run(made, tmp_path / "killed")
        assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole") and len(trained) == count
        pair = [findings.read_findings(tmp_path / name) for name in ("whole", "killed")]
        assert pair[0].nodes == pair[1].nodes and pair[0].compared == pair[1].compared
        assert {one.part for one in pair[0].compared} >= {"finalist"}

    def test_the_best_order_is_a_config_that_finds_its_stages(self, tmp_path, trained):
        search.run(config(strategy="exhaustive"), tmp_path / "run")
        space = {}
        exec((tmp_path / "run" / "best_order.py").read_text(), space)
        best = space["get_config"]()
        assert tuple(one.task for one in best.stages) == findings.read_findings(tmp_path / "run").best
        trained.clear()
        best.baselines = ()
        curriculum.run(best, tmp_path / "again")
        assert not trained and (tmp_path / "again" / "results.csv").exists()

    def test_other_seeds_judge_the_finalists(self, tmp_path, trained):
        made = config(
            *POOL, strategy="beam", width=1, finalists=2, finalist_seeds=(5, 6), compare=("reverse", "single", "random")
        )
        search.run(made, tmp_path / "run")
        found = findings.read_findings(tmp_path / "run")
        parts = [one.part for one in found.compared]
        assert parts.count("finalist") == 2 and found.final_cost.stages > 0
        assert "2 new pretraining seeds" in found.sentences[0] and len(found.sentences) == len(parts)
        assert all(entry.wanted for entry in listing.list_store([tmp_path / "run"])), "prune leaves them alone"

    def test_of_backbones_without_labels_too(self, tmp_path):
        made = config(strategy="similarity")
        with made.search.unlocked():
            made.search.proxy = base.proxy("rankme", size=tiny.SIZE, views=tiny.PLAIN, images=10, samples=4)
        search.run(made, tmp_path / "run")
        assert findings.read_findings(tmp_path / "run").proxy == "rankme"

    def test_a_training_that_diverges_ends_no_search(self, tmp_path, trained):
        made = config(strategy="exhaustive")
        made.search.pool.npid.optimizer.update({"name": "sgd", "learning_rate": 1e30})
        made.patience = 1
        search.run(made, tmp_path / "run")
        found = findings.read_findings(tmp_path / "run")
        lost = {node.order for node in found.nodes if node.value is None}
        assert ("npid",) in lost and ("npid", "rotation") in lost and ("rotation",) not in lost
        assert found.best[0] == "rotation" and "diverged" in (tmp_path / "run" / "report.html").read_text()


class TestTestLabels:
    @pytest.fixture
    def sealed(self, monkeypatch):
        """Raises when a test split is opened, or one of its tables read."""

        class Sealed:
            def __getattr__(self, name):
                raise AssertionError(f"the search read '{name}' of the test images")

        def open_split(name, split, data_dir):
            return Sealed() if split == "test" else tiny.split(24, seed=["train", "validation"].index(split))

        monkeypatch.setattr(data, "open_split", open_split)

    @pytest.mark.slow
    def test_a_search_does_not_read_them(self, tmp_path, sealed):
        made = config(strategy="exhaustive", length=1, finalist_seeds=(1,), compare=("reverse", "single", "random"))
        search.run(made, tmp_path / "run")
        assert findings.read_findings(tmp_path / "run").best
        with pytest.raises(AssertionError, match="of the test images"):
            DataSets(made).target(made.data.name)

    def test_no_test_split_is_handed_out(self):
        with pytest.raises(ValueError, match="a search must not open the split 'test', only train and validation"):
            DataSets(config()).searched("any/1", "test")


class TestBadInput:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"strategy": "clever"}, "unknown strategy 'clever': known are exhaustive"),
            ({"length": 0}, "search.length is 0; it must be at least 1"),
            ({"keep": 1}, "search.keep is 1; it must be at least 2"),
            ({"shortest": 0.0}, r"search.shortest is 0.0; it must lie in \(0, 1\]"),
            ({"margin": float("nan")}, "search.margin is nan"),
            ({"finalists": 0}, "search.finalists is 0"),
            ({"finalist_seeds": (1, 1)}, "each must come once"),
            ({"finalist_seeds": (0, 1)}, "search.finalist_seeds contain 0, the seed with which"),
            ({"compare": ("joint",)}, "search.compare has 'joint'; known are reverse, single, random"),
        ],
    )
    def test_a_field_is_named(self, changes, message, tmp_path):
        with pytest.raises(UserError, match=message):
            search.run(config(**changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_an_empty_pool(self, tmp_path):
        made = config()
        with made.search.unlocked():
            made.search.pool = base.ConfigDict()
        with pytest.raises(UserError, match="search.pool is empty"):
            search.run(made, tmp_path / "run")

    def test_one_stage_under_two_names(self, tmp_path):
        made = config()
        with made.search.pool.unlocked():
            made.search.pool.again = stage("rotation", 2)
        with pytest.raises(UserError, match="'again' and 'rotation' are the same stage; leave one out"):
            search.run(made, tmp_path / "run")

    def test_a_stage_whose_seed_is_fixed(self, tmp_path):
        made = config(finalist_seeds=(1,))
        made.search.pool.npid.seed = 3
        with pytest.raises(UserError, match="'npid' has a seed of its own"):
            search.run(made, tmp_path / "run")

    def test_a_stage_that_cannot_be_trained_is_named_before_anything_is_trained(self, tmp_path):
        made = config()
        made.search.pool.npid.batch_size = 1000
        with pytest.raises(UserError, match=r"npid.*a batch of 1000 is larger than the split"):
            search.run(made, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_target_of_the_best_order_is_checked_at_once(self, tmp_path):
        made = config()
        made.targets[0].protocol = "linear"
        with pytest.raises(UserError, match=r"targets\[0\] \(linear\): protocol was changed"):
            search.run(made, tmp_path / "run")

    def test_a_run_without_fields_of_a_search(self, tmp_path):
        made = short_config()
        made.job = "search"
        with pytest.raises(UserError, match="begin the config file with base.get_search_config"):
            search.run(made, tmp_path / "run")

    def test_a_proxy_without_labels(self, tmp_path, monkeypatch):
        monkeypatch.setattr(data, "open_split", lambda *_: data.from_arrays(tiny.images(24), name="bare:train"))
        with pytest.raises(UserError, match=r"search.proxy \(knn\): the proxy 'knn' needs labels"):
            search.run(config(), tmp_path / "run")


def test_plan_prints_the_next_round_and_writes_nothing(tmp_path, capsys):
    search.run(config(strategy="exhaustive"), tmp_path / "run", plan_only=True)
    said = capsys.readouterr().out
    assert "the next round of 'exhaustive'" in said and "to score: 1" in said
    assert not (tmp_path / "run").exists()


def test_plan_leaves_out_what_diverged_and_says_if_nothing_else_is_left(tmp_path, capsys):
    made = config(strategy="exhaustive", length=1)
    planner = TrialPlanner(made, DataSets(made))
    start, rotation, npid = planner.plan([START, Trial(("rotation",)), Trial(("npid",))]).values()
    store = artifacts.Store(tmp_path)
    store.begin(start.scores[0].artifact)
    store.finish(start.scores[0].artifact, {"value": 0.5, "draws": []})
    queue = Queue(Storage(made.search.storage, tmp_path), search.name_study(made), POOL)
    queue.note_divergence(npid.stages[0].artifact.key)
    search.run(made, tmp_path, plan_only=True)
    said = capsys.readouterr().out
    assert rotation.stages[0].artifact.name in said and npid.stages[0].artifact.name not in said
    queue.note_divergence(rotation.stages[0].artifact.key)
    with pytest.raises(UserError, match="the training of every order diverged: lower the learning rates"):
        search.run(made, tmp_path, plan_only=True)


def test_an_order_of_full_length_must_be_within_the_budget():
    short = {START: Score(0.5), Trial(("npid",), 0.1): Score(0.6)}
    with pytest.raises(UserError, match="search.stages ends the search before any order"):
        Outcome(short, 0.1, stopped=True).check()


def test_a_search_keeps_compiled_programs_where_its_config_says(tmp_path, monkeypatch):
    def stop(folder):
        assert folder == "the folder"
        raise Killed

    monkeypatch.setattr(search, "keep_programs", stop)
    made = config()
    made.runtime.compiled_programs = "the folder"
    with pytest.raises(Killed):
        search.run(made, tmp_path / "run")


def test_values_of_a_config_make_the_same_config():
    from aiseeme_jax.search.best_order import to_values

    made = short_config(
        (
            stage("rotation", 4, data={"a/1": 0.5, "b/1": 0.5}),
            stage("npid", 5, distill=({"kind": "kl"}, {"kind": "ewc", "teachers": (0,)}), seed=3),
            base.stage(
                "simclr", preset="ct", duration=base.duration(epochs=2), schedule={"warmup": base.duration(epochs=1)}
            ),
        )
    )
    made.targets = (*made.targets, base.target("finetune", duration=base.duration(steps=4)), base.target("linear"))
    values = to_values(made)
    again = base.from_values(values)
    assert to_values(again) == values and json.loads(again.to_json_best_effort()) == json.loads(
        made.to_json_best_effort()
    )
    assert again.is_locked and again.stages[0].is_locked
