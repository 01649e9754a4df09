"""Arms and stages end to end on arrays in memory: what is handed over, what is left behind, what a kill costs."""

import csv
import dataclasses
import errno
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict
from running import read_results
from short_runs import Killed, config, measurement_folders, outcome, stage, stage_folders, stage_records
from small_disk import small_disk  # noqa: F401

import aiseeme_jax
from aiseeme_jax import data, pretext, weights
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.errors import DiskError, MissingFile, UserError
from aiseeme_jax.evaluate import masks as evaluate_masks
from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.jobs import curriculum, store_command, working
from aiseeme_jax.report.contents import read_contents
from aiseeme_jax.store import artifacts, records, workdirs
from aiseeme_jax.training import loop
from aiseeme_jax.training.journal import Journal
from aiseeme_jax.training.state import make_state
from aiseeme_jax.training.step import train_step
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of a run that nothing disturbed; made by the first test that wants it."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def finished(whole, splits):
    if not whole.exists():
        curriculum.run(config(), whole)
    return whole


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def trained(monkeypatch):
    """Titles of the stages that were trained, in their order; they are trained for real."""
    titles, real = [], loop.fit

    def fit(task, batches, recipe, folder, **options):
        titles.append(folder.title)
        return real(task, batches, recipe, folder, **options)

    monkeypatch.setattr(loop, "fit", fit)
    return titles


@pytest.fixture
def not_trained(monkeypatch):
    """(title, steps) of the stages that would be trained, in their order; none is."""
    asked = []

    def fit(task, batches, recipe, folder, **_):
        asked.append((folder.title, recipe.total_steps))
        return loop.Result(task, {})

    monkeypatch.setattr(loop, "fit", fit)
    return asked


