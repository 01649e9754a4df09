"""Intervals over pretraining seeds, label seeds and images: against formulae written anew, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from aiseeme_jax.evaluate.bootstrap import Draws
from aiseeme_jax.evaluate.over_seeds import Interval, Part, estimate, vary_images, vary_resamples

NO_IMAGES = Part(0.0, np.inf)


def draws(value, spread, samples=4000, parts=50, seed=0):
    """A metric whose jackknife has the same standard error as its resamples."""
    generator = np.random.default_rng(seed)
    left = generator.standard_normal(parts)
    left = (left - left.mean()) / left.std() * spread / np.sqrt(parts - 1)
    return Draws(value, value + left, value + spread * generator.standard_normal(samples))


class TestSeeds:
    def test_of_pretraining_seeds_alone_is_students(self):
        values = [0.5, 0.6, 0.8]
        found = estimate(np.reshape(values, (3, 1)), NO_IMAGES).interval()
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))

    def test_p_value_is_that_of_the_t_test(self):
        values = np.array([0.02, 0.05, 0.01, 0.04])
        found = estimate(values[:, None], NO_IMAGES)
        assert found.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
        # The interval excludes 0 exactly where p is below what the level leaves.
        assert found.interval(1 - 1.01 * found.p_value).excludes_zero
        assert not found.interval(1 - 0.99 * found.p_value).excludes_zero

    def test_label_seeds_add_what_all_pretraining_seeds_have_in_common(self):
        """By the mean squares of the two-way layout, each summed up by hand."""
        values = np.array([[0.50, 0.60, 0.52], [0.55, 0.66, 0.54], [0.49, 0.63, 0.55], [0.52, 0.60, 0.56]])
        rows, columns = values.shape
        mean = values.mean()
        of_rows = sum(columns * (row.mean() - mean) ** 2 for row in values) / (rows - 1)
        of_columns = sum(rows * (column.mean() - mean) ** 2 for column in values.T) / (columns - 1)
        rest = sum(
            (values[i, j] - values[i].mean() - values[:, j].mean() + mean) ** 2
            for i in range(rows)
            for j in range(columns)
        ) / ((rows - 1) * (columns - 1))
        parts = [(of_rows / values.size, rows - 1), ((of_columns - rest) / values.size, columns - 1)]
        assert parts[1][0] > 0
        images = Part(1e-4, 30)
        variance = sum(part for part, _ in parts) + images.variance
        freedom = variance**2 / (sum(part**2 / free for part, free in parts) + images.variance**2 / images.freedom)
        found = estimate(values, images)
        half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
        assert (found.interval().low, found.interval().high) == pytest.approx((mean - half, mean + half))

    def test_of_one_backbone_for_all_pretraining_seeds_label_seeds_alone_count(self):
        values = np.array([0.5, 0.6, 0.8])
        once, thrice = (estimate(np.tile(values, (count, 1)), NO_IMAGES) for count in (1, 3))
        assert (thrice.variance, thrice.freedom) == pytest.approx((once.variance, once.freedom))
        assert once.variance == pytest.approx(stats.sem(values) ** 2)

    def test_without_any_variance_there_is_no_interval_and_no_p_value(self):
        found = estimate([[0.5], [0.5]], NO_IMAGES)
        assert np.isnan(found.interval().low) and np.isnan(found.p_value) and found.value == 0.5
        assert np.isnan(estimate(np.zeros((0, 1)), NO_IMAGES).value)


class TestImages:
    def test_are_the_larger_of_resamples_and_jackknife(self):
        one = draws(0.5, 0.02)
        narrow = Draws(one.value, one.without, 0.5 + (one.resampled - 0.5) / 4)
        jackknife = (len(one.without) - 1) / len(one.without) * np.sum((one.without - one.without.mean()) ** 2)
        assert vary_images([narrow]) == Part(pytest.approx(jackknife), 49)
        wide = Draws(one.value, one.without, 0.5 + (one.resampled - 0.5) * 4)
        assert vary_images([wide]).variance == pytest.approx(np.var(wide.resampled, ddof=1))

    def test_of_several_runs_are_those_of_their_mean(self):
        one, other = draws(0.5, 0.02), draws(0.6, 0.02, seed=1)
        mean = Draws(0.55, (one.without + other.without) / 2, (one.resampled + other.resampled) / 2)
        assert vary_images([one, other]).variance == pytest.approx(vary_images([mean]).variance)

    def test_are_unknown_if_half_of_the_resamples_are_undefined(self):
        assert np.isnan(vary_resamples(np.array([0.1, 0.2, np.nan, np.nan])).variance)
        assert vary_resamples(np.array([0.1, 0.2, 0.3, np.nan])).variance == pytest.approx(0.01)
        assert not estimate([[0.1]], Part(np.nan, np.inf)).bounded


@pytest.mark.parametrize("label_effect, rest", [(0.0, 0.0), (0.02, 0.0), (0.0, 0.02), (0.01, 0.01)])
def test_covers_the_truth_as_often_as_it_says(label_effect, rest):
    """Three pretraining seeds, three label seeds and images. With so few seeds, 92 to 95 % is what the method gives."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(600):
        rows, columns = 0.02 * generator.standard_normal((3, 1)), label_effect * generator.standard_normal((1, 3))
        image = 0.01 * generator.standard_normal()
        values = image + rows + columns + rest * generator.standard_normal((3, 3))
        found = estimate(values, Part(0.01**2, np.inf)).interval()
        hits += found.low <= 0 <= found.high
    assert 0.91 * 600 <= hits <= 0.98 * 600


def test_what_is_rounded_to_zero_has_no_minus():
    assert Interval(-0.0002, -0.01, 0.0003).in_words(signed=True) == "+0.000 [−0.010 to +0.000]"
    assert Interval(-0.0002, math.nan, math.nan).in_words() == "0.000 (no interval)"
