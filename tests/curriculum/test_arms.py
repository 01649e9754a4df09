"""The arms that a config compares."""

import pytest
import tiny
from ml_collections import ConfigDict
from short_runs import config, stage

from aiseeme_jax.curriculum.arms import list_arms
from aiseeme_jax.errors import UserError
from configs import base


def names(**changes):
    return [arm.name for arm in list_arms(config(**changes))]


def test_single_stands_for_each_task_of_the_curriculum_once():
    assert names() == ["curriculum", "scratch", "single:rotation", "single:npid"]
    assert names(baselines=()) == ["curriculum"]
    assert names(baselines=("single:npid",)) == ["curriculum", "single:npid"]
    stages = (stage("npid", 4), stage("rotation", 2), stage("npid", 4))
    assert names(stages=stages, baselines=("single",)) == ["curriculum", "single:npid", "single:rotation"]


def test_each_has_its_start_and_its_stages():
    arms = {arm.name: arm for arm in list_arms(config(init="somewhere"))}
    assert [position for position, _ in arms["curriculum"].stages] == [0, 1]
    assert [position for position, _ in arms["single:npid"].stages] == [1]
    assert arms["curriculum"].init == arms["single:npid"].init == "somewhere"
    assert (arms["scratch"].init, arms["scratch"].stages) == ("scratch", ())
    assert [name for name, arm in arms.items() if arm.is_random] == ["scratch"]


def test_imagenet_is_a_start_from_a_file():
    arm = list_arms(config(baselines=("imagenet",), imagenet="r50.pth"))[1]
    assert (arm.name, arm.init, arm.stages) == ("imagenet", "r50.pth", ())
    with pytest.raises(UserError, match="baseline 'imagenet' needs --config.imagenet=FILE"):
        names(baselines=("imagenet",))


def test_unknown_names_are_errors():
    with pytest.raises(UserError, match="unknown baseline 'random': known are scratch, imagenet, single"):
        names(baselines=("random",))
    with pytest.raises(UserError, match="'single:simclr' has no stage of that task: there are rotation, npid"):
        names(baselines=("single:simclr",))
    with pytest.raises(UserError, match="unknown single_budget 'all': known are stage, total"):
        names(single_budget="all")


def test_the_job_evaluate_has_the_backbone_at_init_alone():
    assert [(arm.name, arm.init) for arm in list_arms(config(job="evaluate", init="w.pth"))] == [("init", "w.pth")]
    (arm,) = list_arms(config(job="evaluate", init="scratch"))
    assert (arm.name, arm.is_random) == ("scratch", True)


def paced(kind: str, steps: int = 4, **changes):
    """A stage of two members."""
    members = tuple(base.stage(task, size=tiny.SIZE, views=tiny.PLAIN) for task in ("rotation", "simclr"))
    return base.stage(kind, members=members, batch_size=8, duration=base.duration(steps=steps), **changes)


class TestMembers:
    def test_single_trains_each_member_alone_as_the_whole_stage(self):
        made = config((stage("npid", 2), paced("joint", 6)), baselines=("single",))
        arms = {arm.name: arm for arm in list_arms(made)}
        assert list(arms) == ["curriculum", "single:npid", "single:rotation", "single:simclr"]
        ((position, alone),) = arms["single:simclr"].stages
        joint, plain = made.stages[1], base.stage("simclr", size=tiny.SIZE, views=tiny.PLAIN)
        assert position == 1 and alone.task == alone.made_for == "simclr"
        assert (alone.fields, alone.views) == (plain.fields, plain.views)
        for name in ("batch_size", "optimizer", "schedule", "stop"):
            assert alone[name] == joint[name]
        # Both members get every image of the joint stage.
        assert (joint.duration.steps, alone.duration.steps) == (6, 12)
        assert joint.task == "joint" and "views" not in joint

    def test_weights_are_equal_and_random_ones_beside_those_of_the_curriculum(self):
        made = config((paced("joint", weights="famo"), paced("bandit", interval=2)), baselines=("weights",))
        arms = {arm.name: [stage for _, stage in arm.stages] for arm in list_arms(made)}
        assert list(arms) == ["curriculum", "weights:equal", "weights:random"]
        found = {name: (one.fields.weights.name, two.fields.teacher.name) for name, (one, two) in arms.items()}
        assert found == {
            "curriculum": ("famo", "exp3s"),
            "weights:equal": ("equal", "exp3s"),
            "weights:random": ("random", "random"),
        }
        made = config((paced("bandit", interval=2),), baselines=("weights",))
        assert [arm.name for arm in list_arms(made)] == ["curriculum", "weights:random"]
        made = config((paced("joint", weights="random"),), baselines=("weights",))
        assert [arm.name for arm in list_arms(made)] == ["curriculum", "weights:equal"]

    def test_weights_need_a_stage_that_has_some(self):
        with pytest.raises(UserError, match="'weights' needs a stage 'joint' or 'bandit' among `stages`"):
            names(baselines=("weights",))


class TestCurricula:
    """Other curricula beside the first one."""

    def test_each_is_an_arm_by_its_name(self):
        made = config(baselines=("scratch",))
        made.stages, made.curricula = (), ConfigDict({"b": (stage("npid", 3),), "a": (stage("rotation", 2),)})
        assert [arm.name for arm in list_arms(made)] == ["a", "b", "scratch"]

    @pytest.mark.parametrize("baselines", [("scratch",), ()])
    @pytest.mark.parametrize("name", ["scratch", "curriculum"])
    def test_a_name_that_is_taken(self, baselines, name):
        taken = config(baselines=baselines)
        taken.curricula = ConfigDict({name: (stage("npid", 2),)})
        with pytest.raises(UserError, match=f"curricula: '{name}' is the name of another arm"):
            list_arms(taken)