@pytest.mark.slow
class TestRun:
    def test_leaves_the_files_of_the_layout(self, finished):
        top = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
        files = {"config.json", "plan.json", "run.json", "results.csv", "report.html", "MODEL_CARD.md"}
        assert top == {*files, "stages", "measurements"}
        names = sorted(path.name for path in (finished / "stages").iterdir() if path.is_dir())
        assert [re.sub("-[0-9a-f]{12}$", "", name) for name in names] == ["00-rotation", "01-npid", "01-npid"]
        assert {path.name for path in stage_folders(finished)[0].iterdir()} == {
            "checkpoints",
            "metrics.jsonl",
            "views.png",
            "backbone.safetensors",
            "key.json",
            "record.json",
        }
        assert list(measurement_folders(finished)) == [("knn", 0.5, 0), ("knn", 0.5, 1), ("knn", 1.0, 0)]
        folder = measurement_folders(finished)["knn", 0.5, 1]
        assert re.fullmatch("knn-50pct-seed1-[0-9a-f]{12}", folder.name)
        left = {"key.json", "record.json", "predictions.npz", "validation.npz", "metrics.json"}
        assert {path.name for path in folder.iterdir()} == left

    def test_record_of_a_stage(self, finished):
        first, second = stage_records(finished)
        assert second["task"] == "npid" and second["steps"] == 5 and len(second["backbone_hash"]) == 64
        assert second["seconds"] > 0 and second["skipped_steps"] == 0 and np.isfinite(second["final_loss"])
        assert second["made_from"]["start"] == {"key": first["key"], "hash": first["backbone_hash"]}
        assert second["made_from"]["teacher 00-rotation"] == second["made_from"]["start"]

    def test_results_have_every_arm_on_every_target(self, finished):
        with open(finished / "results.csv") as file:
            rows = list(csv.DictReader(file))
        columns = ["arm", "target", "fraction", "seed", "metric", "value", "low", "high", *results.COSTS]
        assert list(rows[0]) == columns
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

    def test_each_stage_starts_where_the_last_one_ended(self, finished):
        first, second = stage_records(finished)
        (single,) = stage_records(finished, "single:npid")
        born = weights.backbone_hash(weights.starting_backbone(config().model, "scratch", 0))
        assert first["start_hash"] == born == single["start_hash"]
        assert second["start_hash"] == first["backbone_hash"]
        assert len({first["backbone_hash"], second["backbone_hash"], single["backbone_hash"], born}) == 4

    def test_teacher_is_the_stage_before_and_a_first_stage_has_none(self, finished):
        first, second = stage_records(finished)
        assert second["teachers"] == {"00-rotation": first["backbone_hash"]}
        assert stage_records(finished, "single:npid")[0]["teachers"] == {}
        logs = [(folder / "metrics.jsonl").read_text() for folder in stage_folders(finished)]
        assert ["distill_loss" in log for log in logs] == [False, True]

    def test_backbone_of_a_workdir_is_that_of_its_last_stage(self, finished):
        backbone, info = aiseeme_jax.load_backbone(finished)
        assert weights.backbone_hash(backbone) == stage_records(finished)[-1]["backbone_hash"]
        assert info["task"] == "npid"
        single, _ = aiseeme_jax.load_backbone(finished, arm="single:npid")
        assert weights.backbone_hash(single) == stage_records(finished, "single:npid")[0]["backbone_hash"]

    def test_a_finished_run_is_left_as_it_is(self, finished, trained):
        before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
        results_before = (finished / "results.csv").read_bytes()
        curriculum.run(config(), finished)
        written = {"config.json", "plan.json", "run.json", "results.csv", "report.html", "MODEL_CARD.md"}
        kept = {path: time for path, time in before.items() if path.name not in written}
        assert {path: path.stat().st_mtime_ns for path in kept} == kept and trained == []
        assert (finished / "results.csv").read_bytes() == results_before

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
        ended = stage_records(finished)[-1]["backbone_hash"]
        assert stage_records(tmp_path / "later")[0]["start_hash"] == ended

    def test_curricula_share_the_stages_that_they_begin_with(self, tmp_path):
        first, second = stage("rotation", 2), stage("npid", 3)
        distilled = stage("npid", 3, distill=({"kind": "l2_sp"}, {"kind": "ewc", "weight": 0.1}))
        made = config(baselines=(), targets=())
        made.stages = ()
        made.curricula = ConfigDict({"short": (first,), "plain": (first, second), "distilled": (first, distilled)})
        curriculum.run(made, tmp_path)
        (short,) = stage_folders(tmp_path, "short")
        plain, distilled = (stage_folders(tmp_path, name) for name in ("plain", "distilled"))
        assert plain[0] == distilled[0] == short and plain[1] != distilled[1]
        start = artifacts.read_record(short)["backbone_hash"]
        ends = [stage_records(tmp_path, name)[1] for name in ("plain", "distilled")]
        assert [end["start_hash"] for end in ends] == [start] * 2
        assert ends[0]["backbone_hash"] != ends[1]["backbone_hash"]
        (fisher,) = (tmp_path / "fisher").glob("*/fisher.safetensors")
        estimated = artifacts.read_record(fisher.parent)
        assert estimated["fisher_of"] == start
        assert ends[1]["made_from"]["Fisher information of 00-rotation"]["hash"] == estimated["fisher_hash"]
        assert fisher.parent.name.startswith("00-rotation-")


@pytest.mark.slow
def test_pretraining_gets_training_images_only(splits, tmp_path, not_trained):
    curriculum.run(config(targets=()), tmp_path)
    assert splits == ["train"] and len(not_trained) == 3


