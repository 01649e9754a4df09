"""What holds for every pretext task: the global view, the image-major output, purity in the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment, pretext, train

# 16 images, so that MoCo's 8 groups hold two each, on 8 devices with two each.
BATCH = 16


def disturbed(params):
    """Away from the start, where zero-initialised norms hide most of the gradient."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(0)
    moved = [leaf + 0.1 * random.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, moved)


def relative_error(value, reference) -> float:
    value, reference = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (value, reference))
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


SLOW = ("relative_location", "rotation", "npid")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in pretext.TASKS])
def test_gradient_and_state_on_eight_devices_are_those_of_one(name):
    graph, params, rest = train.split(tiny.task(tiny.stage(name, batch=BATCH)))
    params = disturbed(params)

    def loss(params, batch):
        task = nnx.merge(graph, params, rest)
        value = task.loss(task.views(jax.random.key(1), batch)).loss
        return value, train.split(task)[2]

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (loss_1, rest_1), gradient_1 = step(params, tiny.on_devices(tiny.batch(BATCH), 1))
    (loss_8, rest_8), gradient_8 = step(params, tiny.on_devices(tiny.batch(BATCH), 8))
    assert float(loss_8) == pytest.approx(float(loss_1), rel=1e-5)
    assert relative_error(gradient_8, gradient_1) <= 1e-5
    assert tiny.arrays(rest_8).keys() == tiny.arrays(rest_1).keys()
    for key, value in tiny.arrays(rest_1).items():
        np.testing.assert_allclose(tiny.arrays(rest_8)[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", pretext.TASKS)
def test_output_pairs_each_image_seen_with_its_features(name):
    task = tiny.task(tiny.stage(name), tiny.Linear(size=3 if name == "relative_location" else tiny.SIZE))
    views = task.views(jax.random.key(0), tiny.batch())
    output = task.loss(views)
    assert output.loss.shape == () and output.loss.dtype == jnp.float32 and jnp.isfinite(output.loss)
    np.testing.assert_array_equal(output.images, task.seen(views))
    np.testing.assert_array_equal(output.features, task.backbone(output.images, train=True)["pooled"])


@pytest.mark.parametrize("name, views", [("rotation", 4), ("npid", 1), ("moco_v2", 1), ("simclr", 2)])
def test_views_of_one_image_lie_side_by_side(name, views):
    task = tiny.task(tiny.stage(name, views=tiny.STILL), tiny.Linear())
    shades = jnp.arange(8, dtype=jnp.uint8) * 20
    batch = {"image": jnp.broadcast_to(shades[:, None, None, None], (8, 16, 16, 3)), "index": jnp.arange(8)}
    seen = task.seen(task.views(jax.random.key(0), batch))
    np.testing.assert_allclose(seen.mean(axis=(1, 2, 3)) * 255, np.repeat(np.arange(8) * 20, views), atol=1e-3)


@pytest.mark.parametrize("name", pretext.TASKS)
def test_views_depend_on_the_key_and_on_uint8_images_alone(name):
    task = tiny.task(tiny.stage(name), tiny.Linear())
    first, again, other = (task.seen(task.views(jax.random.key(k), tiny.batch())) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(TypeError, match="uint8"):
        task.views(jax.random.key(0), {**tiny.batch(), "image": jnp.zeros((8, 16, 16, 3))})


@pytest.mark.parametrize("name", pretext.TASKS)
def test_evaluating_the_loss_leaves_the_task_as_it_was(name):
    task = tiny.task(tiny.stage(name), tiny.Linear(size=3 if name == "relative_location" else tiny.SIZE))
    before = tiny.arrays(task)
    task.loss(task.views(jax.random.key(0), tiny.batch()), train=False)
    tiny.assert_same(task, before)


def test_unknown_task_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown pretext task 'jigsaw': known are moco_v2, npid, relative_location"):
        pretext.make_task("jigsaw", tiny.Linear(), augment.Views(), pretext.Setting(8, 8), {}, rngs=nnx.Rngs(0))


def test_fields_of_a_task_are_the_keywords_of_its_constructor():
    assert pretext.task_fields("rotation") == {}
    assert pretext.task_fields("npid") == {
        "temperature": 0.07,
        "negatives": 0,
        "momentum": 0.5,
        "dimensions": 128,
    }


def test_average_moves_by_its_momentum_alone():
    source = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    average = pretext.base.Average(source)
    start = {name: value.astype(np.float64) for name, value in tiny.arrays(average.parameters(source)).items()}
    online = {name: value + 1 for name, value in start.items()}
    nnx.update(source, jax.tree.map(lambda x: x + 1, nnx.state(source)))
    average.update(source, 0.9)
    for name, value in tiny.arrays(average.parameters(source)).items():
        np.testing.assert_allclose(value, 0.9 * start[name] + 0.1 * online[name], rtol=1e-6)


def test_rows_are_normalised_and_a_zero_row_has_a_finite_gradient():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(pretext.base.normalise(rows), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    gradient = jax.grad(lambda x: pretext.base.normalise(x).sum())(rows)
    assert np.isfinite(gradient).all()
