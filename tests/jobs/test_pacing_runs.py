"""Whole runs of stages with members: plan, record, report, and the plain curriculum that is made of them."""

import json

import pytest
import tiny
from ml_collections import ConfigDict
from short_runs import config, stage_records

from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum, freezing
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")

CHANGES = {"batch_size": 8, "optimizer": {"name": "adamw", "learning_rate": 1e-3}}


def member(task, **changes):
    return base.stage(task, size=tiny.SIZE, views=tiny.PLAIN, **changes)


def paced(kind, steps, *members, **changes):
    members = members or (member("rotation"), member("simclr"))
    return base.stage(kind, members=members, duration=base.duration(steps=steps), **CHANGES, **changes)


def stage_keys(*stages, **changes):
    made = config(stages, baselines=(), **changes)
    return [stage.artifact.key for arm in make_plan(made, DataSets(made)).arms for stage in arm.stages]


def test_fields_of_members_are_in_the_key():
    first = stage_keys(paced("joint", 4))
    assert first == stage_keys(paced("joint", 4))
    other_views = base.stage("simclr", size=tiny.SIZE, views={**tiny.PLAIN, "hue": 0.3})
    others = [
        paced("joint", 4, member("rotation"), member("simclr", temperature=0.3)),
        paced("joint", 4, member("rotation"), other_views),
        paced("joint", 4, weights="random"),
        paced("joint", 4, member("rotation"), member("byol")),
    ]
    assert len({key for stage in others for key in stage_keys(stage)} | set(first)) == 5


def test_a_member_is_checked_like_a_stage():
    changed = paced("joint", 4)
    changed.fields.members.simclr.task = "byol"
    with pytest.raises(UserError, match=r"stages\[0\] \(joint\): task was changed to 'byol', but the fields and views"):
        stage_keys(changed)
    volumes = base.stage("rotation3d", size=tiny.SIZE, preset="ct")
    with pytest.raises(UserError, match="views.dimensions is 3, but model.dimensions 2"):
        stage_keys(paced("joint", 4, member("rotation"), volumes))
    alone = paced("bandit", 4, interval=4)
    with pytest.raises(UserError, match=r"stages\[0\] \(bandit\): bandit: 4 steps are 1 intervals of 4"):
        stage_keys(alone)


def test_a_member_alone_is_the_stage_of_its_task_with_the_budget_of_the_whole():
    made = config((paced("joint", 8),), baselines=("single:simclr",))
    made.budget.steps = 4
    single = make_plan(made, DataSets(made)).arms[1].stages[0]
    plain = base.stage("simclr", size=tiny.SIZE, views=tiny.PLAIN, duration=base.duration(steps=4), **CHANGES)
    assert single.total_steps == 4 and single.artifact.key == stage_keys(plain)[0]


def test_a_joint_step_shows_its_images_to_every_member():
    def steps(**changes):
        made = config((paced("joint", 8), paced("bandit", 8, interval=2)), baselines=("single:simclr",))
        made.update(changes)
        return [[stage.total_steps for stage in arm.stages] for arm in make_plan(made, DataSets(made)).arms]

    assert steps() == [[8, 8], [8]]
    assert steps(single_budget="total") == [[8, 8], [24]]
    assert steps(budget={"examples": 96}) == [[4, 4], [4]]
    assert steps(budget={"steps": 8}) == [[4, 4], [4]]


@pytest.mark.slow
class TestRun:
    def test_leaves_what_emerged_and_a_frozen_curriculum(self, tmp_path):
        fisher = {"kind": "ewc", "teachers": (0,)}
        judge = base.proxy("knn", size=tiny.SIZE, neighbours=3, samples=4)
        # No score rises by 2, so it ends after two of its three epochs.
        stop = base.stopping(judge, patience=1, least=2.0)
        made = config(
            (paced("bandit", 9, interval=2, stop=stop), paced("joint", 4, weights="dwa", distill=fisher)), baselines=()
        )
        curriculum.run(made, tmp_path / "run")
        bandit, joint = stage_records(tmp_path / "run")
        assert bandit["pacing"]["members"] == ["rotation", "simclr"]
        assert sum(steps for _, steps in bandit["pacing"]["runs"]) == bandit["steps"] == 6
        assert joint["pacing"]["mean"] == [1, 1] and joint["pacing"]["until"][-1] == 1
        page = (tmp_path / "run" / "report.html").read_text()
        assert "Share of steps of each member of bandit" in page and "Weight of each member of joint" in page
        with pytest.raises(UserError, match="joint is distilled, and the stages of a bandit come between"):
            freezing.freeze(tmp_path / "run")

        made.stages = (made.stages[0], paced("joint", 4, weights="dwa"))
        curriculum.run(made, tmp_path / "run")
        freezing.main([str(tmp_path / "run"), str(tmp_path / "frozen.py")])
        space = {}
        exec((tmp_path / "frozen.py").read_text(), space)
        frozen = space["get_config"]()
        runs = bandit["pacing"]["runs"]
        assert [(one.task, one.duration.steps) for one in frozen.stages[:-1]] == [tuple(run) for run in runs]
        assert frozen.stages[-1].fields.weights.to_dict() == {
            "name": "fixed",
            "factors": {"rotation": 1.0, "simclr": 1.0},
        }
        assert json.loads(frozen.to_json_best_effort())["targets"]
        curriculum.run(frozen, tmp_path / "again")
        assert len(stage_records(tmp_path / "again")) == len(runs) + 1
        with pytest.raises(UserError, match="exists already"):
            freezing.main([str(tmp_path / "run"), str(tmp_path / "frozen.py")])
        with pytest.raises(UserError, match="'other' is no curriculum of .*: there are curriculum"):
            freezing.freeze(tmp_path / "run", "other")


class TestFreeze:
    def stage(self, kind, **changes):
        node = paced(kind, 40, schedule={"warmup": base.duration(steps=8)}, **changes)
        return freezing.to_values(ConfigDict(node))

    def test_intervals_of_a_bandit_become_stages_with_warm_ups_in_proportion(self):
        runs = [["simclr", 10], ["rotation", 30]]
        pacing = {"kind": "bandit", "members": ["rotation", "simclr"], "runs": runs}
        first, second = freezing.freeze_stage(self.stage("bandit"), {"steps": 40, "pacing": pacing})
        assert (first["task"], first["duration"]["steps"], first["schedule"]["warmup"]["steps"]) == ("simclr", 10, 2)
        assert (second["task"], second["duration"]["steps"], second["schedule"]["warmup"]["steps"]) == (
            "rotation",
            30,
            6,
        )
        assert base.stage_from_values(first).fields.temperature == member("simclr").fields.temperature

    def test_mean_weights_become_fixed_ones(self):
        pacing = {"kind": "joint", "members": ["rotation", "simclr"], "mean": [0.25, 1.75]}
        (one,) = freezing.freeze_stage(self.stage("joint", weights="famo"), {"steps": 40, "pacing": pacing})
        assert base.stage_from_values(one).fields.weights.factors.to_dict() == {"rotation": 0.25, "simclr": 1.75}
