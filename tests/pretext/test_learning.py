"""Fifty or a hundred steps on textures: the loss falls, and the features are worth more than before.

The latter is asked of a task only where it came true at each of three starts or more (orders of the images and of the
views). It did not for seven, whose linear probe so short a training moved up from one start and down from another, or
hardly.

Of a loss against a queue, a teacher or labels that move, the curve says little: early queues are random and easily told
apart. So the first weights are measured against what the last ones are measured against: the same images, views, queue,
teacher and labels.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import data, models, pretext
from aiseeme_jax.evaluate import features, linear
from aiseeme_jax.models import resnet
from aiseeme_jax.training.health import collapse_warning, feature_health
from aiseeme_jax.training.state import Program, Recipe, TrainState, make_state, task_of
from aiseeme_jax.training.step import at_epoch, train_step

pytestmark = pytest.mark.slow

# Beyond the second step at these learning rates, rounding alone drives two curves apart.
IMAGES, IN_BFLOAT16 = 512, 2
# One of each family: the losses that they share are compared one by one in their own tests.
ROUGH = ("rotation", "inpainting", "mae", "moco_v2", "barlow_twins", "dino", "odc", "rotation3d")
# Steps between two clusterings, where there are several.
CLUSTERED_EVERY = 25
PERIODS = (3, 4, 6, 8)


class Course(NamedTuple):
    """What a task must reach, well below the least that all starts gave, and how it is trained for that.

    `fall` is the share of the first weights' loss that the last ones have lost, `lift` what the linear probe's balanced
    accuracy has gained. Of some tasks, fifty steps do not move them for certain.
    """

    fall: float
    lift: float | None
    rate: float = 1e-2
    batch: int = 64
    steps: int = 50
    fields: dict[str, Any] = {}


# A teacher of momentum 0.999 would stand still (BYOL's rises to 1); SwAV's smallest crops would show no period.
COURSES = {
    "relative_location": Course(0.08, 0.05, batch=128),
    "rotation": Course(0.7, 0.15),
    "jigsaw": Course(0.015, None, rate=3e-2),
    "relative_location3d": Course(0.04, 0.03, batch=8),
    "rotation3d": Course(0.07, 0.1, batch=16),
    "rubik": Course(0.03, None, batch=16, steps=100),
    "colorization": Course(0.3, 0.02),
    "context_restoration": Course(0.5, 0.04),
    "models_genesis": Course(0.25, None, rate=3e-2),
    "inpainting": Course(0.5, 0.01),
    "mae": Course(0.3, None, rate=3e-3, fields={"share": 0.5}),
    "npid": Course(0.015, 0.1),
    "moco_v1": Course(0.004, 0.05, fields={"momentum": 0.9}),
    "moco_v2": Course(0.015, 0.1, rate=3e-2, fields={"momentum": 0.99, "temperature": 0.07}),
    "moco_v3": Course(0.004, 0.08, fields={"momentum": 0.9}),
    "simclr": Course(0.2, 0.1),
    "nnclr": Course(0.008, None, rate=3e-2),
    "densecl": Course(0.03, 0.08, steps=100, fields={"momentum": 0.9}),
    "byol": Course(0.3, None, fields={"momentum": 0.0, "hidden": 16}),
    "simsiam": Course(0.1, None),
    "barlow_twins": Course(0.15, 0.07),
    "vicreg": Course(0.15, 0.04, steps=100),
    "dino": Course(0.2, 0.02, rate=3e-2, steps=100, fields={"momentum": 0.97}),
    "deepcluster": Course(0.01, 0.1),
    "clusterfit": Course(0.05, 0.15),
    "odc": Course(0.007, 0.02, steps=100, fields={"momentum": 0.9}),
    "swav": Course(0.15, 0.01, rate=3e-2, steps=100, fields={"local_scale": (0.4, 0.8)}),
}
# Of a task that has none there: its loss does not rise.
ANY = Course(0.0, None)
# The least value of a loss that can be negative.
LEAST = {"simsiam": -1.0}
STRONG_COLOUR = {"jitter_probability": 1.0, "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}
STRONG_COLOUR |= {"grey_probability": 0.2, "crop_scale": (0.7, 1.0), "mean": (0.45,) * 3, "std": (0.25,) * 3}


def textures(dimensions: int, seed: int) -> data.Split:
    """Sawteeth down the first axis in noise, of four periods, at any phase, contrast, brightness and colour."""
    random = np.random.default_rng(seed)
    labels = np.arange(IMAGES) % len(PERIODS)
    space = (tiny.SIZE,) * dimensions
    made = np.empty((IMAGES, *space))
    for image, label in zip(made, labels, strict=True):
        period = PERIODS[label]
        tooth = (np.arange(tiny.SIZE) + random.uniform(0, period)) % period / period - 0.5
        image[:] = random.uniform(0.5, 1.2) * tooth.reshape(-1, *[1] * (dimensions - 1))
        image += random.normal(0, 0.12, space) + random.uniform(-0.3, 0.3)
    if dimensions == 2:
        pixels = np.clip(115 + 90 * made[..., None] * random.uniform(0.4, 1, (IMAGES, 1, 1, 3)), 0, 255)
        stored = pixels.astype(np.uint8)
    else:
        stored = np.clip(-300 + 500 * made[..., None], -1000, 400).astype(np.int16)
    groups = [f"{seed}-{i}" for i in range(IMAGES)]
    return data.from_arrays(stored, labels, groups, tuple("abcd"), name=f"textures:{seed}")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Eight that share a processor would do the same, and wait for one another."""
    tiny.use_devices(monkeypatch, 1)


