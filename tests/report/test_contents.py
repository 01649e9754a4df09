"""The report reads what the plan of a workdir asks for, whole or half, and names what is missing or damaged."""

import numpy as np
import pytest
from report_runs import (
    ARMS,
    CONFIG,
    FINDINGS,
    TARGETS,
    TWO_ARMS,
    begin_run,
    make_predictions,
    make_stages,
    make_target,
    measurement_artifact,
    stage_artifact,
    write_measurement,
    write_stage,
    write_targets,
    write_two_arms,
    write_two_kinds,
)

from aiseeme_jax import report
from aiseeme_jax.curriculum.costs import Cost
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.report import tables
from aiseeme_jax.report.contents import Run, read_contents, sum_measuring
from aiseeme_jax.report.estimates import Estimates
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.artifacts import MEASUREMENTS, Store


def test_rows_are_computed_from_the_predictions_and_written_to_results_csv(workdir):
    contents = read_contents(workdir)
    assert {(row.arm, row.target, row.fraction, row.seed) for row in contents.rows} == {
        (arm, target, fraction, seed)
        for arm in ARMS
        for target, (fractions, seeds) in TARGETS.items()
        for fraction in fractions
        for seed in seeds
    }
    place = ("scratch", "finetune", 0.1, 1)
    predictions = make_predictions(*place)
    row = next(row for row in contents.rows if (row.arm, row.target, row.fraction, row.seed) == place)
    assert row.metric == "balanced_accuracy"
    assert row.value == metrics.balanced_accuracy(predictions.labels, predictions.probs)
    path = report.write_results(workdir)
    assert path == workdir / "results.csv" and len(results.read_rows(workdir)) == len(contents.rows)


def test_arms_and_targets_have_the_order_of_the_plan_with_the_curriculum_first(tmp_path):
    config = {**TWO_ARMS, "targets": [make_target("linear"), make_target("knn")]}
    begin_run(tmp_path, config)
    plan = workdirs.read_plan(tmp_path)
    workdirs.write_plan(tmp_path, workdirs.WorkdirPlan(plan.store, plan.arms[::-1]))
    for arm in ARMS[:2]:
        for target in ("knn", "linear"):
            write_measurement(tmp_path, (arm, target, 1.0, 0), make_predictions(arm, target, 1.0, 0))
    contents = read_contents(tmp_path)
    assert contents.arms == ["curriculum", "scratch"] and contents.targets == ["linear", "knn"]
    assert [(run.arm, run.target) for run in contents.runs] == [
        ("curriculum", "linear"),
        ("curriculum", "knn"),
        ("scratch", "linear"),
        ("scratch", "knn"),
    ]


@pytest.mark.parametrize("fraction", [0.1, 1 / 3, 1 / 3 + 1e-9, 0.00001])
def test_a_run_is_found_with_the_fraction_that_it_was_made_with(tmp_path, fraction):
    write_two_arms(tmp_path, fraction=fraction)
    contents = read_contents(tmp_path)
    assert not contents.missing and contents.fractions_of("linear") == [fraction]
    estimates = Estimates(contents)
    assert tables.tabulate_differences(estimates) and tables.tabulate_confusions(estimates)


def test_what_the_present_config_does_not_ask_for_is_not_shown(tmp_path):
    begin_run(tmp_path)
    write_stage(tmp_path, "single:simclr", 0, "simclr")
    write_targets(tmp_path, targets=["knn", "linear"])
    begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("knn")]})
    contents = read_contents(tmp_path)
    assert contents.arms == list(ARMS[:2]) and not contents.stages and not contents.missing
    assert {(row.arm, row.target) for row in contents.rows} == {(arm, "knn") for arm in ARMS[:2]}
    assert len(list((tmp_path / "measurements").iterdir())) == 5 * (1 + 4)


def test_artifacts_are_found_by_key_in_the_store_that_the_plan_names(tmp_path):
    begin_run(tmp_path / "run", {**TWO_ARMS, "targets": [make_target("knn")]})
    plan = workdirs.read_plan(tmp_path / "run")
    workdirs.write_plan(tmp_path / "run", workdirs.WorkdirPlan(str(tmp_path / "store"), plan.arms))
    place = ("scratch", "knn", 1.0, 0)
    made = write_measurement(tmp_path / "store", place, make_predictions(*place))
    renamed = made.rename(made.with_name(made.name.replace("knn", "another-label")))
    (run,) = read_contents(tmp_path / "run").runs
    assert run.directory == renamed and run.record == artifacts.read_record(renamed)


