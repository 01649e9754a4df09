"""Geometry against Pillow, NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from aiseeme_jax import augment
from aiseeme_jax.augment import geometry


def random_image(height=37, width=50, channels=3, seed=0):
    return np.random.default_rng(seed).random((height, width, channels)).astype(np.float32)


def pillow_crop(image, box, size):
    """Pillow's resize of a box with fractional corners, in float32, one channel at a time."""
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    planes = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR, box=corners))
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (geometry.Box(0.0, 0.0, 37.0, 50.0), 16),  # the whole image, smaller: antialiased
        (geometry.Box(3.25, 10.5, 12.0, 9.75), 32),  # a part, larger
        (geometry.Box(0.0, 20.0, 37.0, 12.5), 20),  # smaller in one direction, larger in the other
    ],
)
def test_crop_is_pillows_bilinear_resize(box, size):
    image = random_image()
    np.testing.assert_allclose(geometry.crop_resize(image, box, size), pillow_crop(image, box, size), atol=1e-5)


def test_crop_of_the_whole_image_at_its_own_size_changes_nothing():
    image = random_image(24, 24)
    crop = geometry.crop_resize(image, geometry.Box(0.0, 0.0, 24.0, 24.0), 24)
    np.testing.assert_array_equal(crop, image)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_flips_are_exact(rows, columns):
    image = random_image(24, 24)
    box = geometry.flip(geometry.Box(0.0, 0.0, 24.0, 24.0), jnp.asarray(rows), jnp.asarray(columns))
    expected = image[:: -1 if rows else 1, :: -1 if columns else 1]
    np.testing.assert_array_equal(geometry.crop_resize(image, box, 24), expected)


def test_flip_of_a_crop_is_the_flipped_crop():
    image, box = random_image(), geometry.Box(3.25, 10.5, 12.0, 9.75)
    crop = geometry.crop_resize(image, box, 16)
    flipped = geometry.crop_resize(image, geometry.flip(box, jnp.asarray(True), jnp.asarray(False)), 16)
    np.testing.assert_allclose(flipped, crop[::-1], atol=1e-5)


def test_quarter_turns_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), np.uint8)
    turns = np.array([0, 1, 2, 3, 5, -1])
    turned = augment.rotate90(jnp.asarray(images), jnp.asarray(turns))
    assert turned.dtype == jnp.uint8
    for image, turn, result in zip(images, turns, turned, strict=True):
        np.testing.assert_array_equal(result, np.rot90(image, turn))


def test_quarter_turn_of_an_oblong_image_is_refused():
    with pytest.raises(ValueError, match=r"square.*\(2, 8, 9, 3\)"):
        augment.rotate90(jnp.zeros((2, 8, 9, 3)), jnp.zeros(2, int))


@pytest.mark.parametrize("turn", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("side", [8, 9])
def test_rotation_by_right_angles_is_numpys(turn, side):
    image = random_image(side, side)
    np.testing.assert_allclose(geometry.rotate(image, 90.0 * turn), np.rot90(image, turn), atol=1e-5)


def test_rotation_is_scipys_with_a_reflected_border():
    image = random_image(33, 33)
    # scipy turns the axes, (row, column), from the first towards the second: counter-clockwise to the eye.
    expected = ndimage.rotate(image, 25.0, reshape=False, order=1, mode="reflect")
    inner = np.s_[2:-2, 2:-2]
    np.testing.assert_allclose(geometry.rotate(image, 25.0)[inner], expected[inner], atol=1e-4)


def test_rotation_fills_a_view_from_a_canvas_of_the_margin():
    """The corners of the view lie inside the canvas at every angle up to the largest."""
    for largest in (5.0, 30.0, 45.0, 180.0):
        half = 50.0
        canvas = half * geometry.rotation_margin(largest)
        angles = np.deg2rad(np.linspace(-largest, largest, 721))
        corner = half * (np.abs(np.cos(angles)) + np.abs(np.sin(angles)))
        assert corner.max() == pytest.approx(canvas, rel=1e-5)


def test_random_boxes_keep_to_their_ranges():
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(geometry.random_box(key, 60, 80, (0.2, 0.9), (0.5, 2.0)))))
    top, left, height, width = np.asarray(draw(jax.random.split(jax.random.key(0), 4000))).T
    share, ratio = height * width / (60 * 80), width / height
    assert top.min() >= -1e-4 and left.min() >= -1e-4
    assert (top + height).max() <= 60 + 1e-3 and (left + width).max() <= 80 + 1e-3
    assert 0.2 - 1e-4 < share.min() < 0.22 and 0.85 < share.max() < 0.9 + 1e-4
    assert 0.5 - 1e-4 < ratio.min() < 0.55 and 1.9 < ratio.max() < 2.0 + 1e-4


def test_box_that_never_fits_falls_back_to_the_largest_allowed():
    box = geometry.random_box(jax.random.key(0), 20, 80, (1.0, 1.0), (1.0, 1.0))
    assert float(box.height) == pytest.approx(20) and float(box.width) == pytest.approx(20)


def test_whole_image_box_is_the_whole_image():
    for seed in range(20):
        box = geometry.random_box(jax.random.key(seed), 48, 48, (1.0, 1.0), (1.0, 1.0))
        np.testing.assert_allclose(np.asarray(box), [0, 0, 48, 48], atol=1e-3)
