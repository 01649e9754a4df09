"""Weightings and rules of choice against golden values and plain numpy, without any network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.pacing import choosing, gradients, tables, weighting
from aiseeme_jax.pretext.pacing.choosing import Exp3S, Measured
from aiseeme_jax.pretext.pacing.weighting import Moment

KEY = jax.random.key(0)


def weigh(rule, losses, *, progress=0.0, key=KEY):
    """The weights of each step for rows of losses, and the last state."""
    state, learned, found = rule.start(len(losses[0])), rule.parameters(len(losses[0])), []
    for row in losses:
        weighed = rule.weigh(state, learned, jnp.asarray(row, jnp.float32), Moment(key, jnp.float32(progress)))
        state = weighed.state
        found.append((np.asarray(weighed.weights), weighed.loss))
    return found, state


class TestWeightings:
    def test_equal_and_fixed(self):
        assert weigh(weighting.Equal(), [(2.0, 1.0)])[0][0][0].tolist() == [1, 1]
        assert weigh(weighting.Fixed((0.25, 2.0)), [(2.0, 1.0)])[0][0][0].tolist() == [0.25, 2]

    def test_random_weights_sum_to_one_and_come_from_the_key(self):
        (first, _), (other, _) = (weigh(weighting.Random(), [(2.0, 1.0)], key=jax.random.key(k))[0][0] for k in (0, 1))
        assert first.sum() == pytest.approx(1) and not np.allclose(first, other)
        again = weigh(weighting.Random(), [(5.0, 3.0)])[0][0][0]
        np.testing.assert_array_equal(first, again)

    def test_scaled_by_the_start_divides_by_the_losses_of_the_first_step(self):
        found, _ = weigh(weighting.Scaled(), [(2.0, 4.0), (1.0, 8.0)])
        assert [weights.tolist() for weights, _ in found] == [[0.5, 0.25], [0.5, 0.25]]

    def test_scaled_by_the_running_mean_has_no_bias_at_the_start(self):
        found, _ = weigh(weighting.Scaled("running", 0.5), [(2.0, 4.0), (1.0, 4.0)])
        # (1/4 · 2 + 1/2 · 1) / (1 - 1/4) = 4/3.
        np.testing.assert_allclose(np.stack([w for w, _ in found]), [[0.5, 0.25], [0.75, 0.25]], rtol=1e-6)

    def test_dynamic_average_golden_values(self):
        assert weighting.average_weights(jnp.asarray([0.9, 0.5]), 2.0) == pytest.approx([1.09967, 0.90033], abs=1e-5)

    def test_dynamic_average_compares_two_windows_and_waits_for_them(self):
        losses = [(1.0, 1.0), (3.0, 3.0), (1.8, 1.0), (1.8, 1.0), (7.0, 7.0)]
        found, _ = weigh(weighting.DynamicAverage(window=2), losses)
        assert all(weights.tolist() == [1, 1] for weights, _ in found[:4])
        np.testing.assert_allclose(found[4][0], [1.09967, 0.90033], atol=1e-5)

    def test_uncertainty_is_half_the_sum_at_the_start_and_learns_its_variances(self):
        rule = weighting.Uncertainty()
        losses = jnp.asarray([2.0, 1.0])

        def loss(learned):
            return rule.weigh({}, learned, losses, Moment(KEY, jnp.zeros(()))).loss

        learned = rule.parameters(2)
        assert loss(learned) == 1.5
        # d/ds (exp(-s) L + s) / 2 at 0 is (1 - L) / 2.
        np.testing.assert_allclose(jax.grad(loss)(learned)["log_variance"], [-0.5, 0.0])

    def test_self_paced_goes_from_the_most_learned_to_all(self):
        rule = weighting.SelfPaced(first=0.1, last=10.0, momentum=0.0, chance=(math.nan, 8.0))
        losses = [(4.0, 8.0), (2.0, 8.0)]
        for progress, scale in ((0.0, 0.1), (0.5, 1.0), (1.0, 10.0)):
            weights = weigh(rule, losses, progress=progress)[0][1][0]
            expected = np.exp(-np.array([0.5, 1.0]) / scale)
            np.testing.assert_allclose(weights, 2 * expected / expected.sum(), rtol=1e-5)
        assert weigh(rule, losses)[0][0][0].tolist() == [1, 1]

    def test_famo_golden_values(self):
        rule = weighting.Famo(weight_decay=0.0)
        ((weights, loss),), state = weigh(rule, [(2.0, 1.0)])
        assert loss == pytest.approx(0.46210, abs=1e-5)
        np.testing.assert_allclose(weights, [1 / 3, 2 / 3], rtol=1e-6)
        before, after = jnp.asarray([2.0, 1.0]), jnp.asarray([1.0, 0.9])
        gradient = weighting.compare_logarithms(state["v"], before, after)
        np.testing.assert_allclose(gradient, [0.14695, -0.14695], atol=1e-5)
        # The first step of Adam is the learning rate. The member whose loss fell more loses weight.
        np.testing.assert_allclose(rule.compare(state, before, after)["v"], [-0.025, 0.025], rtol=1e-4)

    def test_famo_weights_are_the_gradient_of_its_loss(self):
        rule = weighting.Famo()
        state = {**rule.start(2), "v": jnp.asarray([0.3, -0.2])}
        losses = jnp.asarray([2.0, 0.5])
        weighed = rule.weigh(state, {}, losses, Moment(KEY, jnp.zeros(())))
        gradient = jax.grad(lambda x: rule.weigh(state, {}, x, Moment(KEY, jnp.zeros(()))).loss)(losses)
        np.testing.assert_allclose(weighed.weights, gradient, rtol=1e-5)


def pcgrad_by_hand(vectors: np.ndarray, orders) -> np.ndarray:
    total = np.zeros(vectors.shape[1])
    for own, order in enumerate(orders):
        moved = vectors[own].copy()
        for other in order:
            overlap = moved @ vectors[other]
            if other != own and overlap < 0:
                moved -= overlap / (vectors[other] @ vectors[other]) * vectors[other]
        total += moved
    return total


class TestGradients:
    def test_pcgrad_golden_values(self):
        vectors = np.array([[1.0, 0.0], [-0.5, 0.5]])
        weights = gradients.project_conflicts(jnp.asarray(vectors @ vectors.T, jnp.float32), KEY)
        np.testing.assert_allclose(weights @ vectors, [0.5, 1.0], atol=1e-6)

    def test_pcgrad_of_three_in_random_orders(self):
        vectors = np.random.default_rng(1).standard_normal((3, 4))
        vectors[1:] -= 0.8 * vectors[0]
        keys = jax.random.split(KEY, 3)
        expected = pcgrad_by_hand(vectors, [np.asarray(jax.random.permutation(key, 3)) for key in keys])
        weights = gradients.project_conflicts(jnp.asarray(vectors @ vectors.T, jnp.float32), KEY)
        np.testing.assert_allclose(np.asarray(weights) @ vectors, expected, atol=1e-5)

    def test_pcgrad_leaves_what_agrees_and_what_is_nothing(self):
        vectors = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
        weights = gradients.project_conflicts(jnp.asarray(vectors @ vectors.T, jnp.float32), KEY)
        assert weights.tolist() == [1, 1, 1]

    def test_gradnorm_golden_values(self):
        loss, slope = gradients.balance_norms(jnp.ones(2), jnp.asarray([2.0, 1.0]), jnp.asarray([0.8, 0.4]), 1.5)
        assert loss == pytest.approx(0.49290, abs=1e-5)
        assert slope.tolist() == [-2, 1]

    def test_gradnorm_keeps_the_sum_of_its_weights_and_does_not_depend_on_units(self):
        rule = gradients.GradNorm(learning_rate=0.3)
        found = []
        for unit in (1.0, 1000.0):
            products = unit**2 * jnp.diag(jnp.asarray([4.0, 1.0]))
            state = {"w": jnp.ones(2), "first": unit * jnp.ones(2)}
            used, state = rule.weigh_gradients(state, products, unit * jnp.asarray([0.8, 0.4]), KEY)
            assert used.tolist() == [1, 1]
            found.append(state["w"])
        # Slopes (-2, 1) over the mean norm 1.5, scaled back to the sum 2.
        moved = np.array([1 + 0.3 * 2 / 1.5, 1 - 0.3 / 1.5])
        for weights in found:
            np.testing.assert_allclose(weights, 2 * moved / moved.sum(), rtol=1e-5)


def measured(member=0, score=0.0, progress=0.0, time=0, cost=1.0) -> Measured:
    numbers = (jnp.float32(score), jnp.float32(progress), jnp.int32(time), jnp.float32(cost))
    return Measured(jnp.int32(member), *numbers)


def follow(rule, steps, count=2):
    state = rule.start(count)
    for number, step in enumerate(steps):
        state = rule.learn(state, measured(time=number, **step), jax.random.fold_in(KEY, number))
    return state


class TestRules:
    def test_slope_golden_value(self):
        scores = jnp.asarray([0.1, 0.2, 0.4])
        assert choosing.slope(jnp.arange(3.0), scores) == pytest.approx(0.15)
        missing = jnp.asarray([jnp.nan, 0.1, 0.2, 0.4])
        assert choosing.slope(jnp.asarray([jnp.nan, 0, 1, 2]), missing) == pytest.approx(0.15)

    def test_exp3s_golden_values(self):
        rule = Exp3S(eta=0.1, largest_share=1.0)
        w = choosing.share_weights(jnp.zeros(3), 0, 1.0, 1, rule)
        np.testing.assert_allclose(w - w[0], [0, 0.16121, 0.16121], atol=1e-5)
        np.testing.assert_allclose(choosing.explore(w, 0.05), [0.30026, 0.34987, 0.34987], atol=1e-5)
        for draw, (arm, reward) in enumerate([(0, 1.0), (1, -1.0)], start=2):
            w = choosing.share_weights(w, arm, reward, draw, rule)
        expected = np.array([0.19304, 0.02379, 0.17008])
        np.testing.assert_allclose(w - w.max(), expected - expected.max(), atol=1e-5)
        np.testing.assert_allclose(choosing.explore(w, 0.05), [0.35336, 0.30093, 0.34571], atol=1e-5)

    def test_exp3s_does_not_overflow_and_counts_the_first_draw_by_default(self):
        w = jnp.zeros(3)
        for draw in range(1, 100):
            w = choosing.share_weights(w, 0, 1.0, draw, Exp3S(eta=100.0))
        assert np.isfinite(w).all() and choosing.explore(w, 0.05)[0] > 0.9
        first = choosing.share_weights(jnp.zeros(3), 0, 1.0, 1, Exp3S(eta=0.1))
        assert first[0] > first[1]

    def test_rewards_are_scaled_by_quantiles_of_the_past(self):
        past = jnp.asarray([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, jnp.nan])
        scaled = [float(choosing.scale_reward(jnp.float32(x), past, 0.2, 0.8)) for x in (0.0, 1.0, 2.5, 4.0, 9.0)]
        assert scaled == pytest.approx([-1, -1, 0, 1, 1])
        for alike in (jnp.full(5, jnp.nan), jnp.ones(5)):
            assert choosing.scale_reward(jnp.float32(3.0), alike, 0.2, 0.8) == 0

    def test_online_moves_towards_the_changes_of_the_score(self):
        state = follow(choosing.Online(), [{"score": -1.0}, {"score": -0.8}, {"member": 1, "score": -1.0}])
        # Nothing is known of a member before it is measured twice.
        np.testing.assert_allclose(choosing.Online().estimate(state, KEY), [0.02, 1.0], atol=1e-6)

    def test_window_takes_the_slope_over_true_times_and_one_before_there_is_any(self):
        rule = choosing.Window(window=2)
        steps = [{"score": 9.0}, {"score": -1.0}, {"member": 1, "score": 0.0}, {"score": -0.6}]
        estimate = rule.estimate(follow(rule, steps), KEY)
        np.testing.assert_allclose(estimate, [0.2, 1.0], atol=1e-6)

    def test_sampling_draws_a_change_that_was_seen(self):
        rule = choosing.Sampling(window=3)
        steps = [{"member": m, "score": s} for m, s in ((0, -1.0), (0, -0.5), (0, -0.4), (1, -1.0), (1, -0.7))]
        state = follow(rule, steps)
        chosen = [int(jnp.argmax(rule.probabilities(state, jnp.int32(5), 2, jax.random.key(k)))) for k in range(40)]
        # Member 0 changed by 0.5 or by 0.1, member 1 by 0.3.
        assert 8 < sum(chosen) < 32

    def test_ties_are_broken_at_random_and_the_rest_is_explored(self):
        found = [choosing.mostly_best(jnp.asarray([1.0, 1.0, 0.0]), 0.3, jax.random.key(k)) for k in range(20)]
        assert {int(jnp.argmax(p)) for p in found} == {0, 1}
        np.testing.assert_allclose(sorted(found[0].tolist()), [0.1, 0.1, 0.8], atol=1e-6)

    def test_random_and_round_robin(self):
        assert choosing.Uniform().probabilities({}, jnp.int32(0), 4, KEY).tolist() == [0.25] * 4
        turns = [int(jnp.argmax(choosing.RoundRobin().probabilities({}, jnp.int32(t), 3, KEY))) for t in range(4)]
        assert turns == [0, 1, 2, 0]

    @pytest.mark.parametrize("name", ["tscl_online", "tscl_naive", "tscl_window", "tscl_sampling", "exp3s"])
    def test_planted_problem(self, name):
        """Member 1 of three learns by 5 % an interval, the others by next to nothing."""
        rule = tables.make_rule(name, 3, 150)
        rates = jnp.asarray([0.0005, 0.05, 0.0002])

        def interval(carry, time):
            state, losses = carry
            keys = jax.random.split(jax.random.fold_in(KEY, time), 3)
            chosen = jax.random.categorical(keys[0], jnp.log(rule.probabilities(state, time, 3, keys[1])))
            new = losses.at[chosen].multiply(1 - rates[chosen])
            seen = Measured(chosen, -new[chosen], rates[chosen], time, jnp.ones(()))
            return (rule.learn(state, seen, keys[2]), new), chosen

        start = (rule.start(3), jnp.ones(3))
        chosen = np.asarray(jax.jit(lambda: jax.lax.scan(interval, start, jnp.arange(150))[1])())
        # As long as it still learns much: a score is a fall in units of the first loss.
        assert (chosen[10:60] == 1).mean() > (0.4 if name == "exp3s" else 0.7)


class TestBadFields:
    @pytest.mark.parametrize(
        "given, message",
        [
            ({"name": "fixed", "factors": {"a": 1.0}}, "weights.factors.b is nan; it must be at least 0, and given"),
            ({"name": "fixed", "factors": {"a": 0, "b": 0}}, "above 0 for some member"),
            ({"name": "fixed", "factors": {"c": 1.0}}, "weights.factors: 'c' is no member: there are a, b"),
            ({"name": "scaled", "by": "end", "momentum": 0.9}, "weights.by is end; it must be start or running"),
            ({"name": "scaled", "by": "running", "momentum": 1.0}, "weights.momentum is 1.0"),
            ({"name": "dwa", "temperature": 0, "window": 1}, "weights.temperature is 0; it must be above 0"),
            ({"name": "famo"}, "weights 'famo' has the fields learning_rate, weight_decay, not none"),
            ("fame", "unknown weights 'fame': known are equal, fixed, scaled"),
        ],
    )
    def test_weightings(self, given, message):
        with pytest.raises(UserError, match=message):
            tables.make_weighting(given, ("a", "b"))

    @pytest.mark.parametrize(
        "name, changes, message",
        [
            ("exp3s", {"low": 0.9}, "teacher.low is 0.9; it must be at least 0 and below `high`"),
            ("exp3s", {"epsilon": 0.0}, "teacher.epsilon is 0.0; it must be above 0"),
            ("tscl_online", {"policy": "best"}, "teacher.policy is best; it must be greedy or boltzmann"),
            ("tscl_window", {"window": 1}, "teacher.window is 1; it must be at least 2"),
        ],
    )
    def test_rules(self, name, changes, message):
        with pytest.raises(UserError, match=message):
            tables.make_rule({**tables.default_fields("teacher", name), **changes}, 2, 10)