def test_a_stage_of_several_arms_is_listed_once(workdir):
    contents = read_contents(workdir)
    assert stage_artifact("curriculum", 0, "rotation").key == stage_artifact("single:rotation", 0, "rotation").key
    assert [stage.title for stage in contents.stages] == [
        "rotation",
        "moco_v2",
        "simclr",
        "single:moco_v2",
        "single:simclr",
    ]


def test_stages_of_other_curricula_are_told_apart(tmp_path):
    config = {**CONFIG, "stages": make_stages("rotation"), "curricula": {"a-b": make_stages("a", "b")}}
    begin_run(tmp_path, config)
    for arm, position, task in (("curriculum", 0, "rotation"), ("a-b", 0, "a"), ("a-b", 1, "b")):
        write_stage(tmp_path, arm, position, task, done=task != "b")
    contents = read_contents(tmp_path)
    assert [stage.title for stage in contents.stages] == ["rotation", "a-b: a", "a-b: b"]
    assert "Stage a-b: b is not finished (at step 490)." in contents.missing
    assert 'alt="Sample views of a-b: b"' in report.write_report(tmp_path).read_text()


def test_a_target_names_its_data_set(tmp_path):
    write_two_kinds(tmp_path)
    contents = read_contents(tmp_path)
    assert contents.targets == ["linear", FINDINGS]
    assert contents.data_of("linear") == "derm_phantom/demo" and contents.data_of(FINDINGS) == "cxr/64"
    assert contents.fields_of(FINDINGS)["neighbours"] == [5, 20, 200]
    contents.fields_of("linear")["test_data"] = "other/64"
    assert contents.data_of("linear:derm_phantom/demo>other/64") == "other/64"


class TestMissing:
    def test_stages_and_results_that_are_not_there_yet(self, tmp_path):
        begin_run(tmp_path)
        write_stage(tmp_path, "curriculum", 0, "rotation")
        write_stage(tmp_path, "curriculum", 1, "moco_v2", done=False)
        write_targets(tmp_path, arms=["curriculum", "scratch"], targets=["knn"])
        missing = read_contents(tmp_path).missing
        assert missing[:2] == [
            "Stage moco_v2 is not finished (at step 490).",
            "Stage simclr is not finished (not begun).",
        ]
        assert "No results of kNN on all labels for single:rotation, single:moco_v2, single:simclr." in missing
        assert "No results of Fine-tuning on 10 % of the labels for any arm." in missing
        assert not any(sentence.startswith("Stage rotation") for sentence in missing)

    def test_a_measurement_that_was_begun(self, tmp_path):
        write_two_arms(tmp_path)
        Store(tmp_path).directory(measurement_artifact("scratch", "linear", 1.0, 0)).joinpath("record.json").unlink()
        contents = read_contents(tmp_path)
        assert [run.arm for run in contents.runs] == ["curriculum"]
        assert contents.missing == ["No results of Linear probe on all labels for scratch."]

    def test_single_seeds(self, tmp_path):
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("finetune", (0.1, 1.0), (0, 1))]})
        lost = [("curriculum", 0.1, 1), ("scratch", 1.0, 0), ("scratch", 1.0, 1)]
        for place in [(arm, "finetune", f, seed) for arm in ARMS[:2] for f in (0.1, 1.0) for seed in (0, 1)]:
            if (place[0], *place[2:]) not in lost:
                write_measurement(tmp_path, place, make_predictions(*place))
        assert read_contents(tmp_path).missing == [
            "No results of Fine-tuning on 10 % of the labels with seed 1 for curriculum.",
            "No results of Fine-tuning on all labels for scratch.",
        ]


