"""Which changes of a config an existing workdir takes, and what becomes of what it holds."""

import json
import logging
import shutil

import pytest
from ml_collections import ConfigDict

from aiseeme_jax.curriculum import plan
from aiseeme_jax.evaluate import recording
from aiseeme_jax.jobs import changes
from aiseeme_jax.jobs import workdir as workdir_
from aiseeme_jax.store import checkpoints, records
from configs import base

TASKS = ("rotation", "moco_v2", "simclr")


def config(**fields):
    made = base.get_config()
    made.stages = tuple(stage(task) for task in TASKS)
    made.targets = (base.target("knn", fractions=(0.5, 1.0)), base.target("linear"))
    made.update(fields)
    return made


def stage(task, **fields):
    return base.stage(task, duration=base.duration(epochs=4), **fields)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """Of a run that was just begun. What configs are worth is not judged here."""
    monkeypatch.setattr(plan, "check", lambda config, split: None)
    start(config(), tmp_path)
    return tmp_path


def start(made, workdir):
    return changes.begin(made, workdir, lambda: None)


def train(workdir, made, *stages, arm="curriculum", done=True):
    """Leaves what the stages of an arm leave: a checkpoint, and, if they are done, a record."""
    folders = plan.stage_folders(workdir, plan.arms(made))[arm]
    for place in stages:
        (folders[place] / checkpoints.CHECKPOINTS / "2").mkdir(parents=True, exist_ok=True)
        if done:
            records.write_json(folders[place] / records.DONE, {"steps": 1})


def measure(workdir, made, protocol, *, arm="curriculum"):
    for run in recording.runs(made, workdir, arm):
        if run.target.protocol == protocol:
            records.write_json(run.directory / records.DONE, {"steps": 1})


def refusal(made, workdir) -> list[str]:
    """The lines of the message about fields; nothing may have been written."""
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as error:
        start(made, workdir)
    first, *lines, last = str(error.value).splitlines()
    assert first == f"{workdir} was begun with another config:"
    assert (
        last == "Use another --workdir, or the old values. Where a finished folder is deleted, its part is done anew."
    )
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    return [line.strip() for line in lines]


