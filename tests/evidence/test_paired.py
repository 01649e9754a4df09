"""Intervals of means and medians over images against what is known of them."""

import math

import numpy as np
import pytest

from aiseeme_jax.evidence.paired import Resamples, adjust_holm, find_p


def resamples(rows=60, groups=None):
    return Resamples(np.array([f"g{i}" for i in range(rows)]) if groups is None else groups, 400, 0)


def test_mean_and_median_are_those_of_numpy():
    values = np.random.default_rng(0).exponential(size=61)
    made = resamples(61)
    assert made.estimate([values]).value == pytest.approx(values.mean())
    found = made.estimate([values], median=True)
    assert found.value == pytest.approx(np.median(values)) and found.low < found.value < found.high
    assert resamples(60).estimate([values[:60]], median=True).value == pytest.approx(np.median(values[:60]))
    assert found.images == 61 and math.isnan(found.p)


def test_resampled_medians_are_those_of_the_repeated_values():
    values, made = np.random.default_rng(1).exponential(size=20), resamples(20)
    found = made._average(values, median=True)
    for row, weights in zip(found[-10:], made.weights[-10:], strict=True):
        assert row == pytest.approx(np.median(np.repeat(values, weights.astype(int))))


def test_a_paired_difference_is_narrower_than_its_sides():
    random = np.random.default_rng(0)
    common = random.normal(0, 1, 60)
    one, other = common + 0.2 + random.normal(0, 0.05, 60), common
    found = resamples().compare([one], [other])
    assert found.value == pytest.approx((one - other).mean()) and 0.15 < found.low < found.high < 0.25
    side = resamples().estimate([one])
    assert side.high - side.low > 5 * (found.high - found.low)
    assert found.p == pytest.approx(1 / 401)
    assert resamples().compare([other], [other]).p == 1


def test_unknown_values_and_their_partners_count_nowhere():
    values = np.arange(60.0)
    holes = np.where(values < 10, np.nan, values + 1)
    found = resamples().compare([holes], [values])
    assert found.value == pytest.approx(1) and found.images == 50
    assert math.isnan(resamples().estimate([np.full(60, np.nan)]).value)


def test_images_of_one_group_are_drawn_together():
    groups = np.repeat([f"g{i}" for i in range(12)], 5)
    values = np.repeat(np.random.default_rng(0).normal(size=12), 5)
    apart, together = resamples().estimate([values]), resamples(groups=groups).estimate([values])
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_several_runs_widen_the_interval():
    values = np.random.default_rng(0).normal(0, 0.1, 60)
    one, three = resamples().estimate([values]), resamples().estimate([values - 0.5, values, values + 0.5])
    assert three.value == pytest.approx(one.value) and three.high - three.low > 3 * (one.high - one.low)


def test_p_has_a_floor_and_two_sides():
    assert find_p(np.ones(99)) == pytest.approx(0.01) and find_p(-np.ones(99)) == pytest.approx(0.01)
    assert find_p(np.array([-1.0, 1, 1, 1])) == pytest.approx(0.5)
    assert math.isnan(find_p(np.full(3, np.nan)))


def test_holm_by_hand():
    assert adjust_holm([0.01, 0.04, math.nan, 0.03])[:2] == pytest.approx([0.03, 0.06])
    assert adjust_holm([0.01, 0.04, math.nan, 0.03])[3] == pytest.approx(0.06)
    assert math.isnan(adjust_holm([math.nan])[0])