def test_a_config_that_cannot_be_done_leaves_nothing(tmp_path):
    wrong = config()
    wrong.targets[0].fractions = (2.0,)
    for broken, error, message in (
        (wrong, UserError, r"targets\[0\] \(knn\): fractions are \(2.0,\)"),
        (config(init="absent.safetensors"), MissingFile, "init: no file or folder at 'absent.safetensors'"),
        (config(patience=0), UserError, "patience is 0; it must be at least 1"),
        (config(stages=(), targets=(), baselines=(), job="evaluate"), UserError, "there is nothing to do"),
    ):
        with pytest.raises(error, match=message):
            curriculum.run(broken, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_workdir_of_an_older_version_is_named_and_left_alone(tmp_path):
    (tmp_path / "stages" / "00-rotation").mkdir(parents=True)
    (tmp_path / "stages" / "00-rotation" / "done.json").write_text("{}")
    with pytest.raises(UserError, match="was made by version 0.1 of this program"):
        curriculum.run(config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stages"]


def test_the_plan_alone_trains_and_writes_nothing(tmp_path, not_trained, capsys, quick_forecasts):
    curriculum.run(config(baselines=("single:rotation",)), tmp_path / "run", plan_only=True)
    said = capsys.readouterr().out
    told = r"about 4 s \(estimated speed\), 5 MiB of memory, 3 MiB of disk\n"
    begun = r"00-rotation-[0-9a-f]{12}: not begun; 4 steps of 8 images, 32 in all, of isic2019/224"
    assert re.search(f"{begun}; {told}", said)
    assert re.search(r"single:rotation\n    00-rotation-[0-9a-f]{12}: shared, see above;", said)
    assert "8 pieces of work, 0 of which exist" in said
    assert "to train: 2 stages, 9 steps, 72 images; about 9 s" in said and "to measure: 6" in said
    assert not (tmp_path / "run").exists() and not_trained == []


@pytest.mark.slow
def test_the_plan_says_what_exists_and_how_long_the_rest_takes(copied, capsys, quick_forecasts):
    longer = config()
    longer.stages = (longer.stages[0], stage("npid", 5, distill={"kind": "mse", "weight": 2.0}))
    curriculum.run(longer, copied, plan_only=True)
    said = capsys.readouterr().out
    assert re.search(r"00-rotation-[0-9a-f]{12}: exists", said)
    assert re.search(r"about \d+ s \(measured speed\)", said)


class TestBudget:
    @pytest.mark.slow
    def test_single_task_lasts_as_long_as_its_stage(self, tmp_path, not_trained):
        curriculum.run(config((stage("rotation", 4), stage("npid", 5)), targets=()), tmp_path)
        assert not_trained == [("curriculum 0: rotation", 4), ("curriculum 1: npid", 5), ("single:npid", 5)]

    def test_single_task_may_show_as_many_images_as_the_whole_curriculum(self, tmp_path, not_trained):
        stages = (stage("rotation", 4), stage("npid", 5, batch_size=16))
        curriculum.run(config(stages, targets=(), single_budget="total"), tmp_path)
        asked = dict(not_trained)
        assert asked["single:rotation"] * 8 == asked["single:npid"] * 16 == 4 * 8 + 5 * 16


@pytest.mark.slow
class TestChanges:
    """A changed config is never refused: what it changes has other keys, and the old artifacts stay."""

    def test_one_field_changes_what_follows_from_it_and_going_back_trains_nothing(self, copied, trained, finished):
        changed = config()
        changed.stages[1].optimizer.learning_rate = 2e-3
        before = outcome(copied)
        curriculum.run(changed, copied)
        assert trained == ["curriculum 1: npid", "single:npid"]
        assert before.items() < outcome(copied).items()
        assert (copied / "plan.json").read_bytes() != (finished / "plan.json").read_bytes()
        del trained[:]
        curriculum.run(config(), copied)
        assert trained == []
        for name in ("results.csv", "config.json", "plan.json"):
            assert (copied / name).read_bytes() == (finished / name).read_bytes()

    def test_results_and_report_show_what_the_present_config_asks_for(self, copied, trained):
        curriculum.run(config(baselines=("scratch",)), copied)
        assert trained == []
        assert {row.arm for row in results.read_rows(copied)} == {"curriculum", "scratch"}
        page = (copied / "report.html").read_text()
        assert "single:npid" not in page and "not complete" not in page

    def test_the_card_tells_what_the_records_tell(self, finished):
        card = (finished / "MODEL_CARD.md").read_text()
        first, second = stage_records(finished)
        assert f"The hash of its weights is `{second['backbone_hash']}`." in card
        assert first["made_with"]["versions"]["jax"] == jax.__version__
        device = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        assert f"- Hardware: {device}." in card and f"jax {jax.__version__}" in card
        shown = sum(record["steps"] for record in (first, second)) * config().stages[0].batch_size
        assert f"- Pretraining: {shown:,} images shown" in card
        assert "| 0 | rotation |" in card and "| 1 | npid |" in card and "\n## curriculum\n" in card
        assert str(finished) not in card

    def test_more_to_measure_trains_nothing(self, copied, trained):
        more = config()
        more.targets = (*more.targets, base.target("linear", size=tiny.SIZE, strengths=(1.0,)))
        curriculum.run(more, copied)
        assert trained == [] and {row.target for row in results.read_rows(copied)} == {"knn", "linear"}

    def test_changed_statistics_are_applied_to_stored_predictions(self, copied, trained, monkeypatch):
        monkeypatch.setattr(protocols, "measure", None)
        changed = config()
        changed.statistics.update({"samples": 30, "seed": 5})
        before = outcome(copied)
        curriculum.run(changed, copied)
        assert outcome(copied) == before
        contents = read_contents(copied)
        assert contents.statistics == {"samples": 30, "seed": 5}
        for run in contents.runs:
            predictions = results.load_predictions(run.directory)
            again = metrics.summarise(
                predictions.labels,
                predictions.probs,
                groups=predictions.groups,
                class_names=predictions.class_names,
                samples=30,
                seed=5,
            )
            found = [
                row for row in contents.rows if (row.arm, row.fraction, row.seed) == (run.arm, run.fraction, run.seed)
            ]
            assert [row.metric for row in found] == [row["metric"] for row in again]
            np.testing.assert_array_equal([row.low for row in found], [row["low"] for row in again])

    def test_runs_share_a_store_outside_their_workdirs(self, tmp_path, trained):
        made = config((stage("rotation", 2),), baselines=())
        made.runtime.store = str(tmp_path / "store")
        curriculum.run(made, tmp_path / "one")
        assert trained == ["curriculum 0: rotation"]
        curriculum.run(made, tmp_path / "two")
        assert trained == ["curriculum 0: rotation"]
        assert (tmp_path / "one/results.csv").read_bytes() == (tmp_path / "two/results.csv").read_bytes()
        assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
            "MODEL_CARD.md",
            "config.json",
            "plan.json",
            "report.html",
            "results.csv",
            "run.json",
        ]
        loaded, _ = aiseeme_jax.load_backbone(tmp_path / "two")
        assert weights.backbone_hash(loaded) == stage_records(tmp_path / "one")[0]["backbone_hash"]


@pytest.mark.slow
class TestDamage:
    """Nothing is gone on with that belongs to other bits than those that are there."""

    def test_a_stage_trained_again_to_other_bits_is_noticed_with_all_that_follows_from_it(self, copied, trained):
        first, second = stage_folders(copied)
        other = narrow_copy(first)
        records.write_json(first / "record.json", {**artifacts.read_record(first), "backbone_hash": other})
        with pytest.raises(UserError, match=f"{second} was made from other inputs than those that exist now") as caught:
            curriculum.run(config(), copied)
        stale = re.search("store remove (.*)` removes what is out of date", str(caught.value))[1].split()
        # The second stage, its measurements, and those of the arm that ends with the first one.
        measured = [*measurement_folders(copied).values(), *measurement_folders(copied, "single:rotation").values()]
        assert set(stale) == {str(folder) for folder in (second, *measured)}
        assert f"and so were {len(stale) - 1} that need it" in str(caught.value)
        store_command.main(["remove", "--yes", *stale])
        curriculum.run(config(), copied)
        assert trained == ["curriculum 1: npid"] and stage_records(copied)[1]["start_hash"] == other

    def test_a_stage_trained_again_to_the_same_bits_fits_the_rest(self, copied, finished, trained):
        artifacts.remove(stage_folders(copied)[0])
        curriculum.run(config(), copied)
        assert trained == ["curriculum 0: rotation"] and outcome(copied) == outcome(finished)

    @pytest.mark.parametrize("how", ["another", "cut", "gone"])
    @pytest.mark.parametrize("position", [0, 1])
    def test_a_finished_run_without_one_of_its_backbones_is_not_complete(self, copied, how, position):
        folder = stage_folders(copied)[position]
        file = folder / weights.BACKBONE
        if how == "another":
            narrow_copy(folder)
        elif how == "cut":
            file.write_bytes(file.read_bytes()[:100])
        else:
            file.unlink()
        said = {
            "another": "is damaged, or not the one that its record tells of",
            "cut": "is not a whole safetensors file",
            "gone": "has lost its backbone",
        }[how]
        with pytest.raises(UserError, match=f"{folder}.*{said}.*store remove {folder}` removes it"):
            curriculum.run(config(), copied)

    def test_a_flipped_bit_is_noticed_by_what_starts_from_it(self, copied):
        first, second = stage_folders(copied)
        damaged = bytearray((first / weights.BACKBONE).read_bytes())
        damaged[-10] ^= 1
        (first / weights.BACKBONE).write_bytes(damaged)
        artifacts.remove(second)
        with pytest.raises(UserError, match=f"backbone.safetensors is damaged: .* store remove {first}` removes it"):
            curriculum.run(config(), copied)

    @pytest.mark.parametrize("name", ["predictions.npz", "validation.npz"])
    @pytest.mark.parametrize("how", ["gone", "another"])
    def test_predictions_that_are_not_those_of_the_record_are_noticed(self, copied, how, name):
        one = next(iter(measurement_folders(copied).values()))
        if how == "gone":
            (one / name).unlink()
        else:
            predictions = results.load_predictions(one, name)
            results.save_predictions(one, dataclasses.replace(predictions, probs=predictions.probs[::-1]), name)
        said = f"has lost its {name}" if how == "gone" else "is damaged, or not the one of its record"
        with pytest.raises(UserError, match=f"{one}.*{said}; .*store remove {one}`"):
            curriculum.run(config(), copied)

    def test_a_damaged_table_or_page_is_written_anew(self, copied, finished):
        (copied / "results.csv").write_text("arm,tar")
        (copied / "report.html").unlink()
        (copied / "config.json").write_text("{")
        (copied / "plan.json").write_text("[]")
        curriculum.run(config(), copied)
        for name in ("results.csv", "config.json", "plan.json"):
            assert (copied / name).read_bytes() == (finished / name).read_bytes()
        assert (copied / "report.html").exists()


def narrow_copy(folder):
    """Puts another backbone into the folder of a stage, whole; gives its hash."""
    backbone, info = weights.load_backbone(folder / weights.BACKBONE)
    nnx.update(backbone, jax.tree.map(lambda x: x + 1, nnx.state(backbone)))
    return weights.save_backbone(folder, backbone, info)


# In the order of a run, so that each comes after what the run before it had done. Stages and calls are counted from the
# start of the run that is killed.
MOMENTS = {
    "in the first stage": ("in_step", 0, 3),
    "before its backbone is written": ("before", weights, "save_backbone"),
    "before it is called finished": ("before", artifacts.Store, "finish"),
    "at the start of the second stage": ("in_step", 0, 0),
    "in the second stage": ("in_step", 0, 3),
    "by a second Ctrl-C": ("in_step", 0, 4, "interrupt"),
    "while it is measured": ("before", results, "save_predictions", 1),
    "in a baseline": ("in_step", 0, 2),
    "before the results are written": ("before", results, "write_rows", 4),
}


@pytest.mark.slow
class TestKill:
    def interrupt(self):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    def kill(self):
        raise Killed

    def in_step(self, monkeypatch, which, last, end="kill"):
        """At the batch after step `last` of the stage number `which`."""
        real, started = data.Batches.__call__, []

        def call(batches, start=0):
            started.append(start)
            for step, batch in enumerate(real(batches, start), start=start + 1):
                if len(started) - 1 == which and step == last + 1:
                    getattr(self, end)()
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

    def test_changes_no_result(self, finished, tmp_path, monkeypatch):
        """One run, killed at all moments in their order; each kill shows that it got to that moment."""
        for moment, (kind, *where) in MOMENTS.items():
            with monkeypatch.context() as patch:
                getattr(self, kind)(patch, *where)
                with pytest.raises((Killed, KeyboardInterrupt)):
                    curriculum.run(config(), tmp_path / "run")
            left = outcome(tmp_path / "run")
            assert left.items() <= outcome(finished).items(), moment
            assert left != outcome(finished) or moment == "before the results are written"
        curriculum.run(config(), tmp_path / "run")
        assert outcome(tmp_path / "run") == outcome(finished)
        assert read_results(tmp_path / "run") == read_results(finished)


@pytest.mark.slow
class TestDisk:
    def test_a_run_that_fills_its_disk_again_and_again_ends_in_the_same_bits(self, finished, small_disk):  # noqa: F811
        workdir, told = small_disk.path / "run", []
        for kilobytes in (64, 128, 256, 512, 1024, 2048, 4096):
            small_disk.change(f"size={kilobytes}k")
            try:
                curriculum.run(config(), workdir)
                break
            except DiskError as error:
                told.append(str(error))
                assert "the disk is full" in told[-1] and f"at {small_disk.path}, " in told[-1]
        assert len(set(told)) > 1 and outcome(workdir) == outcome(finished), told
        assert read_results(workdir) == read_results(finished)
        assert not list(workdir.rglob("*.part"))

    def test_a_disk_that_refuses_what_is_logged_is_named(self, finished, tmp_path, monkeypatch):
        """The system does not tell the file of a write that fails."""
        with monkeypatch.context() as patch:
            real, lines = Journal.write, []

            def write(journal, record):
                lines.append(record)
                if len(lines) == 3:
                    raise OSError(errno.EDQUOT, "refused")
                real(journal, record)

            patch.setattr(Journal, "write", write)
            with pytest.raises(DiskError, match=rf"{tmp_path}/run/stages/00-rotation-\w+ cannot be written: a quota"):
                curriculum.run(config(), tmp_path / "run")
        curriculum.run(config(), tmp_path / "run")
        assert outcome(tmp_path / "run") == outcome(finished)


@pytest.mark.slow
def test_a_mixture_of_data_sets_is_resumed_exactly(tmp_path, monkeypatch):
    """Pretraining on two sets at once, and measuring on two others."""

    def open_split(name, split, data_dir):
        number = ord(name[0])
        return tiny.split(24, seed=3 * number + {"train": 0, "validation": 1, "test": 2}[split])

    monkeypatch.setattr(data, "open_split", open_split)
    made = config((stage("npid", 6, data={"a/1": 0.7, "b/1": 0.3}),), baselines=())
    made.targets = tuple(base.target("knn", size=tiny.SIZE, neighbours=(3,), data=f"{name}/1") for name in "cd")
    curriculum.run(made, tmp_path / "whole")
    with monkeypatch.context() as patch:
        TestKill().in_step(patch, 0, 3)
        with pytest.raises(Killed):
            curriculum.run(made, tmp_path / "killed")
    curriculum.run(made, tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert stage_records(tmp_path / "whole")[0]["images_shown"] == {"a/1": 34, "b/1": 14}
    assert {row.target for row in results.read_rows(tmp_path / "whole")} == {"knn:c/1", "knn:d/1"}


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
    made = tuple(stage(task, 3, distill={"kind": "kl"}) for task in tasks)
    curriculum.run(config(made, targets=targets, baselines=("scratch",)), tmp_path)
    found = {(row.arm, row.target) for row in results.read_rows(tmp_path)}
    assert found == {(arm, t) for arm in ("curriculum", "scratch") for t in ("knn", "linear", "finetune")}
    trained = stage_records(tmp_path)
    assert [record["start_hash"] for record in trained[1:]] == [record["backbone_hash"] for record in trained[:-1]]
    folder = measurement_folders(tmp_path, "scratch")["finetune", 1.0, 0]
    tuned = artifacts.read_record(folder)
    assert tuned["steps"] == 2 and 0 < tuned["validation_score"] <= 1 and tuned["data"]["images"] == 24
    classifier = aiseeme_jax.load_classifier(folder / "classifier.safetensors")
    test = tiny.split(24, seed=2)
    predictions = results.load_predictions(folder)
    np.testing.assert_allclose(classifier.predict(test.images(), calibrated=False), predictions.probs, atol=1e-5)
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_masks_are_measured_on_the_images_that_have_some(tmp_path, monkeypatch):
    """Half of the images have a mask, and none has a label."""

    def open_split(name, split, data_dir):
        opened = tiny.split(24, seed={"train": 0, "validation": 1, "test": 2}[split])
        known = (np.arange(24) // 2 % 2 == 0)[:, None, None, None]
        masks = np.where(known, opened.images()[..., :1] > 100, data.UNKNOWN).astype(np.uint8)
        labels = np.full(24, -1, np.int32)
        return dataclasses.replace(opened, labels=labels, class_names=(), segmentation=masks)

    monkeypatch.setattr(data, "open_split", open_split)
    segmenting = base.target("segment", size=tiny.SIZE, batch_size=8, duration=base.duration(steps=4))
    made = config((stage("rotation", 2),), targets=(segmenting,), baselines=())
    curriculum.run(made, tmp_path)
    folder = measurement_folders(tmp_path)["segment", 1.0, 0]
    record, found = artifacts.read_record(folder), results.load_predictions(folder)
    assert isinstance(found, results.Overlaps) and len(found.ids) == 12 and record["images"] == 12
    assert record["predictions_sha256"] == results.hash_predictions(folder) and record["steps"] == 4
    rows = {row.metric: row.value for row in results.read_rows(tmp_path)}
    assert rows["dice"] == pytest.approx(evaluate_masks.dice(found).mean(), rel=1e-5)
    assert {"jaccard", "threshold_jaccard", "hausdorff95_undefined"} < rows.keys()
    assert "with masks" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_class_order_from_a_baseline_is_made_from_its_classifier(tmp_path, trained):
    made = config((stage("rotation", 1),), baselines=())
    static = {"name": "ccl", "order": "static", "start": 0.67}
    fields = {"size": tiny.SIZE, "views": tiny.PLAIN, "batch_size": 8, "duration": base.duration(steps=3)}
    made.targets = (base.target("finetune", imbalance=static, **fields),)
    curriculum.run(made, tmp_path / "run")
    (folder,) = (tmp_path / "run" / "measurements").glob("finetune+none-*")
    (measured,) = measurement_folders(tmp_path / "run").values()
    inputs = artifacts.read_record(measured)["made_from"]
    assert inputs["baseline"]["hash"] == artifacts.read_record(folder)["classifier_hash"]
    targets = {row.target for row in results.read_rows(tmp_path / "run")}
    assert targets == {"finetune+ccl(order=static,start=0.67)"}, "nobody asked for the baseline itself"
    assert len(trained) == 3
    curriculum.run(made, tmp_path / "run")
    assert len(trained) == 3
    # Another classifier than that of the record is noticed, not used.
    weights.save_classifier(folder / weights.CLASSIFIER, weights.load_classifier(measured))
    shutil.rmtree(measured)
    with pytest.raises(UserError, match="classifier.safetensors is damaged, or not the one that its record tells of"):
        curriculum.run(made, tmp_path / "run")


def test_a_stage_releases_its_compiled_programs(tmp_path, monkeypatch):
    def fit(task, batches, recipe, folder, *, frozen, **_):
        program, _ = make_state(task, recipe, frozen)
        train_step.of(program)
        held.append(len(train_step.programs))
        return loop.Result(task, {})

    held, before = [], len(train_step.programs)
    monkeypatch.setattr(loop, "fit", fit)
    curriculum.run(config(baselines=(), targets=()), tmp_path)
    assert held == [before + 1] * 2 and len(train_step.programs) == before


def test_listed_images_are_kept_out_of_pretraining_and_counted(tmp_path, not_trained):
    (tmp_path / "ids.txt").write_text("3\n0-5\n")
    made = config((stage("rotation", 2),), baselines=(), targets=())
    made.data.exclude = (str(tmp_path / "ids.txt"),)
    split = DataSets(made).pretraining((("isic2019/224", 1.0),))
    assert [int(i) for i in split.ids] == [i for i in range(24) if i not in (3, 10, 11)]
    curriculum.run(made, tmp_path / "run")
    (record,) = stage_records(tmp_path / "run")
    assert (record["images"], record["excluded"]) == (21, 3)
    assert "3 images kept out of pretraining" in (tmp_path / "run" / "report.html").read_text()


def test_groups_that_pretraining_shares_with_a_target_of_another_set_are_warned_of(
    tmp_path, caplog, monkeypatch, quick_forecasts
):
    def open_split(name, split, data_dir):
        made = tiny.split(24, seed={"train": 0, "validation": 1, "test": 0 if name == "b/1" else 2}[split])
        return dataclasses.replace(made, name=f"{name}:{split}")

    monkeypatch.setattr(data, "open_split", open_split)
    made = config((stage("rotation", 2, data="a/1"),), baselines=())
    made.targets = (base.target("knn", size=tiny.SIZE, neighbours=(3,), data="b/1"),)
    curriculum.run(made, tmp_path, plan_only=True)
    assert "a/1:train and b/1:test have 12 groups and 0 images in common, such as 0-0." in caplog.text
    assert "tfds_builders check a/1 b/1 --exclude ids.txt" in caplog.text


class TestFineTuning:
    """What measuring owes to the arm."""

    @pytest.fixture
    def starts(self, monkeypatch):
        """Hashes of the backbones that fine-tuning began with; no step is made."""
        found = []

        def fit(task, *_, **__):
            found.append(weights.backbone_hash(task.backbone))
            raise Killed

        monkeypatch.setattr(loop, "fit", fit)
        return found

    def measure_all(self, made, tmp_path):
        context = curriculum.Context.of(made, artifacts.Store(tmp_path), DataSets(made))
        measurer = curriculum.Measurer(context)
        for piece in curriculum.make_plan(made, context.datasets).pieces():
            with pytest.raises(Killed):
                measurer.measure(piece, tmp_path)

    def tuned(self, **changes):
        made = config(job="evaluate", **changes)
        made.stages = ()
        made.targets = (base.target("finetune", size=tiny.SIZE, batch_size=8, seeds=(0, 1)),)
        return made

    def test_random_weights_have_a_start_for_each_seed(self, starts, tmp_path):
        self.measure_all(self.tuned(), tmp_path)
        assert len(starts) == len(set(starts)) == 2

    def test_trained_weights_have_one_start_for_all_seeds(self, starts, tmp_path):
        weights.export_backbone(tiny.backbone(), tmp_path / "weights.safetensors")
        self.measure_all(self.tuned(init=str(tmp_path / "weights.safetensors")), tmp_path)
        assert starts == [weights.backbone_hash(tiny.backbone())] * 2


def test_a_run_does_not_start_from_its_own_workdir(tmp_path):
    for field in ("init", "imagenet"):
        with pytest.raises(
            UserError, match=f"{field} is the workdir of this run itself: name the folder of one of its"
        ):
            curriculum.run(config(**{field: str(tmp_path)}), tmp_path / "." / "")
    assert not list(tmp_path.iterdir())


def test_the_tables_have_what_another_run_finished_last(tmp_path, not_trained, monkeypatch):
    made = config((stage("rotation", 2),), baselines=())
    real = working._choose_next

    def choose(left, pieces, store, stack):
        """The first measurement is passed over as long as there is another, as if another run were making it."""
        others = [piece for piece in left if piece is not pieces[1]] or left
        place, action, holder = real(others, pieces, store, stack)
        return left.index(others[place]), action, holder

    monkeypatch.setattr(working, "_choose_next", choose)
    curriculum.run(made, tmp_path)
    found = {(row.fraction, row.seed) for row in results.read_rows(tmp_path)}
    assert found == {(0.5, 0), (0.5, 1), (1.0, 0)}


def test_fisher_information_that_a_stage_needs_is_in_the_printed_plan(tmp_path, capsys, quick_forecasts):
    made = config((stage("rotation", 2), stage("rotation", 2, distill={"kind": "ewc"})), baselines=(), targets=())
    curriculum.run(made, tmp_path, plan_only=True)
    said = capsys.readouterr().out
    assert "3 pieces of work, 0 of which exist" in said and "to estimate: Fisher information of 1 stages" in said
    assert len(re.findall(r"00-rotation-[0-9a-f]{12}: not begun", said)) == 2


def test_images_that_are_all_excluded(tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(24))))
    made = config(targets=())
    made.data.exclude = (str(tmp_path / "ids.txt"),)
    with pytest.raises(UserError, match="data.exclude lists every image of tiny:train: none is left to be trained on"):
        curriculum.run(made, tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a/1": -1.0}, "the share of 'a/1' is -1.0; it must be positive"),
        ({"a/1": 0.5, "b/1": 0.0}, "the share of 'b/1' is 0.0; it must be positive"),
    ],
)
def test_shares_that_cannot_be(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        curriculum.run(config((stage("rotation", 2, data=given),), targets=()), tmp_path / "run")


def test_workdirs_may_be_moved(tmp_path, not_trained):
    made = config((stage("rotation", 2),), baselines=(), targets=())
    curriculum.run(made, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    curriculum.run(made, tmp_path / "there")
    assert len(not_trained) == 1 and workdirs.find_stage_folder(tmp_path / "there").parent.parent == tmp_path / "there"
