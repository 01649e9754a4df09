"""What holds for every pretext task: the global view, the image-major output, purity in the key."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import no_events  # noqa: F401

from aiseeme_jax import augment, data, pretext
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.pretext import two_views
from aiseeme_jax.task import Average, raise_momentum
from aiseeme_jax.training.state import split_state

# 16 images, so that MoCo's 8 groups hold two each, on 8 devices with two each.
BATCH = 16


def disturbed(params):
    """Away from the start, where zero-initialised norms hide most of the gradient."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(0)
    moved = [leaf + 0.05 * random.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, moved)


def relative_error(value, reference) -> float:
    value, reference = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (value, reference))
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


# The usual curriculum's; relative location takes long to compile.
QUICK = ("rotation", "npid", "moco_v2", "simclr")


def marked(quick=QUICK):
    """The table, slow but for one of each kind: to compile is what takes its time."""
    return [pytest.param(n, marks=[pytest.mark.slow] * (n not in quick)) for n in pretext.TASKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", pretext.TASKS)
def test_gradient_and_state_on_eight_devices_are_those_of_one(name):
    graph, params, rest = split_state(tiny.table_task(name, tiny.table_backbone(name), batch=BATCH))
    params = disturbed(params)

    def loss(params, batch):
        task = nnx.merge(graph, params, rest)
        value = task.loss(task.views(jax.random.key(1), batch), 0.0).loss
        return value, split_state(task)[2]

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (loss_1, rest_1), gradient_1 = step(params, tiny.on_devices(tiny.table_batch(name, BATCH), 1))
    (loss_8, rest_8), gradient_8 = step(params, tiny.on_devices(tiny.table_batch(name, BATCH), 8))
    assert float(loss_8) == pytest.approx(float(loss_1), rel=1e-5)
    # Rounding of float32 alone is up to 6e-6; a loss or a statistic of one device alone is off by far more.
    assert relative_error(gradient_8, gradient_1) <= 1e-5
    assert tiny.arrays(rest_8).keys() == tiny.arrays(rest_1).keys()
    for key, value in tiny.arrays(rest_1).items():
        np.testing.assert_allclose(tiny.arrays(rest_8)[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


def fields_for(name, batch):
    """MoCo's groups must divide the batch, and what a queue holds is at least a batch."""
    return {"groups": 1} if name in ("moco_v1", "moco_v2", "densecl") else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", pretext.TASKS)
def test_the_smallest_batch_has_a_gradient(name):
    """With fewer images a task would train on nothing: its gradient would be 0, or next to it."""
    batch = pretext.TASKS[name].MINIMUM_BATCH
    task = tiny.table_task(name, tiny.table_backbone(name), batch=batch, **fields_for(name, batch))
    graph, params, rest = split_state(task)

    def loss(params, batch):
        task = nnx.merge(graph, params, rest)
        return task.loss(task.views(jax.random.key(1), batch), 0.0).loss

    gradient = jax.jit(jax.grad(loss))(disturbed(params), tiny.table_batch(name, batch))
    size = np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradient["backbone"])])
    # Measured: at least 0.03. Batches of two had 3e-5 (simsiam), 1e-3 (byol) and 3e-3 (odc).
    assert np.isfinite(size) and size > 0.01


@pytest.mark.parametrize("name", [name for name, task in pretext.TASKS.items() if task.MINIMUM_BATCH > 1])
def test_a_smaller_batch_is_refused(name):
    least = pretext.TASKS[name].MINIMUM_BATCH
    message = f"{name}: a batch of {least - 1} is too small: .* raise `batch_size` to at least {least}"
    with pytest.raises(UserError, match=message):
        tiny.table_task(name, batch=least - 1, **fields_for(name, least - 1))


def test_tasks_that_compare_images_say_so():
    alone = {name for name, task in pretext.TASKS.items() if task.MINIMUM_BATCH == 1}
    compared = {"simclr", "moco_v1", "moco_v2", "moco_v3", "nnclr", "densecl", "byol", "simsiam", "barlow_twins"}
    assert not alone & {*compared, "vicreg", "swav", "odc"}
    normalised = {name for name, task in pretext.TASKS.items() if task.MINIMUM_BATCH == 3}
    assert normalised == {"moco_v3", "nnclr", "byol", "simsiam", "barlow_twins", "vicreg", "odc"}


# Features of a part of each image: tested with the task.
PARTLY = ("mae",)


