"""Whole runs of stages that show their images in the order of their losses: plan, record, restarts, what is refused."""

import pytest
import tiny
from short_runs import Killed, config, outcome, stage, stage_records

from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.training import loop
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")

MIXED = {"a/1": 0.7, "b/1": 0.3}
# 24 images are three steps, those of both data sets six.
PACED = {"order": "hardest", "until": 0.9}


@pytest.mark.slow
def test_a_mixture_is_killed_within_a_paced_epoch_and_ends_in_the_same_bits(tmp_path, monkeypatch):
    made = config((stage("npid", 24, data=MIXED, samples=PACED),), targets=(), baselines=())
    with monkeypatch.context() as patch:
        real = loop._Training._save

        def save(training, step, state, metrics):
            real(training, step, state, metrics)
            if step == 14:
                training.store.wait()
                raise Killed

        patch.setattr(loop._Training, "_save", save)
        with pytest.raises(Killed):
            curriculum.run(made, tmp_path / "killed")
    curriculum.run(made, tmp_path / "killed")
    curriculum.run(made, tmp_path / "whole")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    (record,), (whole,) = stage_records(tmp_path / "killed"), stage_records(tmp_path / "whole")
    assert record["samples"] == whole["samples"] and record["images_shown"] == whole["images_shown"]
    # Epochs begin at 6, 12 and 18 of 24 steps: .5, then 6 / 15.6 and 12 / 15.6 of the other half; of each set 24.
    assert [(entry["epoch"], entry["images"]) for entry in record["samples"]] == [(2, 24), (3, 34), (4, 42)]
    assert sum(record["images_shown"].values()) == 24 * 8
    assert record["images_shown"]["a/1"] == pytest.approx(0.7 * 24 * 8, abs=3)
    assert all(entry["shown_loss"] > entry["other_loss"] for entry in record["samples"])


def plan(*stages):
    made = config(stages, targets=(), baselines=())
    return make_plan(made, DataSets(made)).arms[0].stages


def test_steps_stay_the_same_and_the_speed_is_another_if_losses_are_measured():
    plain, random, easiest = (plan(stage("rotation", 9, samples=order))[0] for order in ("all", "random", "easiest"))
    assert plain.total_steps == random.total_steps == easiest.total_steps == 9
    assert plain.speed_of == random.speed_of != easiest.speed_of


@pytest.mark.parametrize("task", ["barlow_twins", "vicreg"])
def test_a_loss_that_belongs_to_no_image_is_refused_but_a_random_share_is_not(task):
    with pytest.raises(UserError, match=rf"stages\[0\] \({task}\): samples.order is 'easiest', but the loss of {task}"):
        plan(stage(task, 9, samples="easiest"))
    assert plan(stage(task, 9, samples="random"))


@pytest.mark.parametrize("kind", ["joint", "bandit"])
def test_a_stage_with_members_is_refused(kind):
    members = tuple(base.stage(task, size=tiny.SIZE, views=tiny.PLAIN) for task in ("rotation", "simclr"))
    options = {"interval": 3} if kind == "bandit" else {}
    made = base.stage(kind, members=members, batch_size=8, duration=base.duration(steps=9), samples="random", **options)
    with pytest.raises(UserError, match="a stage that has members shows all its images"):
        plan(made)
    alone = base.stage("rotation", size=tiny.SIZE, views=tiny.PLAIN, samples="random")
    with pytest.raises(UserError, match="members: 'rotation' sets samples"):
        base.stage("joint", members=(alone, members[1]))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("hard", r"stages\[0\] \(rotation\): unknown samples.order 'hard': known are all, easiest, hardest, random"),
        ({"order": "easiest", "start": 0.0}, r"samples.start is 0.0; it must lie in \(0, 1\]"),
        ({"order": "easiest", "until": 1.5}, r"samples.until is 1.5; it must lie in \(0, 1\]"),
        ({"order": "easiest", "warmup": 1.0}, r"samples.warmup is 1.0; it must lie in \[0, 1\)"),
        ({"order": "easiest", "every": 0}, "samples.every is 0; it must be at least 1"),
        ({"order": "easiest", "passes": 0}, "samples.passes is 0; it must be at least 1"),
        ({"order": "random", "until": 0.3}, "no epoch would show fewer than all images: of 9 steps, an epoch has 3"),
        ({"order": "random", "start": 1.0}, "no epoch would show fewer than all images"),
        ({"order": "easiest", "start": 0.25}, "samples.start 0.25 leaves 6 images, fewer than a batch of 8"),
    ],
)
def test_a_pace_that_cannot_be_is_refused(samples, message):
    with pytest.raises(UserError, match=message):
        plan(stage("rotation", 9, samples=samples))


def test_a_stage_shorter_than_two_epochs_is_refused():
    with pytest.raises(UserError, match="of 3 steps, an epoch has 3, the warm-up takes 1"):
        plan(stage("rotation", 3, samples="easiest"))


def test_an_unknown_field_is_named():
    with pytest.raises(AttributeError, match="unknown field 'begin': known are every, order, passes"):
        stage("rotation", 9, samples={"begin": 0.5})


def test_a_pace_survives_plain_values():
    made = stage("rotation", 9, samples=PACED)
    assert base.stage_from_values(made.to_dict()).to_dict() == made.to_dict()
