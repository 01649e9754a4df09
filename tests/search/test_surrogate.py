"""The model of orders, against the definition of what it computes, and against other strategies on made-up scores."""

import itertools

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from tables import Table, additive, best_of, search

from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.search import surrogate
from aiseeme_jax.search.surrogate import Model, describe
from aiseeme_jax.search.trials import Evidence, Space, Trial

ORDERS = [("a",), ("b",), ("c",), ("a", "b"), ("b", "a"), ("c", "a")]
SCORES = np.array([-0.5, 0.2, -1.4, 0.9, 1.5, -0.7])


class TestModel:
    def test_features_are_tasks_and_pairs_in_their_order(self):
        assert describe(("a", "b"), ("b", "a")).tolist() == [1, 1, 1, 0, 0, 1, 0]
        assert describe(("a", "b"), ("a",)).tolist() == [1, 1, 0, 0, 0, 0, 0]

    def test_prediction_is_that_of_ridge_regression(self):
        """The same in the space of features: (X'X + noise² V⁻¹)⁻¹ X'y."""
        gains, pairs, noise = deviations = (0.6, 0.3, 0.2)
        model = Model("abc", ORDERS, SCORES, deviations)
        x = np.array([describe(tuple("abc"), order) for order in ORDERS])
        inverse = np.diag(np.array([1.0] + [gains] * 3 + [pairs] * 9) ** -2.0)
        precision = x.T @ x / noise**2 + inverse
        weights = np.linalg.solve(precision, x.T @ SCORES / noise**2)
        new = np.array([describe(tuple("abc"), order) for order in (("c", "b"), ("a", "b", "c"))])
        mean, deviation = model.predict([("c", "b"), ("a", "b", "c")])
        np.testing.assert_allclose(mean, new @ weights, rtol=1e-9)
        np.testing.assert_allclose(deviation**2, np.diag(new @ np.linalg.inv(precision) @ new.T), rtol=1e-8)

    def test_variances_are_the_most_likely_of_the_grid(self):
        x = np.array([describe(tuple("abc"), order) for order in ORDERS])

        def likelihood(deviations):
            gains, pairs, noise = deviations
            scaled = x * np.array([1.0] + [gains] * 3 + [pairs] * 9)
            return multivariate_normal(np.zeros(6), scaled @ scaled.T + noise**2 * np.eye(6)).logpdf(SCORES)

        grid = itertools.product(surrogate.GAINS, surrogate.PAIRS, surrogate.NOISE)
        assert Model("abc", ORDERS, SCORES).deviations == max(grid, key=likelihood)

    def test_expected_improvement_is_the_mean_of_the_improvements(self):
        model = Model("abc", ORDERS, SCORES, (0.6, 0.6, 0.1))
        best = model.predict(ORDERS)[0].max()
        mean, deviation = model.predict([("b", "c")])
        drawn = mean + deviation * np.random.default_rng(0).standard_normal(400_000)
        assert model.expected_improvement([("b", "c")]) == pytest.approx(np.maximum(drawn - best, 0).mean(), rel=0.03)


class TestChoice:
    def evidence(self, value, orders):
        return Evidence({Trial(o): Score(value(Trial(o))) for o in [(), *orders]}, lambda a, b: 0.0)

    def test_prefers_the_cheaper_of_two_that_promise_the_same(self):
        """A pair costs one stage after its first task, and two if that was not trained."""
        trained = {("a",)}
        assert surrogate._count_new(("a", "b"), trained) == 1 and surrogate._count_new(("b", "a"), trained) == 2

    def test_looks_at_all_orders_of_a_small_space_and_at_extensions_of_a_large_one(self):
        generator = np.random.default_rng(0)
        small = surrogate.list_candidates(Space(tuple("abc"), 3), {("a",)}, generator)
        assert len(small) == 3 + 6 + 6 - 1
        scored = {("a", "b")}
        large = surrogate.list_candidates(Space(tuple("abcdefghij"), 8), scored, generator)
        assert len(large) <= surrogate.MOST_CANDIDATES + 8 and ("a", "b", "j") in large
        assert not scored & set(large)

    def test_extends_no_order_that_diverged(self):
        scores = {"a": float("nan"), "b": 0.5, "c": 0.7}
        known = self.evidence(lambda trial: sum(map(scores.get, trial.order)), [(name,) for name in scores])
        chosen = surrogate.choose_orders(Space(tuple("abc"), 3), known, 20, np.random.default_rng(0))
        assert chosen and not [order for order in chosen if order[0] == "a"]

    def test_ends_when_everything_is_known(self):
        orders = [p for count in (1, 2) for p in itertools.permutations("ab", count)]
        known = self.evidence(lambda trial: len(trial.order), orders)
        assert surrogate.choose_orders(Space(tuple("ab"), 2), known, 4, np.random.default_rng(0)) == []


@pytest.mark.slow
def test_beats_random_and_greedy_for_as_many_stages():
    """Mean distance from the best over tables of 6 tasks with gains and effects of order."""
    pool, budget = "abcdef", 24
    distance = {"surrogate": [], "random": [], "greedy": []}
    for seed in range(6):
        value = additive(seed, pool, pairs=0.7)
        best = value(Trial(best_of(value, pool, 4)))
        for strategy, found in distance.items():
            outcome = search(strategy, Table(value), pool, length=4, budget=budget, seed=seed)
            found.append(best - value(outcome.ranking()[0]))
    mean = {strategy: np.mean(found) for strategy, found in distance.items()}
    assert mean["surrogate"] < mean["greedy"] and mean["surrogate"] < 0.5 * mean["random"], mean
