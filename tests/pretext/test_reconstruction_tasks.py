"""Context restoration, Models Genesis, inpainting: what is damaged, and what the loss compares."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment, pretext
from aiseeme_jax.pretext.models_genesis import ModelsGenesis

pytestmark = pytest.mark.slow

TASKS = ("context_restoration", "models_genesis", "inpainting")


class Last(nnx.Module):
    """In the place of the decoder: the last map as it is, of a backbone that gives its images."""

    def __call__(self, endpoints, *, train):
        return endpoints["stage4"]


class Images(nnx.Module):
    """A backbone whose map is the image."""

    features, channels = 3, 3

    def __call__(self, x, *, train):
        return {"stage4": x, "pooled": x.mean(axis=(1, 2))}


def drawn(name: str, **fields):
    """A task that restores nothing, and views of it."""
    task = tiny.table_task(name, Images(), views=tiny.STILL, **fields)
    task.decoder = Last()
    return task, jax.jit(task.views)(jax.random.key(0), tiny.batch())


def test_context_restoration_compares_the_whole_view_with_what_was_swapped():
    task, views = drawn("context_restoration")
    assert (task.patch, task.swaps) == (2, 10)
    image, target = (np.asarray(views[name], np.float64) for name in ("image", "target"))
    np.testing.assert_allclose(target, np.asarray(tiny.batch()["image"]) / 255, atol=1e-5)
    for damaged, whole in zip(image, target, strict=True):
        changed = (damaged != whole).any(axis=-1).mean()
        assert 0.05 < changed <= 10 * 2 * 2**2 / 16**2
        np.testing.assert_array_equal(np.sort(damaged, axis=None), np.sort(whole, axis=None))
    assert float(task.loss(views, 0.0).loss) == pytest.approx(np.square(image - target).mean(), rel=1e-5)


def test_inpainting_compares_the_holes_alone():
    task, views = drawn("inpainting")
    assert (task.holes, task.side) == (4, 4)  # a quarter of 16 x 16 at most
    image, target, hole = (np.asarray(views[name], np.float64) for name in ("image", "target", "hole"))
    area = hole.sum(axis=(1, 2, 3))
    assert area.max() <= 64 and area.min() >= 16 and len(set(area)) > 1
    np.testing.assert_array_equal(image, np.where(hole, 0, target))
    error = np.square(target)[np.broadcast_to(hole, target.shape) == 1].mean()
    assert float(task.loss(views, 0.0).loss) == pytest.approx(error, rel=1e-5)


class TestModelsGenesis:
    VIEWS = augment.Views(size=16)

    @pytest.fixture(scope="class")
    def damage(self):
        """`damage` of one view with each of many keys, in [0, 1], given the four probabilities; compiled once."""

        def run(rates, keys, view):
            names = ("shuffling", "bending", "painting", "outside")
            task = SimpleNamespace(spec=self.VIEWS, **dict(zip(names, rates, strict=True)))
            damaged = jax.vmap(lambda key: ModelsGenesis.damage(task, key, augment.from_display(view, self.VIEWS)))
            return augment.to_display(damaged(keys), self.VIEWS)

        jitted, view = jax.jit(run), tiny.images(1)[0] / np.float32(255)
        return lambda *rates: np.asarray(jitted(jnp.array(rates), jax.random.split(jax.random.key(0), 200), view)), view

    def test_nothing_of_probability_zero_happens(self, damage):
        run, view = damage
        np.testing.assert_allclose(run(0.0, 0.0, 0.0, 0.8), np.broadcast_to(view, (200, *view.shape)), atol=1e-5)

    def test_shuffling_keeps_every_pixel_near_where_it_was(self, damage):
        run, view = damage
        for shuffled in run(1.0, 0.0, 0.0, 0.8)[:20]:
            assert np.abs(shuffled - view).max() > 0.05
            np.testing.assert_allclose(np.sort(shuffled, axis=None), np.sort(view, axis=None), atol=1e-5)

    def test_bending_is_one_curve_for_the_image_and_half_of_them_fall(self, damage):
        run, view = damage
        order = np.argsort(view, axis=None)
        steps = np.diff(run(0.0, 1.0, 0.0, 0.8).reshape(200, -1)[:, order], axis=1)
        falling, rising = ((sign * steps > -1e-4).all(axis=1) for sign in (-1, 1))
        assert (falling ^ rising).all() and 0.35 < falling.mean() < 0.65

    @pytest.mark.parametrize("outside", [0.0, 1.0])
    def test_paint_is_noise_inside_boxes_or_outside_of_them(self, damage, outside):
        run, view = damage
        painted = np.abs(run(0.0, 0.0, 1.0, outside) - view).max(axis=-1) > 1e-4
        rim = np.ones((16, 16), bool)
        rim[3:-3, 3:-3] = False
        assert painted[:, rim].mean() == pytest.approx(outside, abs=0.01)
        assert (0.3 < painted.mean() < 0.95) if outside else (0.01 < painted.mean() < 0.4)

    def test_paint_comes_as_often_as_published(self, damage):
        run, view = damage
        defaults = pretext.task_fields("models_genesis")
        assert defaults == {"shuffling": 0.5, "bending": 0.9, "painting": 0.9, "outside": 0.8}
        rates = [0.0, 0.0, *list(defaults.values())[2:]]
        painted = np.abs(run(*rates) - view).max(axis=-1) > 1e-4
        assert painted[:, 0].mean(axis=1).round().mean() == pytest.approx(0.72, abs=0.1)
        assert painted.any(axis=(1, 2)).mean() == pytest.approx(0.9 * (0.8 + 0.2 * 0.95), abs=0.07)

    def test_loss_is_the_squared_error_of_the_whole_view(self):
        task, views = drawn("models_genesis")
        image, target = (np.asarray(views[name], np.float64) for name in ("image", "target"))
        assert float(task.loss(views, 0.0).loss) == pytest.approx(np.square(image - target).mean(), rel=1e-5)


class Halved(Images):
    """Two maps, the last of half the size."""

    def __call__(self, x, *, train):
        return {"stage1": x, "stage4": x[:, ::2, ::2], "pooled": x.mean(axis=(1, 2))}


@pytest.mark.parametrize("name", TASKS)
def test_the_finer_map_is_for_models_genesis_alone(name):
    decoder = tiny.table_task(name, Halved()).decoder
    assert decoder.steps == ((16, "stage1" if name == "models_genesis" else None),)


@pytest.mark.parametrize(
    "name, fields, message",
    [
        (
            "context_restoration",
            {"patch": 6},
            "a patch of 6 px leaves no place apart from it in a view of 16 px; .* most 5",
        ),
        ("models_genesis", {"bending": 1.1}, "`bending` is a probability, not 1.1"),
        ("inpainting", {"share": 1.0}, r"`share` lies in \(0, 1\) and `holes` is at least 1, not 1.0 and 4"),
        ("inpainting", {"share": 0.01, "holes": 100}, "100 holes in 0.01 of a view of 16 px have no whole pixel each"),
    ],
)
def test_what_cannot_be_is_an_error(name, fields, message):
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        tiny.table_task(name, **fields)


@pytest.mark.parametrize("name", TASKS)
def test_volumes_are_damaged_and_restored_as_images_are(name):
    body = tiny.Pixels(channels=1)
    task = tiny.table_task(name, body, preset="ct", views=tiny.PLAIN_VOLUMES)
    batch = {"image": jnp.asarray(tiny.volumes(2))}
    views = jax.jit(task.views)(jax.random.key(0), batch)
    assert views["image"].shape == views["target"].shape == (2, 16, 16, 16, 1)
    changed = (np.asarray(views["image"]) != views["target"]).mean(axis=(1, 2, 3, 4))
    assert (changed > 0.02).all()
    output = tiny.loss(task, views)
    assert np.isfinite(output.loss) and output.features.shape == (2, 6)
