"""CKA against its definition by kernels, and on features whose similarity is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.evidence.layers import LayerCka
from aiseeme_jax.evidence.similarity import cka, expect_biased, rbf_cka


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def by_kernels(x, y):
    """As Song et al. write it, with N x N kernels that are not centred."""
    return unbiased_ratio(x @ x.T, y @ y.T)


def unbiased_ratio(k, m):
    n, one = len(k), np.ones(len(k))

    def hsic(k, m):
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

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


def biased(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


@pytest.mark.parametrize("rows, p, q, found", [(100, 512, 512, 0.836), (500, 512, 512, 0.506), (64, 20, 500, 0.44)])
def test_the_bias_that_is_expected_is_that_of_independent_features(rows, p, q, found):
    drawn = np.mean([biased(normal(rows, p, seed=s), normal(rows, q, seed=s + 100)) for s in range(3)])
    assert drawn == pytest.approx(found, abs=0.03)
    assert expect_biased(rows, p, q) == pytest.approx(found, abs=0.03)


def test_rbf_cka_is_the_ratio_of_unbiased_estimates_by_their_definition():
    x, y = normal(20, 4), normal(20, 3, seed=1) + normal(20, 4)[:, :3]

    def kernel(x):
        squares = ((x[:, None] - x[None]) ** 2).sum(axis=2)
        width = 0.5**2 * np.median(squares[np.triu_indices(len(x), 1)])
        return np.exp(-squares / (2 * width))

    assert rbf_cka(x, y, bandwidth=0.5) == pytest.approx(unbiased_ratio(kernel(x), kernel(y)), rel=1e-9)
    assert rbf_cka(x, 3 * x + 1) == pytest.approx(1)
    null = [rbf_cka(normal(60, 8, seed=s), normal(60, 8, seed=s + 100)) for s in range(8)]
    assert abs(np.mean(null)) < 0.02
    assert np.isnan(rbf_cka(np.ones((6, 2)), normal(6, 2)))
    with pytest.raises(ValueError, match="bandwidth above 0"):
        rbf_cka(x, y, bandwidth=0)


def layers_of(rows):
    x = normal(rows, 3, 2, 4)
    return [x, x.reshape(rows, -1)[:, :5] @ normal(5, 9, seed=1) + 10, normal(rows, 6, seed=2)]


def test_one_batch_of_layers_gives_cka_of_all_pairs():
    layers, found = layers_of(40), LayerCka()
    found.add([jnp.asarray(layer) for layer in layers])
    flat = [layer.reshape(40, -1) for layer in layers]
    assert found.values() == pytest.approx(np.array([[cka(x, y) for x in flat] for y in flat]), abs=1e-5)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_batches_of_any_size_give_the_value_of_all_images(size):
    x = normal(2048, 20)
    y = x @ normal(20, 20, seed=1) + 3 * normal(2048, 20, seed=2)
    found = LayerCka()
    for start in range(0, len(x), size):
        found.add([jnp.asarray(x[start : start + size]), jnp.asarray(y[start : start + size])])
    assert found.values()[0, 1] == pytest.approx(cka(x, y), abs=0.03)
    # What averages of biased estimates would give is far from it.
    parts = range(0, len(x), 8)
    assert np.mean([biased(x[i : i + 8], y[i : i + 8]) for i in parts]) > cka(x, y) + 0.2


def test_layers_that_do_not_vary_and_bad_batches():
    found = LayerCka()
    with pytest.raises(ValueError, match="no batch"):
        found.values()
    with pytest.raises(ValueError, match="at least 4"):
        found.add([jnp.ones((3, 2))])
    with pytest.raises(ValueError, match="same images"):
        found.add([jnp.ones((5, 2)), jnp.ones((6, 2))])
    found.add([jnp.ones((5, 2)), jnp.asarray(normal(5, 2))])
    assert np.isnan(found.values()[0]).all() and found.values()[1, 1] == pytest.approx(1)
    with pytest.raises(ValueError, match="had 2 layers, this one has 1"):
        found.add([jnp.ones((5, 2))])
