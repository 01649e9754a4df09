"""Rotation and relative location: is the label what was done to the image?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment

NEIGHBOUR_CELLS = (0, 1, 2, 3, 5, 6, 7, 8)


class BrightSide(nnx.Module):
    """Pooled features: brightness of the top, left, bottom and right quarter of the view."""

    features, channels = 4, 3

    def __call__(self, x, *, train):
        quarter = x.shape[1] // 4
        sides = (x[:, :quarter], x[:, :, :quarter], x[:, -quarter:], x[:, :, -quarter:])
        return {"pooled": jnp.stack([side.mean(axis=(1, 2, 3)) for side in sides], axis=1)}


class CellNumber(nnx.Module):
    """Pooled features: the number written into a patch, one-hot."""

    features, channels = 9, 3

    def __call__(self, x, *, train):
        return {"pooled": jax.nn.one_hot(x[:, 0, 0, 0].astype(jnp.int32), 9)}


class Through(nnx.Module):
    """In the place of the hidden layer."""

    def __call__(self, pairs, *, train):
        return pairs


class Ones(nnx.Module):
    """In the place of the hidden layer: the same everywhere."""

    def __call__(self, pairs, *, train):
        return jnp.ones((len(pairs), 64))


class Pair(nnx.Module):
    """In the place of the head: reads the neighbour's one-hot number, and insists on the centre being cell 4."""

    def __call__(self, pairs):
        centre, neighbour = pairs[:, :9], pairs[:, 9:]
        return 50 * jnp.where(centre[:, 4:5] == 1, neighbour[:, jnp.array(NEIGHBOUR_CELLS)], 0)


class TestRotation:
    @pytest.mark.slow
    def test_label_is_the_number_of_left_turns(self):
        image = np.zeros((4, 16, 16, 3), np.uint8)
        image[:, :4] = 255  # a bright top: a left turn makes it a bright left
        still = tiny.STILL | {"flip_horizontal": 0.5}
        task = tiny.task(tiny.stage("rotation", batch=4, views=still), BrightSide(), images=4)
        task.head.kernel.set_value(50 * jnp.eye(4))
        output = task.loss(task.views(jax.random.key(0), {"image": jnp.asarray(image)}), 0.0)
        assert float(output.metrics["accuracy"]) == 1
        assert float(output.loss) < 1e-6

    @pytest.mark.slow
    def test_loss_is_the_cross_entropy_over_all_four_turns(self):
        task = tiny.task(tiny.stage("rotation"), tiny.Linear())
        views = task.views(jax.random.key(0), tiny.batch())
        image = np.asarray(views["image"])
        logits = []
        for turns in range(4):
            turned = np.rot90(image, turns, axes=(1, 2)).reshape(8, -1).astype(np.float64)
            logits.append(turned @ task.backbone.map.kernel.get_value() @ task.head.kernel.get_value())
        expected = tiny.cross_entropy(np.concatenate(logits), np.repeat(np.arange(4), 8))
        output = task.loss(views, 0.0)
        assert float(output.loss) == pytest.approx(expected, rel=1e-5)
        correct = np.mean([np.argmax(z, axis=1) == k for k, z in enumerate(logits)])
        assert float(output.metrics["accuracy"]) == pytest.approx(correct)