def make(name: str, monkeypatch, dtype: str):
    volumes = tiny.of_volumes(name)
    changes = {} if volumes else {"views": tiny.PLAIN | ({} if name in tiny.OF_VITS else STRONG_COLOUR)}
    course = COURSES.get(name, ANY)
    changes["optimizer"] = {"name": "adamw", "learning_rate": course.rate}
    monkeypatch.setitem(tiny.FIELDS, name, tiny.FIELDS.get(name, {}) | course.fields)
    stage = tiny.table_stage(name, steps=course.steps, batch=course.batch, **changes)
    kind = {"dtype": jnp.dtype(dtype)} | ({"channels": 1, "dimensions": 3} if volumes else {})
    if name in tiny.OF_VITS:
        return stage, tiny.task(stage, tiny.vit(**kind), images=IMAGES, dtype=dtype)
    monkeypatch.setitem(resnet.ARCHITECTURES, "small", (False, (1, 0, 0, 0) if volumes else (1, 1, 1, 0)))
    body = models.ResNet("small", width=0.125, stem="small", rngs=nnx.Rngs(0), **kind)
    return stage, tiny.task(stage, body, images=IMAGES, dtype=dtype)


class Learned(NamedTuple):
    """Losses of all steps, features of the last batch, what comes next, and the weights before it all."""

    losses: np.ndarray
    features: jax.Array
    program: Program
    state: TrainState
    batches: Iterator
    first: nnx.State


def learn(task, stage, split, steps: int) -> Learned:
    program, state = make_state(task, Recipe(stage, stage.duration.steps, CLUSTERED_EVERY, seed=0, patience=3))
    first, losses = copied(state.params), []
    batches = data.Batches(split, batch_size=stage.batch_size, seed=0)(0)
    for step in range(steps):
        if task.AT_EPOCH == "every" and step % CLUSTERED_EVERY == 0 or task.AT_EPOCH == "first" and step == 0:
            body = task_of(program, state).backbone
            rows = features.extract(body, split, views=task.spec, batch_size=stage.batch_size)
            state = at_epoch(program, state, rows, jax.random.key(step))
        state, metrics, found = train_step(program, state, next(batches), jax.random.key(0))
        losses.append(metrics["loss"])
        compiled = compiled if step else train_step._cache_size()
    assert train_step._cache_size() == compiled
    return Learned(np.array(jax.device_get(losses)), found, program, state, batches, first)


def fall(name: str, learned: Learned) -> float:
    """Share of the first weights' loss that the last ones have lost, over four batches."""
    before, after = [], []
    for batch in itertools.islice(learned.batches, 4):
        for params, losses in ((learned.first, before), (learned.state.params, after)):
            # A step gives the loss before it moves the weights.
            state = copied(dataclasses.replace(learned.state, params=params))
            loss = train_step(learned.program, state, batch, jax.random.key(0))[1]["loss"]
            losses.append(float(loss) - LEAST.get(name, 0.0))
    return 1 - sum(after) / sum(before)


def copied(tree):
    """A step takes the buffers of what it is given."""
    return jax.tree.map(jnp.copy, tree)


def probe(task, splits) -> float:
    rows = {name: features.extract(task.backbone, s, views=task.spec, batch_size=128) for name, s in splits.items()}
    labels = {name: split.labels for name, split in splits.items()}
    rows["validation"], labels["validation"] = rows["test"], labels["test"]
    found = linear.linear_probe(rows, labels, strengths=(1.0,), class_weight="none", max_iter=300, classes=4)
    return found.validation_score


@pytest.mark.parametrize("name", pretext.TASKS)
def test_some_steps_lower_the_loss_and_better_the_features(name, monkeypatch):
    dimensions = 3 if tiny.of_volumes(name) else 2
    splits = {"train": textures(dimensions, 1), "test": textures(dimensions, 2)}
    stage, task = make(name, monkeypatch, "float32")
    course = COURSES.get(name, ANY)
    before = None if course.lift is None else probe(task, splits)
    learned = learn(task, stage, splits["train"], course.steps)
    health = {key: float(value) for key, value in feature_health(learned.features).items()}
    assert collapse_warning(health) is None
    assert np.isfinite(learned.losses).all()
    if course.lift is not None:
        after = probe(task_of(learned.program, learned.state), splits)
        assert after >= before + course.lift
    assert fall(name, learned) >= course.fall
    if name not in ROUGH:
        return
    stage, task = make(name, monkeypatch, "bfloat16")
    rough = learn(task, stage, splits["train"], IN_BFLOAT16)
    np.testing.assert_allclose(rough.losses, learned.losses[:IN_BFLOAT16], rtol=0.05, atol=0.05)
