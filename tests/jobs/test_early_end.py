"""Stages that end before their last step, and curricula with a budget."""

import pytest
import tiny
from short_runs import Killed, config, outcome, stage, stage_folders, stage_records

from aiseeme_jax import weights
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import proxies
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.training import loop
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")

# Of the backbone after each epoch, which is three steps. The best is the second.
SCORES = (0.5, 0.7, 0.6, 0.65, 0.9)


def judged(**changes):
    judge = base.proxy("knn", size=tiny.SIZE, neighbours=3, samples=5)
    stop = base.stopping(judge, patience=2, **changes)
    return config((stage("rotation", 18, stop=stop), stage("rotation", 3)), targets=(), baselines=())


@pytest.fixture
def scored(monkeypatch):
    """Backbones that were scored: the number of epochs -> hash. The scores are made up."""
    found, real = {}, weights.backbone_hash

    def score(fields, backbone, splits, batch):
        assert set(splits) == {"train", "validation"}
        known = {value: key for key, value in found.items()}
        number = known.get(real(backbone), len(found) + 1)
        found[number] = real(backbone)
        return proxies.Score(SCORES[number - 1])

    knn = proxies.PROXIES["knn"]
    made_up = proxies.Proxy("knn", knn.splits, True, knn.check, score)
    monkeypatch.setattr(proxies, "PROXIES", {**proxies.PROXIES, "knn": made_up})
    return found


@pytest.mark.slow
def test_a_stage_ends_when_its_score_no_longer_improves_and_leaves_the_best(scored, splits, tmp_path):
    curriculum.run(judged(), tmp_path / "run")
    first, second = stage_records(tmp_path / "run")
    assert first["steps"] == 12 and first["ended_early"] == "no improvement in 2 checks"
    assert [check["value"] for check in first["checks"]] == list(SCORES[:4])
    assert first["backbone_hash"] == scored[2] == second["start_hash"]
    assert "test" not in splits


@pytest.mark.slow
@pytest.mark.parametrize("last", [5, 7, 12])
def test_after_a_kill_it_ends_where_it_would_have_ended(last, scored, tmp_path, monkeypatch):
    """Between two checks, just after the best, and after the end was saved."""
    with monkeypatch.context() as patch:
        real = loop._Training._save

        def save(training, step, state, metrics):
            real(training, step, state, metrics)
            if step >= last:
                training.store.wait()
                raise Killed

        patch.setattr(loop._Training, "_save", save)
        with pytest.raises(Killed):
            curriculum.run(judged(), tmp_path / "killed")
    curriculum.run(judged(), tmp_path / "killed")
    curriculum.run(judged(), tmp_path / "whole")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_damaged_best_backbone_is_named(scored, tmp_path, monkeypatch):
    real = loop.fit

    def fit(task, batches, recipe, folder, **options):
        result = real(task, batches, recipe, folder, **options)
        file = folder.directory / weights.BEST
        file.write_bytes(file.read_bytes()[:-9])
        return result

    monkeypatch.setattr(loop, "fit", fit)
    with pytest.raises(UserError, match=r"best\.safetensors"):
        curriculum.run(judged(), tmp_path / "run")


@pytest.mark.slow
def test_the_time_ends_a_stage(tmp_path):
    made = config((stage("rotation", 18, stop=base.stopping(seconds=1e-6)),), targets=(), baselines=())
    curriculum.run(made, tmp_path / "run")
    (record,) = stage_records(tmp_path / "run")
    assert record["steps"] == 2 and record["ended_early"] == "1e-06 seconds are over"
    assert weights.load_backbone(stage_folders(tmp_path / "run")[0])[1]["backbone_hash"] == record["backbone_hash"]


# The budget of a curriculum


def lengths(made):
    return {arm.name: [one.total_steps for one in arm.stages] for arm in make_plan(made, DataSets(made)).arms}


def budgeted(budget, **changes):
    stages = (stage("rotation", 4), stage("npid", 8), stage("npid", 12, batch_size=16))
    return config(stages, targets=(), baselines=("single",), budget=budget, **changes)


def test_a_budget_shortens_all_stages_alike():
    assert lengths(budgeted({})) == {"curriculum": [4, 8, 12], "single:rotation": [4], "single:npid": [8]}
    assert lengths(budgeted({"steps": 12})) == {"curriculum": [2, 4, 6], "single:rotation": [2], "single:npid": [4]}
    # The stages show 32, 64 and 192 images.
    assert lengths(budgeted({"examples": 576}))["curriculum"] == [8, 16, 24]


def test_a_single_task_gets_the_whole_budget_if_it_is_asked_for():
    made = budgeted({"examples": 576}, single_budget="total")
    assert lengths(made) == {"curriculum": [8, 16, 24], "single:rotation": [72], "single:npid": [72]}


def test_stages_share_the_seconds_by_images():
    made = budgeted({"seconds": 144.0})
    seconds = {arm.name: [one.seconds for one in arm.stages] for arm in make_plan(made, DataSets(made)).arms}
    assert seconds == {"curriculum": [16.0, 32.0, 96.0], "single:rotation": [16.0], "single:npid": [32.0]}
    keys = {arm.name: [one.artifact.key for one in arm.stages] for arm in make_plan(made, DataSets(made)).arms}
    without = budgeted({})
    assert keys["curriculum"][0] != make_plan(without, DataSets(without)).arms[0].stages[0].artifact.key


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"steps": 3, "examples": 5}, "budget.steps and budget.examples are both set"),
        ({"seconds": 0.0}, "budget.seconds is 0.0; it must be above 0"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(budget, message):
    with pytest.raises(UserError, match=message):
        lengths(budgeted(budget))


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ({"patience": 0}, r"stages\[0\] \(rotation\): stop.patience is 0; it must be at least 1"),
        ({"seconds": -1.0}, "stop.seconds is -1.0; it must be above 0"),
    ],
)
def test_a_stop_that_cannot_be_is_refused(stop, message):
    made = config((stage("rotation", 4, stop=base.stopping(**stop)),), targets=(), baselines=())
    with pytest.raises(UserError, match=message):
        lengths(made)


def test_a_stop_survives_plain_values():
    made = judged().stages[0]
    assert base.stage_from_values(made.to_dict()).to_dict() == made.to_dict()
