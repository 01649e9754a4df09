"""Patches of a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax import augment


def coordinates(batch, height, width):
    """Images whose channels say where a pixel lies and which image it belongs to."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    numbers = np.broadcast_to(np.arange(batch)[:, None, None], (batch, height, width))
    places = [np.broadcast_to(x, numbers.shape) for x in (rows, columns)]
    return jnp.asarray(np.stack([*places, numbers], axis=-1).astype(np.uint8))


@pytest.mark.slow
def test_each_patch_is_cut_from_its_cell():
    images = coordinates(5, 46, 46)  # cells of 15, one pixel left over
    patches = np.asarray(augment.patches(jax.random.key(0), images, size=10, jitter=5))
    assert patches.shape == (5, 9, 10, 10, 3) and patches.dtype == np.uint8
    offsets = set()
    for number in range(5):
        for cell in range(9):
            patch = patches[number, cell].astype(int)
            assert (patch[..., 2] == number).all()
            top, left = patch[0, 0, 0], patch[0, 0, 1]
            np.testing.assert_array_equal(patch[..., 0] - top, np.arange(10)[:, None] + np.zeros((1, 10)))
            np.testing.assert_array_equal(patch[..., 1] - left, np.arange(10)[None] + np.zeros((10, 1)))
            offset = (top - 15 * (cell // 3), left - 15 * (cell % 3))
            assert all(0 <= o <= 5 for o in offset)
            offsets.add(offset)
    assert {o for pair in offsets for o in pair} == set(range(6))


@pytest.mark.slow
def test_without_jitter_patches_lie_in_the_middle_of_their_cells():
    patches = np.asarray(augment.patches(jax.random.key(0), coordinates(1, 24, 24), grid=2, size=6, jitter=0))
    np.testing.assert_array_equal(patches[0, :, 0, 0, :2], [[3, 3], [3, 15], [15, 3], [15, 15]])


def test_normalised_patches_have_no_colour_cast():
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.integers(0, 100, (2, 24, 24, 3)) + [0, 50, 150], jnp.uint8)
    patches = np.asarray(augment.patches(jax.random.key(0), images, size=6, jitter=2, normalise=True))
    np.testing.assert_allclose(patches.mean(axis=(2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(patches.std(axis=(2, 3)), 1, atol=1e-4)


def test_an_even_patch_stays_finite():
    patches = augment.patches(jax.random.key(0), jnp.full((1, 24, 24, 3), 7.0), size=6, jitter=2, normalise=True)
    np.testing.assert_array_equal(patches, np.zeros((1, 9, 6, 6, 3)))


@pytest.mark.slow
def test_patches_depend_on_key_and_place_in_the_batch_only():
    images = coordinates(4, 30, 30)
    key = jax.random.key(0)
    whole = augment.patches(key, images, size=7, jitter=3)
    np.testing.assert_array_equal(whole, augment.patches(key, images, size=7, jitter=3))
    np.testing.assert_array_equal(whole[:2], augment.patches(key, images[:2], size=7, jitter=3))
    assert (whole != augment.patches(jax.random.key(1), images, size=7, jitter=3)).any()


@pytest.mark.parametrize(("size", "jitter"), [(9, 2), (0, 0), (5, -1)])
def test_patch_that_does_not_fit_is_refused(size, jitter):
    with pytest.raises(ValueError, match=rf"patch of {size} px moved by up to {jitter} px .* cell of 10 px"):
        augment.patches(jax.random.key(0), jnp.zeros((1, 30, 30, 3)), size=size, jitter=jitter)


def test_patches_of_volumes_are_cubes_plane_by_plane():
    places = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), axis=-1).astype(np.float32)
    cut = jax.jit(lambda key, volumes: augment.patches(key, volumes, size=3, jitter=2))
    patches = np.asarray(cut(jax.random.key(0), jnp.asarray(places)[None]))
    assert patches.shape == (1, 27, 3, 3, 3, 3)
    corners, cells = patches[0, :, 0, 0, 0], np.argwhere(np.ones((3, 3, 3)))
    np.testing.assert_array_equal(
        patches[0] - corners[:, None, None, None], np.broadcast_to(places[:3, :3, :3], (27, 3, 3, 3, 3))
    )
    offsets = corners - 5 * cells
    assert set(offsets.ravel().tolist()) == {0.0, 1.0, 2.0}