def reversed_images(views):
    """The views of a batch of 8 in the reverse order of its images; keys of random numbers stay."""

    def turn(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return leaf.reshape(8, -1, *leaf.shape[1:])[::-1].reshape(leaf.shape)

    return jax.tree.map(turn, views)


@pytest.mark.parametrize("name", marked())
def test_a_loss_comes_with_those_of_its_images_and_their_features_and_writes_to_no_parameter(name):
    # What dropout drops does not go with the images.
    fields = {"dropout": 0.0} if "dropout" in pretext.task_fields(name) else {}
    task = tiny.table_task(name, **fields)
    graph, state = nnx.split(task)

    @jax.jit
    def run(state, views):
        merged = nnx.merge(graph, state)
        output = merged.loss(views, jnp.zeros(()))
        return output, nnx.as_pure(nnx.state(merged, nnx.Param))

    views = jax.jit(task.views)(jax.random.key(0), tiny.table_batch(name))
    output, after = run(nnx.as_pure(state), views)
    tiny.assert_same(after, tiny.arrays(nnx.as_pure(nnx.state(task, nnx.Param))))
    assert output.loss.shape == () and output.loss.dtype == jnp.float32 and jnp.isfinite(output.loss)
    np.testing.assert_array_equal(output.images, task.shown_images(views))
    if name not in PARTLY:
        pooled = task.backbone(output.images, train=True)["pooled"]
        np.testing.assert_allclose(output.features, pooled, rtol=1e-5, atol=1e-6)
    if not task.IMAGE_LOSSES:
        assert output.image_losses is None
        return
    assert output.image_losses.shape == (8,) and len(np.unique(output.image_losses)) > 4
    np.testing.assert_allclose(np.mean(output.image_losses), output.loss, rtol=1e-5, atol=1e-6)
    back, _ = run(nnx.as_pure(state), reversed_images(views))
    np.testing.assert_allclose(back.image_losses[::-1], output.image_losses, rtol=1e-3, atol=1e-5)


def test_all_tasks_but_those_that_compare_dimensions_have_losses_of_images():
    without = {name for name, task in pretext.TASKS.items() if not task.IMAGE_LOSSES}
    assert without == {"barlow_twins", "vicreg"}


SEEN = {"rotation": 4, "npid": 1, "moco_v1": 1, "moco_v2": 1, "densecl": 1, "simclr": 2, "byol": 2, "dino": 2}


@pytest.mark.parametrize("name, views", SEEN.items())
def test_views_of_one_image_lie_side_by_side(name, views):
    task = tiny.table_task(name, views=tiny.STILL)
    shades = jnp.arange(8, dtype=jnp.uint8) * 20
    batch = {"image": jnp.broadcast_to(shades[:, None, None, None], (8, 16, 16, 3)), "index": jnp.arange(8)}
    seen = task.shown_images(task.views(jax.random.key(0), batch))
    np.testing.assert_allclose(seen.mean(axis=(1, 2, 3)) * 255, np.repeat(np.arange(8) * 20, views), atol=1e-3)


@pytest.mark.parametrize("name", marked(["byol"]))
def test_tasks_of_volumes_train_on_volumes(name):
    if 3 not in pretext.TASKS[name].DIMENSIONS:
        pytest.skip("for images alone")
    body = tiny.table_body(name, channels=1, dimensions=3)
    task = tiny.table_task(name, body, preset="ct", views={"size": 8, "blur_probability": 0.0})
    voxels = np.random.default_rng(0).integers(-1000, 400, (8, 10, 9, 8, 1)).astype(np.int16)
    views = task.views(jax.random.key(0), {"image": jnp.asarray(voxels), "index": jnp.arange(8)})
    output = tiny.loss(task, views)
    # Whole views, or patches of them.
    assert np.isfinite(output.loss) and output.images.shape[1:] in [(side, side, side, 1) for side in range(1, 9)]
    assert output.features.shape == (len(output.images), body.features)


@pytest.mark.parametrize("name", marked(["relative_location", "inpainting", "densecl"]))
def test_every_task_takes_a_vit(name):
    sizes = {"channels": 1, "dimensions": 3} if tiny.of_volumes(name) else {}
    graph, params, rest = split_state(tiny.table_task(name, tiny.vit(**sizes)))

    def loss(params, rest, batch):
        task = nnx.merge(graph, params, rest)
        return task.loss(task.views(jax.random.key(0), batch), 0.0)

    output = jax.eval_shape(loss, params, rest, tiny.table_batch(name))
    assert output.features.shape == (len(output.images), 24)


@pytest.mark.slow
@pytest.mark.parametrize("name", pretext.TASKS)
def test_run_taken_up_in_the_middle_ends_in_the_same_bits(name, tmp_path, no_events, monkeypatch):  # noqa: F811
    """On one device: that a checkpoint of eight is restored does not depend on the task."""
    tiny.use_devices(monkeypatch, 1)

    def fit(directory, steps, **options):
        config = tiny.table_stage(name, steps=4)
        batches = data.Batches(tiny.table_split(name), batch_size=8, seed=0)
        task = tiny.task(config, tiny.table_body(name))
        return tiny.fit(task, config, directory, batches=first(batches, steps), **options)

    def first(batches, steps):
        return lambda start: itertools.islice(batches(start), steps - start)

    whole = fit(tmp_path / "whole", 4).task
    with pytest.raises(StopIteration):
        fit(tmp_path / "halves", 2)
    tiny.assert_same(fit(tmp_path / "halves", 4).task, whole)


@pytest.mark.parametrize("name", marked())
def test_views_depend_on_the_key_and_on_stored_images_alone(name):
    task = tiny.table_task(name)
    seen = jax.jit(lambda key, batch: task.shown_images(task.views(key, batch)))
    first, again, other = (seen(jax.random.key(k), tiny.table_batch(name)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    batch = tiny.table_batch(name)
    with pytest.raises(TypeError, match="uint8|int16"):
        task.views(jax.random.key(0), {**batch, "image": batch["image"].astype(jnp.float32)})


def test_unknown_task_names_the_known_ones():
    known = ", ".join(sorted(pretext.TASKS))
    with pytest.raises(ValueError, match=f"unknown pretext task 'guesswork': known are {known}"):
        pretext.make_task("guesswork", tiny.Linear(), augment.Views(), pretext.Setting(8, 8), {}, rngs=nnx.Rngs(0))


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
    average = Average(source)
    start = {name: value.astype(np.float64) for name, value in tiny.arrays(average.parameters(source)).items()}
    online = {name: value + 1 for name, value in start.items()}
    nnx.update(source, jax.tree.map(lambda x: x + 1, nnx.state(source)))
    average.update(source, 0.9)
    for name, value in tiny.arrays(average.parameters(source)).items():
        np.testing.assert_allclose(value, 0.9 * start[name] + 0.1 * online[name], rtol=1e-6)


def test_averaged_module_is_the_source_with_other_parameters_and_leaves_no_trace():
    source = tiny.Normed(size=2)
    average = Average(source)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 2, 3)), jnp.float32)
    expected = nnx.clone(source)(x, train=True)["pooled"]
    nnx.update(source, jax.tree.map(lambda leaf: -leaf, nnx.state(source, nnx.Param)))
    before = tiny.arrays(source)
    np.testing.assert_array_equal(average.module(source)(x, train=True)["pooled"], expected)
    tiny.assert_same(source, before)


