"""CIE Lab against the standard pixel by pixel and published values, and the bins of its colours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.augment import lab

pytestmark = pytest.mark.slow


def reference_lab(red, green, blue) -> tuple[float, float, float]:
    """One pixel, by the standard's steps: gamma, XYZ, white point, cube root."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue))
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.0890
    fx, fy, fz = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def test_lab_is_that_of_the_standard():
    image = np.random.default_rng(0).uniform(size=(8, 9, 3))
    image[0, :3] = [[0, 0, 0], [1, 1, 1], [0.01, 0.02, 0.03]]
    expected = [[reference_lab(*pixel) for pixel in row] for row in image]
    np.testing.assert_allclose(jax.jit(lab.to_lab)(jnp.asarray(image, jnp.float32)), expected, atol=0.02)


def test_primaries_are_where_the_tables_have_them():
    primaries = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    table = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(lab.to_lab(primaries), table, atol=0.05)


def test_grey_of_the_same_lightness():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 5, 3)), jnp.float32)
    grey = jax.jit(lambda x: lab.to_lab(lab.lightness_as_grey(x)))(image)
    np.testing.assert_allclose(grey[..., 0], lab.to_lab(image)[..., 0], atol=0.02)
    np.testing.assert_allclose(grey[..., 1:], 0, atol=0.02)


class TestBins:
    def test_there_are_261_on_the_grid_grey_among_them(self):
        bins = lab.colour_bins()
        assert bins.shape == (261, 2) and len(np.unique(bins, axis=0)) == 261
        assert not (bins % 10).any() and (bins == 0).all(axis=1).any()

    def test_colours_find_the_nearest(self):
        bins = lab.colour_bins()
        ab = np.random.default_rng(0).uniform(-120, 120, (400, 2))
        found = np.asarray(lab.nearest_bin(jnp.asarray(ab, jnp.float32)))
        distance = np.linalg.norm(ab[:, None] - bins, axis=-1)
        inside = distance.min(axis=1) < 5
        np.testing.assert_array_equal(found[inside], distance.argmin(axis=1)[inside])
        np.testing.assert_array_equal(lab.nearest_bin(jnp.asarray(bins)), np.arange(261))
