"""What is displayed of a run: which piece of work it is at, and how long the rest takes."""

import dataclasses

import pytest
from short_runs import config, stage

from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import PlannedMeasurement, PlannedStage
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.jobs import outlook
from aiseeme_jax.jobs.outlook import RunOutlook
from aiseeme_jax.store import artifacts
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


def follow(shown, pieces, store, seconds=3.0):
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

    made = shown.follow(make)
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


def test_records_of_other_runs_that_cannot_be_read_are_left_out(plan, tmp_path, monkeypatch):
    store = Store(tmp_path)
    pieces = plan.arms[0].pieces()
    follow(RunOutlook(plan.arms, store), pieces, store, seconds=5.0)
    (store.directory(pieces[0].artifact) / artifacts.RECORD).write_text("half of a rec")
    read = artifacts.read_record

    def read_or_lose(folder):
        """The second of three measurements is deleted while it is read."""
        if folder == store.directory(pieces[3].artifact):
            raise FileNotFoundError(folder)
        return read(folder)

    monkeypatch.setattr(artifacts, "read_record", read_or_lose)
    pace = outlook.read_pace(store)
    assert pace.speeds == {pieces[1].speed_of: 10.0} and pace.seconds == {pieces[2].name: [5.0, 5.0]}
    assert follow(RunOutlook(plan.arms, store, pace), pieces[1:2], store)[0][0] == "arm 1/2 · stage 2/2 npid"


def test_a_stage_takes_no_longer_than_its_limit(plan, tmp_path):
    limited = dataclasses.replace(plan.arms[1].stages[0], seconds=1.5)
    assert [limited.limit_seconds(seconds) for seconds in (1.0, 2.0)] == [1.0, 1.5]
    shown = RunOutlook(plan.arms, Store(tmp_path))
    # 40 images at 20 a second.
    assert shown._sum_seconds([limited, plan.arms[1].stages[0]], 20.0) == (1.5 + 2.0, True)


def test_the_only_arm_has_no_number(plan, tmp_path):
    shown = RunOutlook(plan.arms[1:], Store(tmp_path))
    assert shown.describe(plan.arms[1].stages[0]) == "stage 1/1 npid"
    assert shown.describe(plan.arms[0].stages[0]) == "curriculum 0: rotation"