@pytest.mark.parametrize("start", [0.99, 0.996])
def test_rising_momentum_goes_along_a_cosine_from_its_start_to_exactly_one(start):
    progress = np.linspace(0, 1, 5)
    values = [float(jax.jit(raise_momentum, static_argnums=0)(start, jnp.float32(p))) for p in progress]
    np.testing.assert_allclose(values, 1 - (1 - start) * (np.cos(np.pi * progress) + 1) / 2, rtol=1e-6)
    assert values[0] == np.float32(start) and values[-1] == 1
    assert values == sorted(values)


class TestSharesOfASpec:
    def test_presets_and_users_have_their_say_over_both_views(self):
        shares = pretext.TASKS["byol"].SHARES
        published, skin = (augment.Views(**tiny.stage("byol", preset=p, views={}).views) for p in PRESETS)
        blur, solarised = "blur_probability", "solarise_probability"
        first, second = (two_views.scaled(published, part) for part in shares)
        assert (getattr(first, blur), getattr(second, blur)) == (1.0, 0.1)
        assert (getattr(first, solarised), getattr(second, solarised)) == (0.0, 0.2)
        first, second = (two_views.scaled(skin, part) for part in shares)
        assert getattr(first, solarised) == getattr(second, solarised) == 0
        assert first.hue == second.hue == 0.05 and second.blur_probability == 0.1
        user = dataclasses.replace(published, blur_probability=0.5)
        assert [two_views.scaled(user, part).blur_probability for part in shares] == [0.5, 0.05]

    def test_a_field_the_spec_lacks_is_passed_over(self):
        spec = Contrast(contrast=0.5)
        assert two_views.scaled(spec, {"contrast": 0.5, "solarise_probability": 0.0}) == Contrast(contrast=0.25)

    def test_each_view_is_drawn_by_its_own_part(self):
        """Solarised always: what of BYOL's second view is bright is inverted, the first is left alone."""
        task = tiny.table_task("byol", views={**tiny.STILL, "solarise_probability": 1.0})
        views = task.views(jax.random.key(0), tiny.batch())
        image = np.asarray(tiny.batch()["image"]) / 255
        np.testing.assert_allclose(views["first"], image, atol=1e-5)
        np.testing.assert_allclose(views["second"], np.where(image >= 0.5, 1 - image, image), atol=1e-5)


PRESETS = ("natural", "dermoscopy")


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A spec with a field less than that of images has."""

    contrast: float


def test_rows_are_normalised_and_a_zero_row_has_a_finite_gradient():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(normalise(rows), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    gradient = jax.grad(lambda x: normalise(x).sum())(rows)
    assert np.isfinite(gradient).all()
