"""Published numbers that are defaults here, by their effect: on a step of the task, and on the views it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment, pretext

FIELDS = {
    "odc": {"momentum": 0.5, "interval": 10, "hidden": 512, "dimensions": 256},
    "npid": {"temperature": 0.07, "momentum": 0.5, "dimensions": 128},
    "moco_v1": {"temperature": 0.07, "momentum": 0.999, "dimensions": 128},
    "moco_v2": {"temperature": 0.2, "momentum": 0.999, "dimensions": 128},
    "moco_v3": {"temperature": 1.0, "momentum": 0.99, "dimensions": 256},
    "densecl": {"dense_weight": 0.5, "temperature": 0.2, "momentum": 0.999},
    "simclr": {"temperature": 0.1, "dimensions": 128},
    "nnclr": {"temperature": 0.1, "dimensions": 256},
    "byol": {"momentum": 0.996, "dimensions": 256},
    "barlow_twins": {"off_diagonal_weight": 0.0051},
    "vicreg": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
    "swav": {"temperature": 0.1, "epsilon": 0.05, "iterations": 3, "local_crops": 6, "local_scale": (0.05, 0.14)},
    "dino": {
        **{"student_temperature": 0.1, "warmup_temperature": 0.04, "teacher_temperature": 0.07},
        **{"momentum": 0.996, "centre_momentum": 0.9, "hidden": 2048, "bottleneck": 256},
        **{"local_crops": 8, "local_scale": (0.05, 0.4)},
    },
    "mae": {"share": 0.75, "normalised": True},
}
# Of these one step shows no effect: they count steps.
COUNTS = [("odc", "interval")]


def step(name: str, **fields) -> dict[str, np.ndarray]:
    """Loss and state of a task after one step early in a stage, with weights that have moved.

    The views are a program of their own: most fields leave it as it is, and it is compiled once.
    """
    task = tiny.task(tiny.stage(name, views=tiny.PLAIN, **fields), tiny.table_body(name))
    graph, params, rest = nnx.split(task, nnx.Param, ...)

    @jax.jit
    def run(params, rest, views):
        made = nnx.merge(graph, params, rest)
        loss = made.loss(views, jnp.float32(0.05)).loss
        nnx.update(made, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(made, nnx.Param)))
        made.after_update(jnp.float32(0.1))
        return {"loss": loss, **tiny.named(nnx.as_pure(nnx.state(made)))}

    drawn = jax.jit(task.views)(jax.random.key(0), tiny.batch())
    return {key: np.asarray(value) for key, value in run(nnx.as_pure(params), nnx.as_pure(rest), drawn).items()}


def differ(one, other) -> bool:
    return one.keys() != other.keys() or any(one[name].tobytes() != other[name].tobytes() for name in one)


def another(value):
    """A value beside the published one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(0.9 * x for x in value)
    return value + 1 if isinstance(value, int) else 0.9 * value


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
def test_defaults_do_what_the_published_numbers_do_and_no_others(name):
    default = step(name)
    assert not differ(default, step(name, **FIELDS[name]))
    for field, value in FIELDS[name].items():
        if (name, field) not in COUNTS:
            assert differ(default, step(name, **{field: another(value)})), field


def views(name: str, shown: np.ndarray, **changes) -> np.ndarray:
    """Views [N, s, s, 3] that the recipe of a task draws of N copies of an image, 0 to 1, some of it switched off."""
    kind = pretext.task_class(name)
    spec = augment.make_views("natural", size=shown.shape[0], recipe={**kind.RECIPE, **changes}, fixed=kind.FIXED)
    images = jnp.asarray(np.broadcast_to(np.uint8(255 * shown), (2000, *shown.shape)))
    draw = jax.jit(lambda key: augment.to_display(augment.random_view(key, images, spec), spec))
    return np.asarray(draw(jax.random.key(0)))


WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
NO_COLOUR = {"jitter_probability": 0.0, "grey_probability": 0.0, "solarise_probability": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, share", [("simclr", 0.2), ("moco_v2", 0.2), ("npid", 0.2), ("deepcluster", 0.2), ("jigsaw", 0.66)]
)
def test_share_of_grey_views_is_as_published(name, share):
    red = np.ones((4, 4, 3)) * (0.7, 0.3, 0.2)
    drawn = views(name, red, **WHOLE, jitter_probability=0.0, blur_probability=0.0)
    grey = np.ptp(drawn, axis=-1).max(axis=(1, 2)) < 0.01
    # Four standard deviations of the share of 2,000 draws.
    assert abs(grey.mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, smallest", [("simclr", 0.08), ("moco_v2", 0.2), ("dino", 0.4), ("swav", 0.14), ("mae", 0.2), ("byol", 0.08)]
)
def test_smallest_crop_is_as_published(name, smallest):
    """A ramp from left to right and one from top to bottom: their ranges in a view are the sides of its crop."""
    side = 64
    ramp = np.arange(side) / (side - 1)
    image = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.zeros((side, side))], axis=-1)
    drawn = views(name, image, **NO_COLOUR, blur_probability=0.0)
    wide, high = (np.ptp(drawn[..., channel], axis=(1, 2)) for channel in (0, 1))
    # A view samples the middles of its pixels: the range is one pixel of the view short.
    area = wide * high * (side / (side - 1)) ** 2
    assert smallest * 0.85 < area.min() < smallest * 1.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "barlow_twins", "moco_v3"])
def test_one_view_is_always_blurred_and_the_other_solarised_now_and_then(name):
    # Sigmas count pixels of a view of 224: in one of 16 px they would blur nothing.
    changes = {**tiny.STILL, "blur_probability": 1.0, "solarise_probability": 0.2, "blur_sigma": (14.0, 28.0)}
    assert pretext.task_class(name).RECIPE.items() >= {"blur_probability": 1.0, "solarise_probability": 0.2}.items()
    task = tiny.task(tiny.stage(name, views=changes), tiny.Pixels())
    draw = jax.jit(lambda key, images: task.views(key, {"image": images}))
    checks = np.indices((tiny.SIZE, tiny.SIZE)).sum(axis=0)[..., None] % 2
    dark, bright = (np.broadcast_to(np.uint8(x), (1000, tiny.SIZE, tiny.SIZE, 3)) for x in (60 + 40 * checks, 250))
    shares = {}
    for view in ("first", "second"):
        blurred = np.ptp(np.asarray(draw(jax.random.key(0), dark)[view]), axis=(1, 2)).max(axis=-1) < 0.15
        solarised = np.asarray(draw(jax.random.key(1), bright)[view]).mean(axis=(1, 2, 3)) < 0.5
        shares[view] = blurred.mean(), solarised.mean()
    assert shares["first"] == (1, 0)
    assert shares["second"] == pytest.approx((0.1, 0.2), abs=0.05)
