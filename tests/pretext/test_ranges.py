"""Fields of a task that are out of their range are refused when it is built, before anything is trained."""

import math

import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment, pretext

NUMBERS = {
    (name, field): type(default)
    for name in pretext.TASKS
    for field, default in pretext.task_fields(name).items()
    if type(default) in (int, float)
}


def build(name, **fields):
    """Shapes alone: no array is made."""
    stage = tiny.table_stage(name)
    spec, setting = augment.views_of(stage.views), pretext.Setting(24, stage.batch_size)
    fields = {**stage.fields, **fields}
    make = lambda: pretext.make_task(name, tiny.table_body(name), spec, setting, fields, rngs=nnx.Rngs(0))  # noqa: E731
    return nnx.eval_shape(make)


@pytest.mark.parametrize("name, field", NUMBERS)
def test_no_number_may_be_negative(name, field):
    with pytest.raises(ValueError, match=field):
        build(name, **{field: NUMBERS[name, field](-3)})


@pytest.mark.parametrize("name, field", [pair for pair, kind in NUMBERS.items() if kind is float])
def test_no_share_or_weight_may_be_nan(name, field):
    with pytest.raises(ValueError, match=f"`{field}`.* nan"):
        build(name, **{field: math.nan})


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("simclr", {"temperature": 0.0}, "simclr: `temperature` must be above 0, not 0.0"),
        ("moco_v2", {"momentum": 1.5}, "moco_v2: `momentum` must lie between 0 and 1, not 1.5"),
        ("byol", {"momentum": 1.5}, "byol: `momentum` must lie between 0 and 1, not 1.5"),
        ("dino", {"warmup_temperature": 0.0}, "dino: `warmup_temperature` must be above 0, not 0.0"),
        ("odc", {"dropout": 1.0}, "odc: `dropout` must be at least 0 and below 1, not 1.0"),
        ("vicreg", {"variance": -1.0}, "vicreg: `variance` must be at least 0, not -1.0"),
        ("simclr", {"dimensions": 0}, "simclr: `dimensions` must be at least 1, not 0"),
        ("moco_v1", {"queue": -8}, "moco_v1: `queue` must be at least 0, not -8"),
    ],
)
def test_messages_name_task_field_and_value(name, fields, message):
    with pytest.raises(ValueError, match=f"^{message}(\n|$)"):
        build(name, **fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("byol", {"momentum": 1.0}), ("moco_v2", {"momentum": 0.0}), ("swav", {"queue_start": 1.0, "frozen": 0.0})],
)
def test_ends_of_the_ranges_are_in_them(name, fields):
    assert build(name, **fields).NAME == name
