"""Tasks of volumes: is the label what was done to them?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.pretext import rotation3d

pytestmark = pytest.mark.slow

# A view is the volume.
STILL = tiny.PLAIN_VOLUMES | {"crop_scale": (1.0, 1.0), "flip_x": 0.0}
TURNS = [(0, (1, 2)), *((k, axes) for axes in ((1, 2), (0, 2), (0, 1)) for k in (1, 2, 3))]


class TestRotation3D:
    def test_the_ten_rotations_differ_and_can_be_undone(self):
        cube = np.arange(27).reshape(3, 3, 3, 1)
        numbers = jnp.array(rotation3d.TURNS)
        turned = np.asarray(augment.rotate_cube(jnp.broadcast_to(cube, (10, *cube.shape)), numbers))
        assert len({t.tobytes() for t in turned}) == len(TURNS) == 10
        for ours, (times, axes) in zip(turned, TURNS, strict=True):
            np.testing.assert_array_equal(ours, np.rot90(cube, times, axes))
            assert any((np.rot90(ours, *back) == cube).all() for back in TURNS)

    def test_label_is_the_rotation(self):
        task = tiny.table_task("rotation3d", views=STILL)
        volumes = jnp.asarray(tiny.volumes(24))
        views = jax.jit(task.views)(jax.random.key(0), {"image": volumes})
        whole = np.asarray(augment.central_view(volumes, task.spec))
        for view, label, image in zip(views["image"], views["label"].tolist(), whole, strict=True):
            np.testing.assert_allclose(view, np.rot90(image, *TURNS[label]), atol=1e-5)
        assert len(set(views["label"].tolist())) > 6

    def test_loss_is_the_cross_entropy_over_ten(self):
        task = tiny.table_task("rotation3d")
        views = jax.jit(task.views)(jax.random.key(0), tiny.table_batch("rotation3d"))
        output = tiny.loss(task, views)
        logits = np.asarray(output.features, np.float64) @ np.asarray(task.head.kernel)
        assert logits.shape == (8, 10)
        assert float(output.loss) == pytest.approx(tiny.cross_entropy(logits, np.asarray(views["label"])), rel=1e-5)

    def test_volumes_that_may_have_been_turned_before_are_kept_from_it(self):
        views = augment.VolumeViews(**tiny.stage("rotation3d", preset="ct", views={}).views)
        assert (views.right_angles, views.flip_z, views.flip_y, views.flip_x) == (False, 0.0, 0.0, 0.5)


class CellNumber(nnx.Module):
    """Pooled features: the number written into a patch, one-hot."""

    features, channels = 27, 1

    def __call__(self, x, *, train):
        return {"pooled": jax.nn.one_hot(x[:, 0, 0, 0, 0].astype(jnp.int32), 27)}


class Through(nnx.Module):
    """In the place of the hidden layer."""

    def __call__(self, pairs, *, train):
        return pairs


class Pair(nnx.Module):
    """In the place of the head: reads the neighbour's number, and insists on the centre being cell 13."""

    def __call__(self, pairs):
        centre, neighbour = pairs[:, :27], pairs[:, 27:]
        return 50 * jnp.where(centre[:, 13:14] == 1, jnp.delete(neighbour, 13, axis=1), 0)


class TestRelativeLocation3D:
    def test_label_is_the_place_of_the_neighbour(self):
        task = tiny.table_task("relative_location3d", CellNumber(), dropout=0.0)
        assert task.head.kernel.shape == (54, 26)
        task.hidden, task.head = Through(), Pair()
        numbers = jnp.broadcast_to(jnp.arange(27.0)[None, :, None, None, None, None], (2, 27, 2, 2, 2, 1))
        output = tiny.loss(task, {"patches": numbers, "dropout": jax.random.key(0)})
        assert float(output.metrics["accuracy"]) == 1 and float(output.loss) < 1e-6
        assert output.images.shape == (54, 2, 2, 2, 1)

    def test_patches_are_cubes_of_their_cells_normalised_one_by_one(self):
        task = tiny.table_task("relative_location3d")
        patches = jax.jit(task.views)(jax.random.key(0), tiny.table_batch("relative_location3d", 2))["patches"]
        patches = np.asarray(patches)
        assert patches.shape == (2, 27, 3, 3, 3, 1)
        np.testing.assert_allclose(patches.mean(axis=(2, 3, 4)), 0, atol=1e-5)
        np.testing.assert_allclose(patches.std(axis=(2, 3, 4)), 1, atol=1e-3)

    def test_patch_larger_than_its_cell_is_an_error(self):
        with pytest.raises(ValueError, match="relative_location3d: a patch of 6 px does not fit a cell of 5 px"):
            tiny.table_task("relative_location3d", patch=6)


@pytest.mark.parametrize("name", ["rotation", "relative_location"])
def test_each_kind_of_views_is_sent_to_its_own_task(name):
    with pytest.raises(ValueError, match=rf"{name} needs 2-D images, .* is 3; take '{name}3d' instead"):
        tiny.task(tiny.stage(name, preset="ct", views={}), tiny.Pixels(channels=1))
    with pytest.raises(ValueError, match=rf"{name}3d needs volumes, .* is 2; take '{name}' instead"):
        tiny.task(tiny.stage(f"{name}3d"), tiny.Pixels())


def test_jigsaw_needs_images():
    with pytest.raises(ValueError, match="jigsaw needs 2-D images, and views.dimensions is 3"):
        tiny.task(tiny.stage("jigsaw", preset="ct", views={}), tiny.Pixels(channels=1))
