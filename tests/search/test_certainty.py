"""Intervals over seeds and images against formulae, and the sentences that follow from them."""

import numpy as np
import pytest
from scipy import stats

from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.search import certainty
from aiseeme_jax.search.certainty import compare_finalists, describe_comparison, estimate_difference, estimate_mean
from aiseeme_jax.search.trials import Trial

A, B, C = (Trial(tuple(names)) for names in ("ab", "ba", "c"))


def scores(values, spread=0.0, shared=0):
    """A score for each seed; resamples of the same images go up and down together."""
    common = spread * np.random.default_rng(shared).standard_normal(4000)
    return {seed: Score(value, value + common if spread else np.zeros(0)) for seed, value in enumerate(values)}


class TestIntervals:
    def test_over_seeds_alone_is_students(self):
        found = estimate_mean(scores([0.5, 0.6, 0.8]))
        low, high = stats.t.interval(0.95, 2, np.mean([0.5, 0.6, 0.8]), stats.sem([0.5, 0.6, 0.8]))
        assert (found.value, found.low, found.high) == pytest.approx((0.19 / 0.3, low, high))

    def test_over_images_alone_is_normal(self):
        found = estimate_mean(scores([0.5], spread=0.02))
        assert (found.high - found.low) / 2 == pytest.approx(1.96 * 0.02, rel=0.03)

    def test_both_variances_add_up(self):
        values = [0.5, 0.54, 0.46]
        found = estimate_mean(scores(values, spread=0.03))
        seeds, images = np.var(values, ddof=1) / 3, 0.03**2
        freedom = (seeds + images) ** 2 / (seeds**2 / 2)
        expected = stats.t.ppf(0.975, freedom) * np.sqrt(seeds + images)
        assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.05)

    def test_a_difference_is_paired_by_seed_and_by_image(self):
        one, other = scores([0.5, 0.7, 0.9], spread=0.1), scores([0.4, 0.6, 0.8], spread=0.1)
        found = estimate_difference(one, other)
        assert found.value == pytest.approx(0.1)
        assert found.high - found.low < 1e-6 or np.isnan(found.low)
        apart = estimate_difference(one, scores([0.4, 0.6, 0.8], spread=0.1, shared=1))
        assert apart.high - apart.low == pytest.approx(2 * 1.96 * np.sqrt(2) * 0.1, rel=0.05)

    def test_covers_the_truth_as_often_as_it_says(self):
        """Three seeds and resampled images, both of known variance: at least 95 of 100 intervals contain the mean."""
        generator, hits = np.random.default_rng(0), 0
        for _ in range(400):
            image = 0.02 * generator.standard_normal()
            values = image + 0.02 * generator.standard_normal(3)
            drawn = 0.02 * generator.standard_normal(300)
            found = estimate_mean({seed: Score(value, value + drawn) for seed, value in enumerate(values)})
            hits += found.low <= 0 <= found.high
        assert hits >= 0.94 * 400

    def test_without_any_variance_there_is_none(self):
        assert np.isnan(estimate_mean(scores([0.5])).low)


class TestComparison:
    def test_the_best_is_the_finalist_with_the_highest_mean(self):
        parts = {A: "finalist", B: "finalist", C: "single"}
        found = compare_finalists(parts, {A: scores([0.5, 0.52]), B: scores([0.6, 0.63]), C: scores([0.7, 0.71])})
        assert [one.trial for one in found] == [B, C, A] and found[0].behind is None
        assert found[1].behind.value == pytest.approx(-0.09)

    def test_intervals_of_more_differences_are_longer(self):
        values = {A: scores([0.6, 0.65]), B: scores([0.5, 0.52]), C: scores([0.3, 0.4])}
        two = compare_finalists({A: "finalist", B: "finalist"}, values)
        three = compare_finalists({A: "finalist", B: "finalist", C: "random"}, values)
        width = [found[1].behind.high - found[1].behind.low for found in (two, three)]
        assert width[1] / width[0] == pytest.approx(stats.t.ppf(1 - 0.0125, 1) / stats.t.ppf(0.975, 1))

    def test_a_diverged_finalist_is_never_the_best(self):
        values = {A: {0: Score(float("nan")), 1: Score(0.9)}, B: scores([0.1, 0.2])}
        found = compare_finalists({A: "finalist", B: "finalist"}, values)
        assert found[0].trial == B
        text = " ".join(describe_comparison(found, "knn", (1, 2), new=True))
        assert "The training of a > b diverged." in text


class TestSentences:
    def describe(self, *others, seeds=(1, 2, 3), new=True):
        values = {A: scores([0.80, 0.81, 0.79], spread=0.001)}
        parts = {A: "finalist"}
        for trial, part, found in others:
            parts[trial], values[trial] = part, scores(found, spread=0.001, shared=1)
        return describe_comparison(compare_finalists(parts, values), "knn, auroc", seeds, new)

    def test_says_what_cannot_be_told_apart(self):
        first, second = self.describe((B, "finalist", [0.80, 0.75, 0.82]))
        assert first.startswith("The best order is a > b: knn, auroc 0.800 [") and "3 new pretraining seeds" in first
        assert second.startswith("It cannot be told apart from b > a: the difference is +0.010 [−")

    def test_says_what_it_is_better_and_worse_than(self):
        sentences = self.describe((B, "reverse", [0.50, 0.51, 0.49]), (C, "single", [0.95, 0.96, 0.94]))
        assert any(line.startswith("It is better than its reverse, b > a, by +0.300 [") for line in sentences)
        assert any(line.startswith("It is worse than one task for as many images, c: the") for line in sentences)

    def test_says_that_one_seed_is_one_seed(self):
        lines = self.describe(seeds=(0,), new=False)
        assert "over 1 pretraining seed, with which it was chosen." in lines[0]
        assert lines[1] == "With one seed, the intervals say nothing about another pretraining."

    def test_every_part_has_its_words(self):
        assert set(certainty.WHAT) == {"finalist", *certainty_parts()}


def certainty_parts():
    from aiseeme_jax.search.problem import COMPARED

    return COMPARED