def written(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_every_field_is_named_with_both_values_and_the_reason(workdir):
    train(workdir, config(), 0, 1)
    changed = config(seed=7)
    changed.stages[0].duration.update({"epochs": None, "steps": 9})
    changed.stages[1].fields.temperature = 0.5
    assert refusal(changed, workdir) == [
        "seed: 0 -> 7, but stages/00-rotation is finished",
        "stages[0].duration.epochs: 4.0 -> None, but stages/00-rotation is finished",
        "stages[0].duration.steps: None -> 9, but stages/00-rotation is finished",
        "stages[1].fields.temperature: 0.2 -> 0.5, but stages/01-moco_v2 is finished",
    ]


def test_long_lists_are_cut(workdir):
    train(workdir, config(), 0)
    changed = config()
    changed.stages = changed.stages[1:]
    lines = refusal(changed, workdir)
    assert len(lines) == 9 and lines[-1].startswith("and ") and lines[-1].endswith(" more")


def test_a_stage_that_diverged_begins_anew_with_another_learning_rate(workdir, caplog):
    train(workdir, config(), 0)
    train(workdir, config(), 1, done=False)
    old = (workdir / "config.json").read_bytes()
    changed = config()
    changed.stages[1].optimizer.update({"learning_rate": 0.001, "clip_norm": 1.0})
    with caplog.at_level(logging.INFO, logger="aiseeme_jax"):
        assert start(changed, workdir) is False
    assert "stages[1].optimizer.clip_norm: 0.0 -> 1.0\n" in caplog.text
    assert "stages[1].optimizer.learning_rate: 0.03 -> 0.001\n" in caplog.text
    assert "stages/01-moco_v2 begins anew: its fields changed. Its checkpoints so far are put aside in" in caplog.text
    assert not (workdir / "stages/01-moco_v2").exists()
    assert (workdir / "before/1/stages/01-moco_v2/checkpoints/2").exists()
    assert (workdir / "before/1/config.json").read_bytes() == old
    assert (workdir / "stages/00-rotation/checkpoints/2").exists()
    assert written(workdir)["stages"][1]["optimizer"]["learning_rate"] == 0.001
    assert written(workdir)["fingerprint"] == workdir_.fingerprint(workdir_.resolve(changed))
    start(changed, workdir)
    assert [path.name for path in (workdir / "before").iterdir()] == ["1"]


def test_stages_to_come_may_change_and_the_one_at_work_goes_on(workdir):
    train(workdir, config(), 0, done=False)
    changed = config()
    changed.stages = (changed.stages[0], stage("npid"))
    start(changed, workdir)
    assert (workdir / "stages/00-rotation/checkpoints/2").exists()
    assert [made["task"] for made in written(workdir)["stages"]] == ["rotation", "npid"]


def test_a_stage_more_is_taken_until_the_curriculum_is_measured(workdir):
    train(workdir, config(), 0, 1, 2)
    longer = config()
    longer.stages = (*longer.stages, stage("npid"))
    start(longer, workdir)
    start(config(), workdir)
    measure(workdir, config(), "knn")
    lines = refusal(longer, workdir)
    assert all(line.endswith("but targets/curriculum/knn/fraction-0.5-seed-0 is finished") for line in lines[:-1])


def test_a_stage_that_was_taken_out_does_not_come_back_with_old_checkpoints(workdir):
    train(workdir, config(), 0, 1)
    train(workdir, config(), 2, done=False)
    shorter = config()
    shorter.stages = shorter.stages[:-1]
    start(shorter, workdir)
    assert not (workdir / "stages/02-simclr").exists()


def test_measured_targets_stay_and_others_may_change(workdir):
    measure(workdir, config(), "knn")
    other = config()
    other.targets[1].max_iter = 5
    start(other, workdir)
    other.targets[0].neighbours = (3,)
    reason = "but targets/curriculum/knn/fraction-0.5-seed-0 is finished"
    assert refusal(other, workdir) == [f"targets[0].neighbours: [5, 10, 20, 50, 100, 200, 500] -> [3], {reason}"]


def test_fractions_and_targets_may_come_and_measured_ones_may_not_go(workdir):
    measure(workdir, config(), "knn")
    more = config()
    more.targets = (*more.targets, base.target("finetune"))
    more.targets[0].fractions = (0.1, 0.5, 1.0)
    start(more, workdir)
    more.targets[0].fractions = (0.1, 1.0)
    reason = "but targets/curriculum/knn/fraction-0.5-seed-0 is finished"
    assert refusal(more, workdir) == [f"targets[0].fractions: [0.1, 0.5, 1.0] -> [0.1, 1.0], {reason}"]


def test_patience_statistics_and_what_the_report_says_may_always_change(workdir):
    train(workdir, config(), 0, 1, 2)
    measure(workdir, config(), "knn")
    changed = config(patience=3, title="new")
    changed.statistics.samples = 50
    changed.data.synthetic = True
    start(changed, workdir)
    assert written(workdir)["patience"] == 3 and written(workdir)["statistics"]["samples"] == 50


class TestArms:
    """Baselines, and curricula beside the curriculum."""

    def test_baselines_may_come_and_go_until_they_are_trained(self, workdir):
        train(workdir, config(), 0, 1, 2)
        start(config(baselines=("single:simclr",)), workdir)
        start(config(baselines=("scratch", "imagenet"), imagenet="weights.pth"), workdir)
        measure(workdir, config(), "knn", arm="scratch")
        start(config(baselines=("scratch", "single:simclr")), workdir)
        reason = "but targets/scratch/knn/fraction-0.5-seed-0 is finished"
        assert refusal(config(baselines=("single:simclr",)), workdir) == [
            f"baselines: ['scratch', 'single:simclr'] -> ['single:simclr'], {reason}"
        ]

    def test_one_that_is_the_curriculums_first_stage_may_go(self, workdir):
        train(workdir, config(), 0, 1, 2)
        start(config(baselines=()), workdir)
        assert (workdir / "stages/00-rotation/done.json").exists()

    def test_the_length_of_a_single_task_stays_once_it_is_trained(self, workdir):
        train(workdir, config(), 0, 1, 2)
        train(workdir, config(), 0, arm="single:moco_v2", done=False)
        longer = config(single_budget="total")
        start(longer, workdir)
        assert (workdir / "before/1/arms/single-moco_v2/stages/00-moco_v2").exists()
        train(workdir, longer, 0, arm="single:moco_v2")
        reason = "but arms/single-moco_v2/stages/00-moco_v2 is finished"
        assert refusal(config(), workdir) == [f"single_budget: total -> stage, {reason}"]

    def several(self, **curricula):
        made = config(baselines=())
        made.stages, made.curricula = (), ConfigDict(curricula)
        return made

    def test_another_curriculum_finds_the_stage_that_it_begins_with(self, tmp_path, workdir):
        alike, run = (stage("rotation"), stage("npid")), tmp_path / "several"
        start(self.several(plain=alike), run)
        train(run, self.several(plain=alike), 0, arm="plain")
        first = self.several(plain=alike, ahead=(stage("rotation"), stage("simclr")))
        start(first, run)
        folders = plan.stage_folders(run, plan.arms(first))
        assert folders["ahead"][0] == folders["plain"][0] == run / "arms/plain/stages/00-rotation"
        lines = refusal(self.several(ahead=(stage("rotation"), stage("simclr"))), run)
        assert lines[0].endswith("-> (absent), but arms/plain/stages/00-rotation is finished")

    def test_one_of_two_that_share_a_stage_may_part_until_it_has_gone_on(self, tmp_path, workdir):
        run, both = tmp_path / "several", self.several(a=(stage("rotation"),), b=(stage("rotation"), stage("npid")))
        start(both, run)
        train(run, both, 0, arm="a")
        both.curricula.b[0].batch_size = 8
        start(both, run)
        assert plan.stage_folders(run, plan.arms(both))["b"][0] == run / "arms/b/stages/00-rotation"
        assert (run / "arms/a/stages/00-rotation/done.json").exists()
        both.curricula.b[0].batch_size = 256
        start(both, run)
        train(run, both, 1, arm="b")
        both.curricula.b[0].batch_size = 8
        assert refusal(both, run) == ["curricula.b[0].batch_size: 256 -> 8, but arms/b/stages/01-npid is finished"]


def test_a_complete_run_takes_more_to_do(workdir, caplog):
    train(workdir, config(), 0, 1, 2)
    workdir_.finish(workdir)
    assert start(config(), workdir) is True
    assert start(config(baselines=("scratch", "single", "single:simclr")), workdir) is False
    assert not (workdir / "done.json").exists()


def test_the_job_stays_once_something_is_finished(workdir):
    train(workdir, config(), 0)
    assert refusal(config(job="evaluate"), workdir) == [
        "job: curriculum -> evaluate, but stages/00-rotation is finished"
    ]


def test_a_finished_part_may_change_once_its_folder_and_what_came_of_it_are_deleted(workdir):
    train(workdir, config(), 0, 1)
    changed = config()
    changed.stages[0].batch_size = 8
    shutil.rmtree(workdir / "stages/00-rotation")
    assert refusal(changed, workdir) == ["stages[0].batch_size: 256 -> 8, but stages/01-moco_v2 is finished"]
    shutil.rmtree(workdir / "stages/01-moco_v2")
    start(changed, workdir)


def test_a_workdir_of_a_version_with_fewer_fields_is_compared_as_well(workdir):
    train(workdir, config(), 0)
    old = written(workdir)
    del old["curricula"], old["model"]["patch"]
    records.write_json(workdir / "config.json", old)
    assert refusal(config(), workdir) == ["model.patch: (absent) -> 0, but stages/00-rotation is finished"]


def test_a_changed_config_is_judged_before_it_is_written(workdir, monkeypatch):
    def check(config, split):
        raise ValueError("stages[2] (simclr): no")

    monkeypatch.setattr(plan, "check", check)
    changed = config()
    changed.stages[2].batch_size = 1
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(ValueError, match="no$"):
        start(changed, workdir)
    assert (workdir / "config.json").read_bytes() == before and not (workdir / "before").exists()
    start(config(), workdir)


def test_runtime_is_judged_however_often_the_workdir_is_gone_on_with(workdir):
    for name, value, least in (("log_every", 0, 1), ("checkpoint_every", -1, 1), ("workers", -2, 0)):
        changed = config()
        changed.runtime[name] = value
        with pytest.raises(ValueError, match=f"runtime.{name} is {value}; it must be at least {least}"):
            start(changed, workdir)
    changed = config()
    changed.runtime.residence = "disk"
    with pytest.raises(ValueError, match="unknown runtime.residence 'disk': known are stream, device"):
        start(changed, workdir)


def test_where_and_how_may_change_and_the_run_goes_on(workdir):
    train(workdir, config(), 0, done=False)
    moved = config()
    moved.runtime.update({"data_dir": "elsewhere", "workers": 3, "residence": "stream", "checkpoint_every": 1})
    start(moved, workdir)
    assert written(workdir)["runtime"]["workers"] == 3 and (workdir / "stages/00-rotation").exists()
    assert not (workdir / "before").exists()


def test_files_of_excluded_images_count_by_their_content(workdir):
    first, copy, other = (workdir / name for name in ("a.txt", "b.txt", "c.txt"))
    for path, text in ((first, "ISIC_1\n"), (copy, "ISIC_1\n"), (other, "ISIC_2\n")):
        path.write_text(text)

    def excluding(*files):
        made = config()
        made.data.exclude = tuple(map(str, files))
        return made

    run = workdir / "run"
    start(excluding(first), run)
    assert written(run)["data"]["exclude"] == [str(first)]
    train(run, excluding(first), 0)
    start(excluding(copy), run)
    for changed in (excluding(other), excluding(), excluding(first, other)):
        assert refusal(changed, run)[0].startswith("data.exclude_sha256: [")
    with pytest.raises(FileNotFoundError, match="data.exclude: no file at 'absent.txt'"):
        start(excluding("absent.txt"), workdir / "new")
    assert not (workdir / "new").exists()
