"""Arms and stages end to end on arrays in memory: what is handed over, what is left behind, what a kill costs."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict
from short_runs import Killed, config, record, stage
from tiny import no_events, tiny_in_the_table  # noqa: F401

import aiseeme_jax
from aiseeme_jax import data, pretext, weights
from aiseeme_jax.curriculum import plan
from aiseeme_jax.evaluate import protocols, recording, results
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.jobs import workdir as workdir_
from aiseeme_jax.store import records
from aiseeme_jax.training import loop
from aiseeme_jax.training.step import make_state, train_step
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")


def hashes(workdir):
    """Start and end of every stage of every arm, by folder."""
    found = {path.parent: json.loads(path.read_text()) for path in workdir.glob("**/stages/*/done.json")}
    return {str(d.relative_to(workdir)): (done["start_hash"], done["backbone_hash"]) for d, done in found.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of a run that nothing disturbed; made by the first test that wants it."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def finished(whole, splits):
    if not whole.exists():
        curriculum.run(config(), whole)
    return whole


class TestArms:
    def names(self, **changes):
        return [arm.name for arm in curriculum.arms(config(**changes))]

    def test_single_stands_for_each_task_of_the_curriculum_once(self):
        assert self.names() == ["curriculum", "scratch", "single:rotation", "single:npid"]
        assert self.names(baselines=()) == ["curriculum"]
        assert self.names(baselines=("single:npid",)) == ["curriculum", "single:npid"]
        stages = (stage("npid", 4), stage("rotation", 2), stage("npid", 4))
        assert self.names(stages=stages, baselines=("single",)) == ["curriculum", "single:npid", "single:rotation"]

    def test_each_has_its_start_and_its_stages(self):
        arms = {arm.name: arm for arm in curriculum.arms(config(init="somewhere"))}
        assert [position for position, _ in arms["curriculum"].stages] == [0, 1]
        assert [position for position, _ in arms["single:npid"].stages] == [1]
        assert arms["curriculum"].init == arms["single:npid"].init == "somewhere"
        assert (arms["scratch"].init, arms["scratch"].stages) == ("scratch", ())

    def test_imagenet_is_a_start_from_a_file(self):
        arm = curriculum.arms(config(baselines=("imagenet",), imagenet="r50.pth"))[1]
        assert (arm.name, arm.init, arm.stages) == ("imagenet", "r50.pth", ())
        with pytest.raises(ValueError, match="baseline 'imagenet' needs --config.imagenet=FILE"):
            self.names(baselines=("imagenet",))

    def test_unknown_names_are_errors(self):
        with pytest.raises(ValueError, match="unknown baseline 'random': known are scratch, imagenet, single"):
            self.names(baselines=("random",))
        with pytest.raises(ValueError, match="'single:simclr' has no stage of that task: there are rotation, npid"):
            self.names(baselines=("single:simclr",))
        with pytest.raises(ValueError, match="unknown single_budget 'all': known are stage, total"):
            self.names(single_budget="all")


class TestCurricula:
    """Other curricula beside the first one."""

    def several(self, **changes):
        first, second = stage("rotation", 2), stage("npid", 3)
        distilled = stage("npid", 3, distill=({"kind": "l2_sp"}, {"kind": "ewc", "weight": 0.1}))
        named = {"alone": (first,), "plain": (first, second), "distilled": (first, distilled), "again": (second,)}
        made = config(**changes)
        made.stages, made.curricula = (), ConfigDict(named)
        return made

    def test_each_is_an_arm_by_its_name(self):
        made = self.several(baselines=("scratch",))
        assert [arm.name for arm in curriculum.arms(made)] == ["again", "alone", "distilled", "plain", "scratch"]

    @pytest.mark.slow
    def test_what_begins_alike_is_trained_once_and_serves_all(self, tmp_path):
        made = self.several(baselines=(), targets=())
        curriculum.run(made, tmp_path)
        found = hashes(tmp_path)
        assert set(found) == {
            "arms/alone/stages/00-rotation",
            "arms/plain/stages/01-npid",
            "arms/distilled/stages/01-npid",
            "arms/again/stages/00-npid",
        }
        start = found["arms/alone/stages/00-rotation"][1]
        assert found["arms/plain/stages/01-npid"][0] == found["arms/distilled/stages/01-npid"][0] == start
        assert found["arms/plain/stages/01-npid"][1] != found["arms/distilled/stages/01-npid"][1]
        assert (tmp_path / "arms/alone/stages/00-rotation/fisher.safetensors").exists()
        page = (tmp_path / "report.html").read_text()
        assert "distilled" in page and "No results" not in page

    @pytest.mark.parametrize("baselines", [("scratch",), ()])
    def test_a_name_that_is_taken(self, baselines):
        taken = config(baselines=baselines)
        taken.curricula = ConfigDict({"scratch": (stage("npid", 2),)})
        with pytest.raises(ValueError, match="curricula: 'scratch' is the name of another arm"):
            curriculum.arms(taken)

    @pytest.mark.parametrize(
        "names, message",
        [
            (["single-npid"], "'single-npid' and 'single:npid' would both lie in the folder 'single-npid'"),
            (["a:b", "a/b"], "'a/b' and 'a:b' would both lie in the folder 'a-b'"),
        ],
    )
    def test_names_that_become_one_folder(self, names, message):
        taken = config()
        taken.curricula = ConfigDict({name: (stage("rotation", 2),) for name in names})
        with pytest.raises(ValueError, match=f"curricula: the arms {message}"):
            curriculum.arms(taken)

    def test_a_mistake_is_told_by_curriculum_and_place(self):
        wrong = config()
        wrong.curricula = ConfigDict({"odd": (stage("npid", 2), stage("npid", 0))})
        with pytest.raises(ValueError, match=r"curricula.odd\[1\] \(npid\): duration is 0"):
            plan.check(wrong, tiny.split(24))


@pytest.mark.slow
class TestRun:
    def test_leaves_what_the_design_says(self, finished):
        top = {path.name for path in finished.iterdir()}
        assert top == {
            "config.json",
            "data.json",
            "done.json",
            "results.csv",
            "report.html",
            "stages",
            "arms",
            "targets",
        }
        assert {path.name for path in (finished / "stages").iterdir()} == {"00-rotation", "01-npid"}
        assert {path.name for path in (finished / "stages" / "00-rotation").iterdir()} == {
            "checkpoints",
            "metrics.jsonl",
            "views.png",
            "backbone.safetensors",
            "done.json",
        }
        assert {path.name for path in (finished / "arms").iterdir()} == {"single-npid"}
        arms = {path.name for path in (finished / "targets").iterdir()}
        assert arms == {"curriculum", "scratch", "single-rotation", "single-npid"}
        runs = {path.name for path in (finished / "targets" / "curriculum" / "knn").iterdir()}
        assert runs == {"fraction-0.5-seed-0", "fraction-0.5-seed-1", "fraction-1-seed-0"}

    def test_record_of_a_stage(self, finished):
        done = record(finished, "01-npid")
        assert done["task"] == "npid" and done["steps"] == 5 and len(done["backbone_hash"]) == 64
        assert done["seconds"] > 0 and done["skipped_steps"] == 0 and np.isfinite(done["final_loss"])

    def test_results_have_every_arm_on_every_target(self, finished):
        with open(finished / "results.csv") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["arm", "target", "fraction", "seed", "metric", "value", "low", "high"]
        arms = ["curriculum", "scratch", "single:rotation", "single:npid"]
        runs = [("0.5", "0"), ("0.5", "1"), ("1.0", "0")]
        headline = {(r["arm"], r["fraction"], r["seed"]): r for r in rows if r["metric"] == "balanced_accuracy"}
        assert list(headline) == [(arm, *run) for arm in arms for run in runs]
        for row in headline.values():
            assert row["target"] == "knn" and 0 <= float(row["value"]) <= 1
            if float(row["value"]) == 1:
                assert (row["low"], row["high"]) == ("", ""), "24 images, all right, are no certainty"
            else:
                assert 0 <= float(row["low"]) <= float(row["value"]) <= float(row["high"]) <= 1
        assert {"auroc", "accuracy"} <= {row["metric"] for row in rows}

    def test_results_follow_from_the_stored_predictions(self, finished):
        for run in results.find_runs(finished, ["curriculum", "scratch", "single:rotation", "single:npid"]):
            again = results.rows_of(run, results.load_predictions(run.directory), samples=20, seed=0)
            key = (run.arm, run.fraction, run.seed)
            written = [row for row in results.read_rows(finished) if (row.arm, row.fraction, row.seed) == key]
            assert [row.metric for row in written] == [row.metric for row in again]
            np.testing.assert_allclose([r.value for r in written], [r.value for r in again], rtol=1e-5, equal_nan=True)

    def test_each_stage_starts_where_the_last_one_ended(self, finished):
        first, second, alone = (
            record(finished, "00-rotation"),
            record(finished, "01-npid"),
            record(finished, "00-npid", "arms/single-npid"),
        )
        born = weights.backbone_hash(weights.starting_backbone(config().model, "scratch", 0))
        assert first["start_hash"] == born == alone["start_hash"]
        assert second["start_hash"] == first["backbone_hash"]
        assert len({first["backbone_hash"], second["backbone_hash"], alone["backbone_hash"], born}) == 4

    def test_teacher_is_the_stage_before_and_a_first_stage_has_none(self, finished):
        assert record(finished, "01-npid")["teachers"] == {
            "00-rotation": record(finished, "00-rotation")["backbone_hash"]
        }
        assert record(finished, "00-npid", "arms/single-npid")["teachers"] == {}
        logs = [(finished / "stages" / name / "metrics.jsonl").read_text() for name in ("00-rotation", "01-npid")]
        assert ["distill_loss" in log for log in logs] == [False, True]

    def test_backbone_of_a_workdir_is_that_of_its_last_stage(self, finished):
        backbone, info = aiseeme_jax.load_backbone(finished)
        assert weights.backbone_hash(backbone) == record(finished, "01-npid")["backbone_hash"]
        assert info["task"] == "npid"

    def test_single_arm_of_the_opening_task_is_the_first_stage(self, finished):
        splits = {name: data.open_split("", name, "") for name in protocols.SPLITS}
        backbone = aiseeme_jax.load_backbone(finished / "stages" / "00-rotation")[0]
        subject = protocols.Subject("again", backbone, splits)
        run = next(run for run in recording.runs(config(), finished, "single:rotation") if run.fraction == 1)
        again = protocols.measure(run, subject, run.directory, recording._runtime(config())).predictions
        np.testing.assert_allclose(results.load_predictions(run.directory).probs, again.probs, atol=1e-6)

    def test_complete_run_is_left_alone(self, finished, splits, monkeypatch):
        def never(*_, **__):
            raise AssertionError("work is done again")

        for module, name in ((loop, "fit"), (recording, "evaluate_arm"), (weights, "save_backbone")):
            monkeypatch.setattr(module, name, never)
        before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
        del before[finished / "config.json"]
        del splits[:]
        curriculum.run(config(), finished)
        assert all(path.stat().st_mtime_ns == time for path, time in before.items()) and not splits

    def test_pretraining_sees_training_images_alone(self, splits, tmp_path, monkeypatch):
        monkeypatch.setattr(curriculum, "run_stage", lambda *_: split_seen.append(_[-1].ids))
        monkeypatch.setattr(weights, "load_backbone", lambda path: (None, {}))
        split_seen = []
        arm = curriculum.arms(config())[0]
        curriculum.train_arm(config(), arm, [tmp_path / "one", tmp_path / "two"], curriculum.Source(config()))
        assert splits == ["train"] and len(split_seen) == 2

    def test_a_stage_leaves_what_its_task_hands_over(self, tmp_path, monkeypatch):
        def emptied(task):
            copy = nnx.clone(task.backbone)
            nnx.update(copy, jax.tree.map(jnp.zeros_like, nnx.state(copy)))
            return copy

        monkeypatch.setattr(pretext.task_class("rotation"), "handed_over", emptied)
        curriculum.run(config((stage("rotation", 1),), baselines=(), targets=()), tmp_path)
        assert not any(leaf.any() for leaf in tiny.arrays(aiseeme_jax.load_backbone(tmp_path)[0]).values())

    def test_run_may_start_from_an_earlier_one(self, finished, tmp_path):
        later = config((stage("rotation", 4),), init=str(finished), baselines=(), targets=())
        curriculum.run(later, tmp_path / "later")
        assert record(tmp_path / "later", "00-rotation")["start_hash"] == record(finished, "01-npid")["backbone_hash"]

    def test_init_that_is_not_there_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="init: no file or folder at 'absent.safetensors'"):
            curriculum.run(config(init="absent.safetensors"), tmp_path)

    def test_damaged_hand_over_is_an_error(self, finished, tmp_path):
        workdir_.begin(config(), tmp_path)
        directory = tmp_path / "stages" / "00-rotation"
        directory.mkdir(parents=True)
        source = finished / "stages" / "00-rotation"
        damaged = bytearray((source / weights.BACKBONE).read_bytes())
        damaged[-10] ^= 1
        (directory / weights.BACKBONE).write_bytes(damaged)
        (directory / "done.json").write_text((source / "done.json").read_text())
        with pytest.raises(ValueError, match="backbone.safetensors is damaged"):
            curriculum.run(config(), tmp_path)


class TestBudget:
    def lengths(self, tmp_path, monkeypatch, **changes):
        """Steps each stage would be trained for."""
        asked = []

        def fit(task, batches, recipe, folder, **_):
            asked.append((folder.title, recipe.total_steps))
            return loop.Result(task, {})

        monkeypatch.setattr(loop, "fit", fit)
        monkeypatch.setattr(recording, "evaluate_arm", lambda *_, **__: None)
        curriculum.run(config(targets=(), **changes), tmp_path)
        return asked

    @pytest.mark.slow
    def test_single_task_lasts_as_long_as_its_stage(self, tmp_path, monkeypatch):
        stages = (stage("rotation", 4), stage("npid", 5))
        expected = [("curriculum 0: rotation", 4), ("curriculum 1: npid", 5), ("single:npid", 5)]
        assert self.lengths(tmp_path, monkeypatch, stages=stages) == expected

    @pytest.mark.slow
    def test_or_sees_as_many_images_as_the_whole_curriculum(self, tmp_path, monkeypatch):
        stages = (stage("rotation", 4), stage("npid", 5, batch_size=16))
        asked = dict(self.lengths(tmp_path, monkeypatch, stages=stages, single_budget="total"))
        assert asked["single:rotation"] * 8 == asked["single:npid"] * 16 + 0 == 4 * 8 + 5 * 16


@pytest.fixture
def copied(finished, tmp_path):
    """A run that has still to write its results."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "done.json").unlink()
    return tmp_path / "run"


