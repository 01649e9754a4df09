"""The hybrid loss of MB-DCNN against loops in NumPy, and what its traps would make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax import losses

RANDOM = np.random.default_rng(0)


def rank_by_loops(p, inside, known, pixels, margin):
    rows = []
    for image in range(len(p)):
        outside_highest = sorted(p[image][known[image] & ~inside[image]])[::-1][:pixels]
        inside_lowest = sorted(p[image][known[image] & inside[image]])[:pixels]
        pairs = [max(0.0, n - q + margin) for n in outside_highest for q in inside_lowest]
        rows.append(np.mean(pairs) if pairs else 0.0)
    return np.mean(rows)


def rank(logits, inside, known=None, pixels=30, margin=0.3):
    known = np.ones(inside.shape, bool) if known is None else known
    return losses.rank_loss(jnp.asarray(logits), inside, known, pixels=pixels, margin=margin)


def logit(p):
    return np.log(p / (1 - p)).astype(np.float32)


def test_the_rank_loss_is_that_of_loops():
    """One image has fewer pixels inside than are asked for, one none at all, and some pixels are not known."""
    logits = RANDOM.normal(size=(4, 7, 8)).astype(np.float32) * 3
    inside, known = RANDOM.random((4, 7, 8)) < 0.5, RANDOM.random((4, 7, 8)) < 0.9
    inside[1] = False
    inside[1, 2, 3:6] = known[1, 2, 3:6] = True
    inside[2] = False
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    for pixels in (1, 10, 30):
        expected = rank_by_loops(p, inside, known, pixels, 0.3)
        assert float(rank(logits, inside, known, pixels)) == pytest.approx(expected, abs=1e-6)


def test_the_dice_loss_that_is_smoothed_on_both_sides_is_that_of_its_definition():
    logits = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)
    inside, known = RANDOM.random((2, 5, 4)) < 0.4, RANDOM.random((2, 5, 4)) < 0.8
    terms = []
    for image in range(2):
        q, y = 1 / (1 + np.exp(-np.float64(logits[image][known[image]]))), inside[image][known[image]].astype(float)
        for a, b in ((q, y), (1 - q, 1 - y)):
            terms.append(1 - (2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5))
    found = float(losses.soft_dice(jnp.asarray(logits), inside, known, smooth_both=True))
    assert found == pytest.approx(np.mean(terms), abs=1e-6)


def test_pixels_that_are_not_there_do_not_dilute_the_rank_loss():
    """Ten pixels inside at .95 and 36 outside at .9, of which 30 count: all pairs have .9 - .95 + .3."""
    p = np.full((1, 46), 0.9)
    p[0, :10] = 0.95
    assert float(rank(logit(p), np.arange(46)[None] < 10)) == pytest.approx(0.25, abs=1e-6)


def test_a_right_answer_costs_nothing_and_the_gradient_reaches_few_pixels():
    inside = RANDOM.random((1, 12, 12)) < 0.4
    known = np.ones_like(inside)
    perfect = np.where(inside, 20.0, -20.0).astype(np.float32)
    assert float(rank(perfect, inside)) == 0
    assert float(losses.soft_dice(perfect, inside, known, smooth_both=True)) < 1e-4
    logits = RANDOM.normal(size=(1, 12, 12)).astype(np.float32)
    gradient = jax.grad(lambda x: rank(x, inside, pixels=5, margin=1.0))(jnp.asarray(logits))
    assert 5 < np.count_nonzero(gradient) <= 10


def test_an_empty_mask_is_finite_and_has_a_gradient_only_if_both_are_smoothed():
    logits, nothing = jnp.full((1, 4, 4), -12.0), np.zeros((1, 4, 4), bool)
    for smooth, low, high in ((False, 0.49, 0.51), (True, 0.0, 0.49)):
        loss = lambda x, s=smooth: losses.soft_dice(x, nothing, ~nothing, smooth_both=s)  # noqa: E731
        assert low <= float(loss(logits)) <= high
    assert np.isfinite(jax.grad(lambda x: rank(x, nothing))(logits)).all() and float(rank(logits, nothing)) == 0
