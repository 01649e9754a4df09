"""Blur against SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from aiseeme_jax.augment import blur


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("shape", [(20, 31, 3), (16, 16, 1)])
def test_blur_is_scipys(sigma, shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = ndimage.gaussian_filter(image, sigma, axes=(0, 1), mode="reflect", truncate=8.0)
    np.testing.assert_allclose(blur.gaussian_blur(image, sigma), expected, atol=2e-6)


def test_sigma_zero_changes_nothing():
    image = np.random.default_rng(0).random((9, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(blur.gaussian_blur(image, 0.0), image)