@pytest.mark.slow
class TestChain:
    """Nothing is gone on with that belongs to a backbone, or to images, that are not there any more."""

    def test_stage_that_started_from_another_backbone(self, copied):
        path = copied / "stages" / "00-rotation" / "done.json"
        done = json.loads(path.read_text())
        path.write_text(json.dumps({**done, "backbone_hash": "f" * 64}))
        first, second = (str(copied / "stages" / name) for name in ("00-rotation", "01-npid"))
        found = (
            f"{second} started from another backbone than {first} now holds .{done['backbone_hash'][:12]} is not f+.*"
        )
        with pytest.raises(ValueError, match=f"{found} remove {second}, and from targets/"):
            curriculum.run(config(), copied)

    def test_stages_trained_anew_to_the_same_weights_go_together(self, copied, finished):
        shutil.rmtree(copied / "stages" / "00-rotation")
        curriculum.run(config(), copied)
        assert hashes(copied) == hashes(finished)

    def test_target_of_another_backbone(self, copied):
        folder = copied / "targets" / "scratch" / "knn" / "fraction-1-seed-0"
        done = json.loads((folder / "done.json").read_text())
        assert done["backbone_hash"] == record(copied, "00-rotation")["start_hash"]
        (folder / "done.json").write_text(json.dumps({**done, "backbone_hash": "f" * 64}))
        with pytest.raises(ValueError, match=f"{folder} measured another backbone; .* remove that folder"):
            curriculum.run(config(), copied)
        shutil.rmtree(folder)
        curriculum.run(config(), copied)

    def test_records_from_before_are_accepted(self, copied, finished):
        (copied / "data.json").unlink()
        for path in copied.glob("targets/*/*/*/done.json"):
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "backbone_hash"}))
        curriculum.run(config(), copied)
        assert (copied / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()

    def test_other_images_to_pretrain_on(self, copied, monkeypatch):
        shutil.rmtree(copied / "stages" / "01-npid")
        monkeypatch.setattr(data, "open_split", lambda *_: dataclasses.replace(tiny.split(32), version="2.0.0"))
        with pytest.raises(
            ValueError, match="begun with other images for its pretraining.*version  -> 2.0.0, images 24 -> 32"
        ):
            curriculum.run(config(), copied)

    def test_other_images_to_measure_on(self, copied, monkeypatch):
        shutil.rmtree(copied / "targets" / "scratch")
        real = data.open_split
        monkeypatch.setattr(
            data,
            "open_split",
            lambda name, split, where: tiny.split(16) if split == "test" else real(name, split, where),
        )
        with pytest.raises(ValueError, match="begun with other images for its targets' test split.*images 24 -> 16"):
            curriculum.run(config(), copied)


MOMENTS = {
    "in the first stage": ("in_step", 0, 3),
    "before its backbone is written": ("before", weights, "save_backbone"),
    "before it is called done": ("before", records, "write_json", 1),
    "at the start of the second stage": ("in_step", 1, 0),
    "in the second stage": ("in_step", 1, 3),
    "while it is measured": ("before", results, "save_predictions", 1),
    "in a baseline": ("in_step", 2, 2),
    "before the results are written": ("before", results, "write_rows", 2),
}
FAST = "in the second stage"


@pytest.mark.slow
class TestKill:
    def in_step(self, monkeypatch, which, last):
        """At the batch after step `last` of the stage number `which`."""
        real, started = data.Batches.__call__, []

        def call(batches, start=0):
            started.append(start)
            for step, batch in enumerate(real(batches, start), start=start + 1):
                if len(started) - 1 == which and step == last + 1:
                    raise Killed
                yield batch

        monkeypatch.setattr(data.Batches, "__call__", call)

    def before(self, monkeypatch, module, name, which=0):
        """When `module.name` is called for the time number `which`."""
        real, calls = getattr(module, name), []

        def call(*args, **options):
            calls.append(1)
            if len(calls) - 1 == which:
                raise Killed
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    @pytest.mark.parametrize("moment", [pytest.param(m, marks=() if m == FAST else pytest.mark.slow) for m in MOMENTS])
    def test_costs_nothing_but_time(self, moment, finished, tmp_path, monkeypatch):
        kind, *where = MOMENTS[moment]
        with monkeypatch.context() as patch:
            getattr(self, kind)(patch, *where)
            with pytest.raises(Killed):
                curriculum.run(config(), tmp_path / "run")
        assert not (tmp_path / "run" / "done.json").exists()
        curriculum.run(config(), tmp_path / "run")
        assert hashes(tmp_path / "run") == hashes(finished)
        assert (tmp_path / "run" / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


@pytest.mark.slow
def test_all_protocols_and_all_tasks_in_one_run(tmp_path):
    # Less than an epoch, and judged for all that.
    finetune = {"duration": base.duration(steps=2), "batch_size": 8}
    targets = (
        base.target("knn", size=tiny.SIZE),
        base.target("linear", size=tiny.SIZE, strengths=(0.1, 1.0)),
        base.target("finetune", size=tiny.SIZE, **finetune),
    )
    tasks = ("relative_location", "rotation", "npid", "moco_v2", "simclr")
    stages = tuple(stage(task, 3, distill={"kind": "kl"}) for task in tasks)
    curriculum.run(config(stages, targets=targets, baselines=("scratch",)), tmp_path)
    found = {(row.arm, row.target) for row in results.read_rows(tmp_path)}
    assert found == {(arm, t) for arm in ("curriculum", "scratch") for t in ("knn", "linear", "finetune")}
    starts, ends = zip(*(hashes(tmp_path)[f"stages/{i:02d}-{task}"] for i, task in enumerate(tasks)), strict=True)
    assert starts[1:] == ends[:-1]
    tuned = json.loads((tmp_path / "targets/scratch/finetune/fraction-1-seed-0/done.json").read_text())
    assert tuned["steps"] == 2 and 0 < tuned["validation_score"] <= 1 and tuned["data"]["images"] == 24


def test_other_images_may_be_asked_for_while_nothing_is_finished(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    made = config((stage("rotation", 2),), baselines=(), targets=())
    monkeypatch.setattr(loop, "fit", killed)
    with pytest.raises(Killed):
        curriculum.run(made, tmp_path / "run")
    (tmp_path / "ids.txt").write_text("3\n")
    made.data.exclude = (str(tmp_path / "ids.txt"),)
    monkeypatch.setattr(loop, "fit", lambda task, *_, **__: loop.Result(task, {}))
    curriculum.run(made, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "data.json").read_text())["pretraining"]["images"] == 23
    assert json.loads((tmp_path / "run" / "before/1/data.json").read_text())["pretraining"]["images"] == 24


def test_stage_lets_go_of_what_it_compiled(tmp_path, monkeypatch):
    def fit(task, batches, recipe, folder, *, frozen, **_):
        program, _ = make_state(task, recipe, frozen)
        train_step.of(program)
        held.append(len(train_step.programs))
        return loop.Result(task, {})

    held, before = [], len(train_step.programs)
    monkeypatch.setattr(loop, "fit", fit)
    curriculum.run(config(baselines=(), targets=()), tmp_path)
    assert held == [before + 1] * 2 and len(train_step.programs) == before


def test_listed_images_are_kept_out_of_pretraining_and_counted(tmp_path, monkeypatch):
    (tmp_path / "ids.txt").write_text("3\n0-5\n")
    made = config((stage("rotation", 2),), baselines=(), targets=())
    made.data.exclude = (str(tmp_path / "ids.txt"),)
    assert [int(i) for i in curriculum.Source(made)().ids] == [i for i in range(24) if i not in (3, 10, 11)]
    monkeypatch.setattr(loop, "fit", lambda task, *_, **__: loop.Result(task, {}))
    curriculum.run(made, tmp_path / "run")
    done = record(tmp_path / "run", "00-rotation")
    assert (done["images"], done["excluded"]) == (21, 3)
    assert "3 images kept out of pretraining" in (tmp_path / "run" / "report.html").read_text()