class TestRelativeLocation:
    def make(self, body, **changes):
        config = tiny.stage("relative_location", **changes)
        return tiny.task(config, body, images=24)

    @pytest.mark.slow
    def test_label_is_the_place_of_the_neighbour(self):
        task = self.make(CellNumber(), dropout=0.0)
        task.hidden, task.head = Through(), Pair()
        numbers = jnp.broadcast_to(jnp.arange(9.0)[None, :, None, None, None], (8, 9, 3, 3, 3))
        output = task.loss({"patches": numbers, "dropout": jax.random.key(0)}, 0.0)
        assert float(output.metrics["accuracy"]) == 1
        assert float(output.loss) < 1e-6

    @pytest.mark.slow
    def test_dropout_falls_on_the_hidden_layer(self):
        task = self.make(tiny.Linear(8), dropout=0.5, patch=5)
        seen = []

        class Recorder(nnx.Module):
            def __call__(self, hidden):
                seen.append(np.asarray(hidden))
                return hidden[:, :8]

        task.head = Recorder()
        views = task.views(jax.random.key(0), tiny.batch(8))
        task.hidden, task.backbone = Ones(), CellNumber()
        task.loss(views, 0.0)
        (dropped,) = seen
        assert set(np.unique(dropped)) == {0.0, 2.0} and 0.4 < (dropped == 0).mean() < 0.6

    @pytest.mark.slow
    def test_patches_come_from_their_cells_apart_from_one_another(self):
        size = 33  # cells of 11 px, patches of 8
        task = self.make(tiny.Linear(8), views={**tiny.STILL, "size": size}, patch=8)
        image = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
        drawn = [task.views(jax.random.key(k), {"image": jnp.asarray(image)}) for k in range(5)]
        places = np.stack([found_in(image, views) for views in drawn])
        corners = places.reshape(-1, 3, 3, 2)
        cells = 11 * np.stack(np.meshgrid(range(3), range(3), indexing="ij"), axis=-1)
        assert (corners >= cells).all() and (corners + 8 <= cells + 11).all()
        gaps = np.concatenate([np.diff(corners[..., 0], axis=1).ravel(), np.diff(corners[..., 1], axis=2).ravel()]) - 8
        assert gaps.min() >= 1, "patches that touch let a line running through both give the answer away"
        assert len(set(gaps)) > 1, "without jitter the gap is always the same"

    @pytest.mark.slow
    def test_patches_are_normalised_one_by_one(self):
        patches = self.make(tiny.Linear(3)).views(jax.random.key(0), tiny.batch())["patches"]
        np.testing.assert_allclose(patches.mean(axis=(2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(patches.std(axis=(2, 3)), 1, atol=1e-4)

    @pytest.mark.slow
    def test_loss_is_the_cross_entropy_of_the_heads_answers(self):
        task = self.make(tiny.Linear(3), dropout=0.0)
        views = task.views(jax.random.key(0), tiny.batch())
        features = np.asarray(task.backbone(task.shown_images(views), train=True)["pooled"]).reshape(8, 9, -1)
        pairs = np.stack([np.concatenate([f[4], f[cell]]) for f in features for cell in NEIGHBOUR_CELLS])
        hidden = jax.nn.relu(nnx.clone(task.hidden)(jnp.asarray(pairs), train=True))
        logits = task.head(hidden)
        expected = tiny.cross_entropy(logits, np.tile(np.arange(8), 8))
        assert float(task.loss(views, 0.0).loss) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.slow
    def test_dropout_is_drawn_with_the_views_and_can_be_switched_off(self):
        for dropout, same in ((0.9, False), (0.0, True)):
            task = self.make(tiny.Linear(3), dropout=dropout)
            views = task.views(jax.random.key(0), tiny.batch())
            other = {**views, "dropout": jax.random.key(7)}
            assert (task.loss(views, 0.0).loss == task.loss(other, 0.0).loss) == same

    def test_patch_larger_than_its_cell_is_an_error(self):
        assert self.make(tiny.Linear(5), patch=5).patch == 5
        with pytest.raises(ValueError, match=r"a patch of 6 px does not fit a cell of 5 px \(views.size 16 / 3\)"):
            self.make(tiny.Linear(6), patch=6)


def found_in(images, views) -> np.ndarray:
    """Upper left corner [image, patch, 2] of each patch, found by comparing with every place of its image."""
    corners = []
    for image, patches in zip(images / 255.0, np.asarray(views["patches"]), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, patches.shape[1:3], axis=(0, 1))
        windows = np.moveaxis(windows, 2, -1)
        windows = windows - windows.mean(axis=(2, 3), keepdims=True)
        windows = windows / windows.std(axis=(2, 3), keepdims=True)
        for patch in patches:
            error = np.square(windows - patch).mean(axis=(2, 3, 4))
            assert error.min() < 1e-4, "the patch is nowhere in the image"
            corners.append(np.unravel_index(error.argmin(), error.shape))
    return np.array(corners).reshape(len(images), 9, 2)


def test_turned_or_mirrored_views_are_kept_from_tasks_that_cannot_bear_them():
    views = augment.Views(**tiny.stage("rotation", preset="dermoscopy").views)
    assert (views.flip_vertical, views.right_angles, views.rotation) == (0.0, False, 0.0)
    assert augment.Views(**tiny.stage("relative_location", preset="dermoscopy").views).rotation == 0.0
