"""CKA against its definition by kernels, and on features whose similarity is known."""

import numpy as np
import pytest

from aiseeme_jax.evidence.similarity import cka


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def by_kernels(x, y):
    """As Song et al. write it, with N x N kernels that are not centred."""
    n, one = len(x), np.ones(len(x))

    def hsic(k, m):
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_is_the_ratio_of_unbiased_estimates():
    x = normal(30, 5) + 3.0
    y = x[:, :3] @ normal(3, 7, seed=1) + 0.5 * normal(30, 7, seed=2)
    assert cka(x, y) == pytest.approx(by_kernels(x, y), rel=1e-9)


@pytest.mark.parametrize("rows, features", [(100, 64), (100, 512), (500, 512)])
def test_of_independent_features_is_nothing(rows, features):
    found = [cka(normal(rows, features, seed=s), normal(rows, features, seed=s + 100)) for s in range(5)]
    assert abs(np.mean(found)) < 0.05


def test_does_not_change_with_rotation_scale_and_offset():
    x = normal(40, 6)
    rotation = np.linalg.qr(normal(6, 6, seed=3))[0]
    assert cka(x, 5 * x @ rotation + 100) == pytest.approx(1)
    y = normal(40, 4, seed=5) + x[:, :4]
    assert cka(x @ rotation + 1, y) == pytest.approx(cka(x, y)) == pytest.approx(cka(y, x))


def test_of_features_that_do_not_vary_is_undefined():
    assert np.isnan(cka(np.ones((10, 3)), normal(10, 3)))


@pytest.mark.parametrize(
    "x, y, message",
    [
        (normal(5, 2), normal(6, 2), "same images, got 5 and 6 rows"),
        (normal(3, 2), normal(3, 2), "at least 4 images, got 3"),
        (normal(5), normal(5, 2), r"features \[N, D\], got x \(5,\)"),
        (normal(5, 2), np.full((5, 2), np.nan), "finite features, y has others"),
    ],
)
def test_what_cannot_be_compared_is_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        cka(x, y)
