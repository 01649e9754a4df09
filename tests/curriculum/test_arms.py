"""The arms that a config compares."""

import pytest
from ml_collections import ConfigDict
from short_runs import config, stage

from aiseeme_jax.curriculum.arms import list_arms
from aiseeme_jax.errors import UserError


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
