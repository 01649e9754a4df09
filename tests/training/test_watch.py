"""What ends a training early: a value that no longer improves, or the time."""

import math

import pytest

from aiseeme_jax.training.watch import ENDED, Watch


def end_of(values, **fields):
    """The check, counted from 1, that ends a training with these values; the checks that were kept; the record."""
    found, kept, record = iter(values), [], {}
    watch = Watch(value=lambda task: next(found), keep=kept.append, **fields)
    for number in range(1, len(values) + 1):
        watch.check(number, 10 * number, record)
        if ENDED in record:
            return number, kept, record
    return None, kept, record


@pytest.mark.parametrize(
    ("values", "fields", "ended", "kept"),
    [
        ([1, 2, 3, 4], {"patience": 2}, None, [1, 2, 3, 4]),
        ([1, 3, 2, 2.5, 9], {"patience": 2}, 4, [1, 2]),
        ([1, 1.05, 1.2, 1.2], {"patience": 2, "least": 0.1}, None, [1, 3]),
        ([1, 1.05, 1.08, 1.2], {"patience": 2, "least": 0.1}, 3, [1]),
        ([math.nan, math.nan, 1], {"patience": 2}, 2, []),
        ([1, math.nan, 0.5], {"patience": 2}, 3, [1]),
    ],
)
def test_patience_counts_the_checks_since_the_best(values, fields, ended, kept):
    assert end_of(values, **fields)[:2] == (ended, kept)


def test_the_record_alone_is_remembered():
    """So a training that goes on from a checkpoint ends where it would have ended."""
    record = {}
    for number, value in enumerate([1, 3, 2, 2.5], 1):
        Watch(value=lambda task, value=value: value, patience=2).check(None, number, record)
    assert record["best"] == {"step": 2, "value": 3} and ENDED in record
    assert [check["value"] for check in record["checks"]] == [1, 3, 2, 2.5]


def test_a_value_is_checked_after_so_many_epochs():
    watch = Watch(value=len, every=2)
    assert [step for step in range(1, 25) if watch.is_due(step, 4)] == [8, 16, 24]
    assert not Watch(seconds=3).is_due(8, 4)


def test_the_time_ends_a_training():
    record = {}
    Watch(seconds=5).check_time(4.9, record)
    assert not record
    Watch(seconds=5).check_time(5.0, record)
    assert record == {ENDED: "5 seconds are over"}
