"""Descriptors and ensembles of Fuse-TSD, against loops, exact figures and formulas."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aiseeme_jax.systems.fuse_tsd.boosting import Boosting, balance_rows, boost
from aiseeme_jax.systems.fuse_tsd.fusion import average_pictures, choose_weights, fuse
from aiseeme_jax.systems.fuse_tsd.shape import describe_outline, describe_shape, signed_area, trace_outline
from aiseeme_jax.systems.fuse_tsd.texture import STATISTICS, count_pairs, describe_texture

LEVELS = 5
DIAGONAL = np.sqrt(0.5)
STEPS = ((0, 1), (-DIAGONAL, DIAGONAL), (-1, 0), (-DIAGONAL, -DIAGONAL))


def count_by_loops(levels, mask, step, distance):
    found = np.zeros((LEVELS, LEVELS))
    height, width = mask.shape
    for y, x in np.ndindex(height, width):
        v, u = y + round(distance * step[0]), x + round(distance * step[1])
        if 0 <= v < height and 0 <= u < width and mask[y, x] and mask[v, u]:
            found[levels[y, x], levels[v, u]] += 1
            found[levels[v, u], levels[y, x]] += 1
    return found


def statistics_by_loops(pairs):
    p = pairs / pairs.sum()
    cells = [(i, j, p[i, j]) for i, j in np.ndindex(p.shape)]
    mean = sum(i * q for i, _, q in cells)
    variance = sum((i - mean) ** 2 * q for i, _, q in cells)
    return [
        sum((i - j) ** 2 * q for i, j, q in cells),
        sum(abs(i - j) * q for i, j, q in cells),
        sum(q / (1 + (i - j) ** 2) for i, j, q in cells),
        sum(q * q for _, _, q in cells),
        sum((i - mean) * (j - mean) * q for i, j, q in cells) / variance,
        -sum(q * np.log(q) for _, _, q in cells if q),
    ]


@pytest.fixture
def patch():
    random = np.random.default_rng(3)
    return random.random((9, 11)), random.random((9, 11)) < 0.8


def test_pairs_and_statistics_are_those_of_loops(patch):
    grey, mask = patch
    levels = np.floor(grey * LEVELS).astype(int)
    pairs = count_pairs(grey, mask, levels=LEVELS, distances=(1, 2))
    for d, distance in enumerate((1, 2)):
        loops = [count_by_loops(levels, mask, step, distance) for step in STEPS]
        # The library's angles turn the other way: both diagonals are there in any case.
        both = [pairs[..., d, a] for a in range(4)]
        for expected in loops:
            assert any((expected == found).all() for found in both)
        rows = np.array([statistics_by_loops(one) for one in loops])
        found = describe_texture(grey, mask, levels=LEVELS, distances=(1, 2)).reshape(2, 2, len(STATISTICS))[d]
        np.testing.assert_allclose(found, [rows.mean(axis=0), np.ptp(rows, axis=0)], atol=1e-12)


def test_a_constant_patch_has_no_contrast_and_all_energy(patch):
    _, mask = patch
    means, ranges = describe_texture(np.full(mask.shape, 0.4), mask, levels=8, distances=(1,)).reshape(2, -1)
    assert dict(zip(STATISTICS, means, strict=True)) == pytest.approx(
        {"contrast": 0, "dissimilarity": 0, "homogeneity": 1, "ASM": 1, "correlation": 1, "entropy": 0}
    )
    assert not ranges.any()


def test_texture_is_that_of_the_region_however_it_is_turned(patch):
    grey, mask = patch
    found = describe_texture(grey, mask, levels=LEVELS, distances=(1,))
    other = np.where(mask, grey, 1 - grey)
    np.testing.assert_array_equal(describe_texture(other, mask, levels=LEVELS, distances=(1,)), found)
    turned = describe_texture(np.rot90(grey), np.rot90(mask), levels=LEVELS, distances=(1,))
    np.testing.assert_allclose(turned, found, atol=1e-12)
    assert not describe_texture(grey, np.zeros_like(mask), levels=LEVELS, distances=(1,)).any()


ANGLES = 2 * np.pi * np.arange(64) / 64


def test_a_circle_has_zeros_and_an_ellipse_its_ratio():
    circle = 7 + 3j + 5 * np.exp(1j * (ANGLES + 0.3))
    np.testing.assert_allclose(describe_outline(circle, 6), 0, atol=1e-12)
    a, b = 5, 2
    ellipse = a * np.cos(ANGLES) + 1j * b * np.sin(ANGLES)
    expected = np.zeros(11)
    expected[5] = (a - b) / (a + b)
    np.testing.assert_allclose(describe_outline(ellipse, 6), expected, atol=1e-12)
    # Moved, turned, larger, and from another first point.
    np.testing.assert_allclose(describe_outline(np.roll(3 * ellipse * np.exp(2j) + 9, 5), 6), expected, atol=1e-12)


def draw(inside):
    y, x = np.mgrid[:48, :48] - 23.5
    return inside(y, x)


def test_outlines_of_masks():
    disc = draw(lambda y, x: y**2 + x**2 < 15**2)
    outline = trace_outline(disc, 64)
    assert signed_area(np.append(outline, outline[0])) == pytest.approx(disc.sum(), rel=0.02)
    steps = abs(np.diff(np.append(outline, outline[0])))
    assert steps.max() < 1.05 * steps.mean()
    assert describe_shape(disc, points=64, harmonics=8).max() < 0.02
    found = describe_shape(draw(lambda y, x: (y / 8) ** 2 + (x / 20) ** 2 < 1), points=64, harmonics=8)
    # At equal distances along the outline the ratio of an ellipse is another one.
    fine = 20 * np.cos(np.linspace(0, 2 * np.pi, 100_001)) + 8j * np.sin(np.linspace(0, 2 * np.pi, 100_001))
    along = np.cumsum(abs(np.diff(fine))) / abs(np.diff(fine)).sum()
    evenly = fine[np.searchsorted(along, np.arange(64) / 64)]
    np.testing.assert_allclose(found, describe_outline(evenly, 8), atol=0.01)
    assert 0.3 < found[7] < 12 / 28
    star = draw(lambda y, x: np.hypot(y, x) < 14 + 5 * np.cos(5 * np.arctan2(y, x)))
    found = describe_shape(star, points=64, harmonics=8)
    assert found.argmax() in (4, 10), "m = 6 and m = -4 are one and five turns together"
    crumb = star.copy()
    crumb[0, 0] = True
    np.testing.assert_array_equal(describe_shape(crumb, points=64, harmonics=8), found)
    np.testing.assert_allclose(describe_shape(np.roll(star, (2, -3), (0, 1)), points=64, harmonics=8), found, atol=1e-9)
    assert not describe_shape(np.zeros((8, 8), bool), points=64, harmonics=8).any()


@pytest.fixture(scope="module")
def rings():
    """Rows of two classes that no line parts, and as many to test on."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(240, 2))
    return rows, (np.hypot(*rows.T) > 1.1).astype(int)


