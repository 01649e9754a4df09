"""The range test and the gradient noise scale, against what is known of simple losses."""

import numpy as np
import pytest
import tiny

from aiseeme_jax import data
from aiseeme_jax.search import noise_scale, range_test

STEPS = 100


def descend(curvatures, rates, floor=0.1):
    """Losses of gradient descent on a quadratic, from ones, with a rate that changes in every step."""
    x, losses = np.ones(len(curvatures)), []
    for rate in rates:
        losses.append(floor + 0.5 * float(np.sum(curvatures * x**2)))
        if range_test.is_over(losses):
            break
        x = x - rate * curvatures * x
    return losses


class TestRangeTest:
    @pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
    def test_finds_the_edge_of_a_quadratic(self, scale):
        """Descent is stable up to 2 over the largest curvature."""
        curvatures, edge = scale * np.array([1.0, 0.3, 0.1]), 2 / scale
        rates = np.geomspace(edge * 1e-4, edge * 100, STEPS)
        losses = descend(curvatures, rates)
        found = range_test.find_range(rates[: len(losses)], losses)
        assert len(losses) < STEPS, "it ends soon after the edge"
        assert rates[len(losses) - 1] < 10 * edge
        assert found.low < found.steepest < edge / 2 and edge / 4 < found.high < 2.5 * edge

    def test_smoothing_has_no_bias_at_the_start(self):
        assert range_test.smooth([3.0] * 5) == pytest.approx([3.0] * 5)
        weights = 0.9 ** np.arange(2, -1, -1)
        assert range_test.smooth([1.0, 2.0, 4.0])[-1] == pytest.approx(weights @ [1, 2, 4] / weights.sum())

    def test_ends_at_four_times_the_best_loss(self):
        assert not range_test.is_over([1.0, 6.6])
        assert range_test.is_over([1.0, 6.8]) and range_test.is_over([1.0, float("nan")])

    def test_a_loss_below_zero_does_not_end_it_at_once(self):
        assert not range_test.is_over([-0.2, -0.5, -0.4]) and range_test.is_over([-0.5, 9.0])

    def test_a_loss_that_does_not_fall_is_not_resolved(self):
        rates = np.geomspace(1e-3, 1, 40)
        assert not range_test.find_range(rates, np.arange(40.0)).resolved
        assert not range_test.find_range(rates[:4], np.ones(4)).resolved

    @pytest.mark.slow
    def test_leaves_the_task_as_it_is(self):
        config = tiny.stage("rotation", optimizer={"name": "sgd", "learning_rate": 0.1})
        task = tiny.task(config, tiny.Pixels())
        before = tiny.arrays(task)
        batches = data.Batches(tiny.split(), batch_size=8, seed=0)
        found = range_test.run_range_test(task, tiny.recipe(config), batches, spread=8.0, steps=30)
        assert 10 < found.steps <= 30
        tiny.assert_same(before, task)


class TestNoiseScale:
    def test_is_golden(self):
        found = noise_scale.estimate(32, 256, 1.5, 0.5)
        assert found.gradient == pytest.approx(0.35714, abs=1e-5) and found.noise == pytest.approx(36.5714, abs=1e-4)
        assert found.value == pytest.approx(102.4, abs=1e-3)

    def test_recovers_what_norms_were_made_of(self):
        norms = [0.5 + 20 / size for size in (16, 128)]
        assert noise_scale.estimate(16, 128, *norms).value == pytest.approx(40)

    def test_is_not_resolved_where_an_estimate_is_not_positive(self):
        found = noise_scale.estimate(32, 256, 9.0, 0.5)
        assert found.value is None and "not resolved" in found.sentence
        assert noise_scale.estimate(32, 256, 0.5, 0.5).value is None

    @pytest.mark.slow
    def test_of_a_task_leaves_it_as_it_is(self):
        task = tiny.task(tiny.stage("rotation", batch=16), tiny.Pixels())
        before = tiny.arrays(task)
        batches = data.Batches(tiny.split(), batch_size=16, seed=0)
        found = noise_scale.measure(task, batches, 2, 16, seed=0)
        assert (found.small, found.large) == (2, 16) and found.noise > 0
        tiny.assert_same(before, task)

    def test_is_only_of_losses_of_single_images(self):
        task = tiny.task(tiny.stage("simclr", batch=16), tiny.Pixels())
        with pytest.raises(ValueError, match="the loss of an image depends on the others of its batch"):
            noise_scale.measure(task, None, 2, 16, seed=0)
