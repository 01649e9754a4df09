"""What is displayed of a run: which piece of work it is at, and how long the rest takes."""

import pytest
from short_runs import config, stage

from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import PlannedMeasurement, PlannedStage
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.jobs.outlook import RunOutlook
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training import display

pytestmark = pytest.mark.usefixtures("tiny_in_the_table", "splits")


@pytest.fixture
def plan():
    """Two stages from scratch and a second arm that trains the second of them alone: 4, 5, and 5 steps of 8 images;
    three measurements of each arm.
    """
    made = config((stage("rotation", 4), stage("npid", 5)), baselines=("single:npid",))
    return make_plan(made, DataSets(made))


def follow(outlook, pieces, store, seconds=3.0):
    """Makes pieces whose stages show 10 images a second, and returns what was displayed of each at 20 a second."""
    said = []

    def make(piece, directory):
        announced = display._outlook.get()
        said.append((announced.title, *announced.seconds_after(20.0)))
        record = {"speed_of": piece.speed_of, "images_per_second": 10.0} if isinstance(piece, PlannedStage) else {}
        if isinstance(piece, PlannedMeasurement):
            record = {"target": piece.name, "seconds": seconds}
        store.begin(piece.artifact)
        store.finish(piece.artifact, record)
        return record

    made = outlook.follow(make)
    for piece in pieces:
        made(piece, store.root)
    return said


def test_pieces_are_told_by_their_place_and_what_follows_by_its_speed(plan, tmp_path):
    store = Store(tmp_path)
    pieces = plan.pieces()
    said = follow(RunOutlook(plan.arms, store), pieces, store)
    assert [title for title, _, _ in said] == [
        "arm 1/2 · stage 1/2 rotation",
        "arm 1/2 · stage 2/2 npid",
        *[f"arm 1/2 · measurement {number}/3 knn" for number in range(1, 4)],
        "arm 2/2 · stage 1/1 npid",
        *[f"arm 2/2 · measurement {number}/3 knn" for number in range(1, 4)],
    ]
    # Two stages of 40 images at the speed of the present one; nobody has measured yet.
    assert said[0][1:] == (80 / 20, False)
    assert said[1][1:] == (40 / 20, False)
    # Now both speeds are known: the other stage of this task, one measurement of this arm and three of the other.
    assert said[3][1:] == (40 / 10 + 4 * 3.0, True)
    assert said[-1][1:] == (0, True)


def test_what_other_runs_have_made_is_neither_to_come_nor_forgotten(plan, tmp_path):
    store = Store(tmp_path)
    first, second, *_ = plan.arms
    follow(RunOutlook([first], store), first.pieces(), store, seconds=5.0)
    said = follow(RunOutlook(plan.arms, store), second.pieces(), store)
    assert said[0] == ("arm 2/2 · stage 1/1 npid", 3 * 5.0, True)


def test_the_only_arm_has_no_number(plan, tmp_path):
    outlook = RunOutlook(plan.arms[1:], Store(tmp_path))
    assert outlook.describe(plan.arms[1].stages[0]) == "stage 1/1 npid"
    assert outlook.describe(plan.arms[0].stages[0]) == "curriculum 0: rotation"
