"""Geometry of features against the values of clouds whose shape is known."""

import numpy as np
import pytest

from aiseeme_jax.evidence import geometry


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("rows, rank, ratio", [(1000, 126, 113), (200, 115, 78), (100, 86, 56)])
def test_ranks_of_an_even_cloud_grow_with_the_images(rows, rank, ratio):
    cloud = normal(rows, 128) + 7
    assert geometry.effective_rank(cloud) == pytest.approx(rank, abs=1)
    assert geometry.participation_ratio(cloud) == pytest.approx(ratio, abs=1)


def test_ranks_of_two_equal_directions_are_two():
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) + 5
    assert geometry.effective_rank(square) == pytest.approx(2)
    assert geometry.participation_ratio(square) == pytest.approx(2)
    assert np.isnan(geometry.effective_rank(np.ones((5, 3)))) and np.isnan(
        geometry.participation_ratio(np.ones((5, 3)))
    )


@pytest.mark.parametrize("true, found", [(2, 1.9), (5, 5.2), (10, 10.1), (20, 17.2), (50, 33.5)])
def test_twonn_of_normal_clouds(true, found):
    assert geometry.twonn(normal(1500, true)) == pytest.approx(found, rel=0.07)


def test_the_slope_of_twonn_agrees_with_the_most_likely_dimension():
    cloud = normal(1500, 5)
    assert geometry.twonn(cloud, slope=True) == pytest.approx(geometry.twonn(cloud), rel=0.1)


def test_near_copies_destroy_twonn_and_are_counted():
    cloud = normal(1500, 10)
    copies = cloud[:150] + 1e-3 * normal(150, 10, seed=1)
    assert geometry.share_of_copies(cloud) == 0
    assert geometry.twonn(np.concatenate([cloud[:1350], copies])) == pytest.approx(0.8, abs=0.2)
    assert geometry.share_of_copies(np.concatenate([cloud[:1350], copies])) == pytest.approx(0.2)


def test_exact_copies_have_no_ratio():
    cloud = normal(1500, 5)
    assert geometry.twonn(np.concatenate([cloud, cloud[:20]])) == pytest.approx(geometry.twonn(cloud), rel=0.05)
    assert np.isnan(geometry.twonn(np.ones((5, 2))))


@pytest.mark.parametrize("dimensions, found", [(16, -3.51), (128, -3.94), (512, -3.98)])
def test_uniformity_of_an_even_sphere(dimensions, found):
    assert geometry.uniformity(normal(1000, dimensions)) == pytest.approx(found, abs=0.02)


def test_collapsed_features():
    alike = np.ones((6, 3)) * np.arange(1, 7)[:, None]
    assert geometry.uniformity(alike) == pytest.approx(0, abs=1e-12)
    assert geometry.anisotropy(alike) == pytest.approx(1)
    assert geometry.alignment(alike, 3 * alike) == pytest.approx(0, abs=1e-12)
    assert geometry.dead_dimensions(np.array([[1.0, 0, 2], [1, 1, 2]])) == pytest.approx(2 / 3)


def test_alignment_and_anisotropy_by_hand():
    one, other = np.array([[1.0, 0], [0, 2]]), np.array([[0.0, 3], [0, -1]])
    assert geometry.alignment(one, other) == pytest.approx((2 + 4) / 2)
    assert geometry.anisotropy(np.array([[1.0, 0], [0, 1], [1, 1]])) == pytest.approx(2 * np.sqrt(0.5) / 3)


def test_every_measure_has_its_note():
    assert set(geometry.MEASURES) | {"alignment"} == set(geometry.NOTES)


@pytest.mark.parametrize("measure", geometry.MEASURES.values())
def test_bad_features_are_named(measure):
    with pytest.raises(ValueError, match=r"need features \[N, D\]"):
        measure(np.zeros(5))
    with pytest.raises(ValueError, match="finite"):
        measure(np.full((5, 2), np.nan))