SETTINGS = Boosting(rounds=8, hidden=4, iterations=15, decay=0.01)


def test_votes_follow_from_weighted_errors(rings):
    rows, labels = rings[0][:120], rings[1][:120]
    ensemble = boost(rows, labels, classes=2, settings=SETTINGS, seed=0)
    assert len(ensemble.networks) == 8
    x = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    weights, score, total = balance_rows(labels), 0, 0
    assert weights[labels == 0].sum() == pytest.approx(0.5) == weights[labels == 1].sum()
    for network, vote in zip(ensemble.networks, ensemble.votes, strict=True):
        wrong = network.predict(x) != labels
        error = weights[wrong].sum()
        # Of two classes it is twice the vote of the first AdaBoost.
        assert vote == pytest.approx(np.log((1 - error) / error), rel=1e-6)
        weights = weights * np.exp(vote * wrong)
        weights /= weights.sum()
        score, total = score + vote * network.predict_proba(x), total + vote
    np.testing.assert_allclose(ensemble.predict(rows), score / total, atol=1e-12)
    np.testing.assert_array_equal(boost(rows, labels, classes=2, settings=SETTINGS, seed=0).votes, ensemble.votes)


def test_several_networks_are_better_than_one(rings):
    (rows, tested), (labels, truth) = np.split(rings[0], 2), np.split(rings[1], 2)
    one, several = (
        boost(rows, labels, classes=3, settings=Boosting(n, 4, 15, 0.01), seed=0).predict(tested) for n in (1, 8)
    )
    assert roc_auc_score(truth, several[:, 1]) > roc_auc_score(truth, one[:, 1]) + 0.02
    assert several.shape == (120, 3) and not several[:, 2].any()
    np.testing.assert_allclose(several.sum(axis=1), 1)


def test_rows_that_tell_nothing_give_a_guess():
    rows = np.zeros((20, 3))
    labels = np.arange(20) % 2
    found = boost(rows, labels, classes=2, settings=SETTINGS, seed=0)
    np.testing.assert_allclose(found.predict(rows), 0.5, atol=1e-4)
    for few in (rows[:0], rows[::2]):
        found = boost(few, labels[::2][: len(few)], classes=2, settings=SETTINGS, seed=0)
        assert not found.networks
        np.testing.assert_array_equal(found.predict(rows), np.full((20, 2), 0.5))


def test_weights_are_those_of_the_best_auroc_and_alike_where_nothing_tells():
    labels = np.arange(30) % 2
    good = np.stack([1 - labels, labels], axis=1) * 0.6 + 0.2
    noise = np.random.default_rng(0).dirichlet((1, 1), 30)
    weights = choose_weights([good, noise, 1 - good], labels)
    assert sum(weights) == pytest.approx(1) and weights[0] > weights[2]
    np.testing.assert_allclose(fuse([good, noise], (0.3, 0.7)), 0.3 * good + 0.7 * noise)
    assert choose_weights([good, good], labels) == (0.5, 0.5)
    assert choose_weights([good, noise], np.zeros(30, int)) == (0.5, 0.5)


def test_a_thing_has_the_mean_of_its_pictures():
    probs = np.array([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    np.testing.assert_allclose(average_pictures(probs, np.array([1, 1, 2]), 3), [[0.5, 0.5], [0.4, 0.6], [1.0, 0.0]])