class TestNoRun:
    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(MissingFile, match="no workdir at .*nowhere"):
            report.write_report(tmp_path / "nowhere")

    @pytest.mark.parametrize("lost", ["plan.json", "config.json"])
    def test_a_folder_without_plan_or_config(self, tmp_path, lost):
        begin_run(tmp_path)
        (tmp_path / lost).unlink()
        with pytest.raises(MissingFile, match="no run was begun in .*: it lacks plan.json or config.json"):
            report.write_report(tmp_path)
        assert not (tmp_path / "report.html").exists()

    def test_a_folder_of_version_0_1(self, tmp_path):
        (tmp_path / "targets").mkdir()
        with pytest.raises(UserError, match="was made by version 0.1 .*Use another --workdir"):
            report.write_report(tmp_path)


def damage_plan(workdir):
    (workdir / "plan.json").write_text("{")
    return r"plan\.json is damaged.*the next run in this workdir writes it anew"


def damage_config(workdir):
    path = workdir / "config.json"
    path.write_text(path.read_text().replace("resnet18", "resnet50"))
    return r"config\.json is damaged .*edited"


def damage_metrics(workdir):
    path = next(workdir.glob("stages/00-*/metrics.jsonl"))
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:7]
    path.write_text("\n".join(lines))
    return r"stages/00-rotation-\w+/metrics\.jsonl, line 3 is damaged"


def damage_metrics_without_a_step(workdir):
    path = next(workdir.glob("stages/00-*/metrics.jsonl"))
    path.write_text('{"step": "ten", "loss": 1}\n' + path.read_text())
    return r"metrics\.jsonl, line 1 is damaged \(a line has a whole number as its step\): delete that line"


def damage_stage_record(workdir):
    path = next(workdir.glob("stages/00-*/record.json"))
    path.write_text("{")
    return r"00-rotation-\w+/record\.json is damaged.*store remove"


def damage_predictions(workdir):
    path = next(workdir.glob("measurements/knn-*/predictions.npz"))
    path.write_bytes(b"no archive")
    return r"knn-\S+/predictions\.npz is damaged.*store remove"


def lose_predictions(workdir):
    path = next(workdir.glob("measurements/knn-*/predictions.npz"))
    path.unlink()
    return r"knn-\S+ has lost its predictions\.npz.*store remove"


@pytest.mark.parametrize(
    "damage",
    [
        damage_plan,
        damage_config,
        damage_metrics,
        damage_metrics_without_a_step,
        damage_stage_record,
        damage_predictions,
        lose_predictions,
    ],
)
def test_damage_is_named_and_the_old_page_stays(tmp_path, damage):
    begin_run(tmp_path)
    write_stage(tmp_path, "curriculum", 0, "rotation")
    write_targets(tmp_path, arms=["curriculum"], targets=["knn"])
    before = report.write_report(tmp_path).read_text()
    message = damage(tmp_path)
    with pytest.raises(UserError, match=message):
        report.write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == before


def test_predictions_that_cannot_be_read_are_named(tmp_path):
    """A file of the hash in the record that is no archive: the record was written for it."""
    write_two_arms(tmp_path)
    store, artifact = Store(tmp_path), measurement_artifact("scratch", "linear", 1.0, 0)
    directory = store.directory(artifact)
    np.savez(directory / "predictions.npz", probs=np.zeros(3))
    store.finish(artifact, {"made_from": {}, "predictions_sha256": results.hash_predictions(directory)})
    assert directory.parent.name == MEASUREMENTS
    with pytest.raises(UserError, match=f"{directory}/predictions.npz is damaged"):
        report.write_report(tmp_path)


def test_what_had_to_be_measured_first_is_in_the_cost_and_counts_once(tmp_path):
    """Two measurements need the same coarse network; one of them is on two devices."""
    coarse = {"coarse": {"seconds": 100.0, "joules": 5.0}}
    one = Run("scratch", "guided", 1.0, 0, tmp_path, {"seconds": 10.0, "devices": 2, "joules": 1.0}, "one", coarse)
    other = Run("scratch", "enhanced", 1.0, 0, tmp_path, {"seconds": 3.0, "joules": 2.0}, "other", coarse)
    assert one.cost == Cost(0, 120.0, 6.0) and other.cost == Cost(0, 103.0, 7.0)
    assert sum_measuring([one, other]) == Cost(0, 123.0, 8.0)
    lost = Run("scratch", "guided", 1.0, 0, tmp_path, {"seconds": 10.0}, "one", {"coarse": {}})
    assert np.isnan(lost.cost.device_seconds)
