"""SVCCA, PWCCA, RSA, Procrustes and neighbours against independent forms and known null values."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes, sqrtm
from scipy.stats import rankdata

from aiseeme_jax.evidence.canonical import permuted, pwcca, svcca
from aiseeme_jax.evidence.relations import neighbour_overlap, procrustes, rsa, rsa_interval


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def rotation(size):
    return np.linalg.qr(normal(size, size, seed=9))[0]


def correlations_by_covariances(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    whiten = [np.linalg.inv(sqrtm(side.T @ side)).real for side in (x, y)]
    u, rho, _ = np.linalg.svd(whiten[0] @ x.T @ y @ whiten[1])
    return x, x @ whiten[0] @ u, rho


@pytest.mark.parametrize("rows, mean", [(100, 0.64), (200, 0.43), (500, 0.28), (1000, 0.19)])
def test_svcca_of_independent_features_is_its_null_value(rows, mean):
    x, y = normal(rows, 50), normal(rows, 50, seed=1)
    assert svcca(x, y, kept=1.0) == pytest.approx(mean, abs=0.015)
    assert permuted(lambda x, y: svcca(x, y, kept=1.0), x, x, seed=0) == pytest.approx(mean, abs=0.02)


def test_canonical_correlations_are_those_of_the_covariances():
    x = normal(60, 4) * [5, 1, 1, 0.5]
    y = x[:, :3] @ normal(3, 5, seed=1) + 2 * normal(60, 5, seed=2)
    centred, variates, rho = correlations_by_covariances(x, y)
    assert svcca(x, y, kept=1.0) == pytest.approx(rho.mean())
    weights = np.abs(variates[:, :4].T @ centred).sum(axis=1)
    assert pwcca(x, y) == pytest.approx(weights @ rho / weights.sum())
    assert pwcca(x, y) != pytest.approx(pwcca(y, x), abs=1e-3)


def test_canonical_measures_see_through_linear_maps():
    x = normal(80, 6)
    y = x @ normal(6, 6, seed=1) + 4
    assert svcca(x, y, kept=1.0) == pytest.approx(1) and pwcca(x, y) == pytest.approx(1)
    # The small directions of one side are left out.
    noisy = np.concatenate([x, 1e-3 * normal(80, 6, seed=2)], axis=1)
    assert svcca(noisy, x) == pytest.approx(1, abs=1e-3)
    assert np.isnan(svcca(np.ones((8, 2)), normal(8, 2))) and np.isnan(pwcca(np.ones((8, 2)), normal(8, 2)))


def test_rsa_is_the_correlation_of_ranks_of_all_pairs():
    x, y = normal(12, 5), normal(12, 4, seed=1) + normal(12, 5)[:, :4]
    pairs = np.triu_indices(12, 1)
    ranks = [rankdata((1 - np.corrcoef(side))[pairs]) for side in (x, y)]
    assert rsa(x, y) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert rsa(x, 2 * x + 3) == pytest.approx(1)


def test_the_interval_of_rsa_is_over_images():
    x, y = normal(40, 20), normal(40, 20, seed=1)
    null = rsa_interval(x, y, seed=0)
    # Copies of an image in a resample would lift it far above 0.
    assert null.low < 0 < null.high and null.high < 0.3
    alike = rsa_interval(x, x + 0.5 * normal(40, 20, seed=2), seed=0)
    assert 0.4 < alike.low < alike.value < alike.high < 1
    assert rsa_interval(x, y, seed=0) == null


def test_procrustes_is_what_the_best_rotation_leaves():
    x, y = normal(30, 5), normal(30, 3, seed=1) + normal(30, 5)[:, :3]
    padded = np.concatenate([y, np.zeros((30, 2))], axis=1)
    one, other = x - x.mean(axis=0), padded - padded.mean(axis=0)
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    turn, _ = orthogonal_procrustes(one, other)
    assert procrustes(x, y) == pytest.approx(np.linalg.norm(one @ turn - other) ** 2)
    assert procrustes(x, 3 * x @ rotation(5) + 1) == pytest.approx(0, abs=1e-9)
    assert np.isnan(procrustes(x, np.ones((30, 2))))


def test_neighbours_by_chance_and_of_the_same():
    x = normal(200, 8)
    assert neighbour_overlap(x, 2 * x @ rotation(8)) == pytest.approx(1)
    assert neighbour_overlap(x, normal(200, 8, seed=1)) == pytest.approx(10 / 199, abs=0.02)


@pytest.mark.parametrize("measure", [svcca, pwcca, rsa, procrustes, neighbour_overlap])
def test_what_cannot_be_compared_is_named(measure):
    with pytest.raises(ValueError, match=f"{measure.__name__} .* the same images, got 20 and 21 rows"):
        measure(normal(20, 3), normal(21, 3))
    with pytest.raises(ValueError, match="finite"):
        measure(normal(20, 3), np.full((20, 3), np.nan))
    with pytest.raises(ValueError, match=r"features \[N, D\]"):
        measure(normal(20), normal(20, 3))
