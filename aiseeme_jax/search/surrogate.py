"""A model of the scores of orders, and what it says is worth trying next.

The score of an order is taken to be a sum: a gain for each task that is in it, an effect for each pair of tasks that
says what it means to train one before the other, and noise. All are normal and independent (Bayesian ridge regression).
The three variances are those under which the scores so far are most likely, out of a grid. Orders are tried by their
expected improvement (Jones et al. 1998) for each stage that they add.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import norm

from aiseeme_jax.search.trials import Evidence, Order, Space, Trial

# Standard deviations of gains, of effects of pairs and of noise, in units of the spread of the scores.
GAINS, PAIRS, NOISE = (0.3, 0.6, 1.2), (0.1, 0.3, 0.6, 1.0), (0.05, 0.1, 0.2, 0.4, 0.8)
# More orders than this are not all looked at: as many are drawn.
MOST_CANDIDATES = 5000
# The search ends when the best expected improvement is below this share of the spread of the scores.
NEXT_TO_NOTHING = 0.01


def choose_orders(space: Space, evidence: Evidence, count: int, generator: np.random.Generator) -> list[Order]:
    """The orders that should be scored next, at most `count`; none if nothing is to be expected of any.

    One after the other is chosen, each time as if the last one had got the score that the model expects of it.
    """
    scored = [trial.order for trial in evidence.scores if trial.order and trial.share == 1]
    known = [order for order in scored if np.isfinite(evidence.value(Trial(order)))]
    diverged = set(scored) - set(known)
    candidates = list_candidates(space, set(scored), generator)
    candidates = [order for order in candidates if not any(order[: len(lost)] == lost for lost in diverged)]
    if len(known) < 2 or not candidates:
        return []
    values = np.array([evidence.value(Trial(order)) for order in known])
    spread = float(values.std()) or 1.0
    model = Model(space.pool, known, (values - values.mean()) / spread)
    trained, chosen = set(scored), []
    while candidates and len(chosen) < count:
        improvement = model.expected_improvement(candidates)
        worth = improvement / [_count_new(order, trained) for order in candidates]
        best = int(np.argmax(worth))
        if improvement[best] < NEXT_TO_NOTHING:
            break
        order = candidates.pop(best)
        chosen.append(order)
        trained |= {order[:length] for length in range(1, len(order) + 1)}
        model = model.with_expected(order)
        candidates = [other for other in candidates if other not in trained]
    return chosen


def list_candidates(space: Space, scored: set[Order], generator: np.random.Generator) -> list[Order]:
    """All orders that were not scored. If there are too many, some of them by chance, and all that extend scored ones.

    The latter cost a single stage.
    """
    lengths = range(1, space.longest + 1)
    if sum(map(space.count, lengths)) <= MOST_CANDIDATES:
        found = itertools.chain.from_iterable(map(space.orders, lengths))
    else:
        longer = (order for known in sorted(scored) for order in space.extend(known))
        drawn = (space.draw(generator, int(generator.choice(lengths))) for _ in range(MOST_CANDIDATES))
        found = itertools.chain(longer, drawn)
    return [order for order in dict.fromkeys(found) if order not in scored]


def _count_new(order: Order, trained: set[Order]) -> int:
    """Stages of an order that are not trained yet."""
    return sum(order[:length] not in trained for length in range(1, len(order) + 1))


@functools.lru_cache(maxsize=1 << 16)
def describe(pool: tuple[str, ...], order: Order) -> Float[np.ndarray, "f"]:
    """1, how often each task is in an order, and for each pair of tasks 1 if one comes before the other."""
    present = [float(order.count(name)) for name in pool]
    before = set(itertools.combinations(order, 2))
    return np.array([1.0, *present, *(float(pair in before) for pair in itertools.product(pool, repeat=2))])


class Model:
    """Normal distribution of the scores of all orders, given some of them.

    Args:
      pool: names of the tasks.
      orders, scores: what is known; scores have mean 0 and standard deviation 1.
      deviations: of gains, effects of pairs and noise; by default the most likely ones of the grid.
    """

    def __init__(
        self,
        pool: Sequence[str],
        orders: Sequence[Order],
        scores: Float[np.ndarray, "n"],
        deviations: tuple[float, float, float] | None = None,
    ):
        self.pool, self.orders, self.scores = tuple(pool), list(orders), np.asarray(scores, float)
        self.features = [describe(self.pool, order) for order in orders]
        if deviations is None:
            grid = itertools.product(GAINS, PAIRS, NOISE)
            deviations = max(grid, key=self._log_likelihood)
        self.deviations = deviations
        self._factor = cho_factor(self._covariance(deviations), lower=True)
        self._weights = cho_solve(self._factor, self.scores)

    def predict(self, orders: Sequence[Order]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Mean and standard deviation of the scores of orders, without noise."""
        features = np.array([describe(self.pool, order) for order in orders])
        across = self._products(features, np.array(self.features), self.deviations)
        mean = across @ self._weights
        scaled = features * self._scales(self.deviations)
        variance = (scaled**2).sum(axis=1) - (across * cho_solve(self._factor, across.T).T).sum(axis=1)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def expected_improvement(self, orders: Sequence[Order]) -> Float[np.ndarray, "n"]:
        """Expected improvement over the best known order. Its score is taken without noise, as the model has it."""
        best = self.predict(self.orders)[0].max()
        mean, deviation = self.predict(orders)
        z = (mean - best) / deviation
        return (mean - best) * norm.cdf(z) + deviation * norm.pdf(z)

    def with_expected(self, order: Order) -> "Model":
        """The model as if an order had got the score that is expected of it."""
        mean, _ = self.predict([order])
        return Model(self.pool, [*self.orders, order], np.append(self.scores, mean), self.deviations)

    def _scales(self, deviations: tuple[float, float, float]) -> Float[np.ndarray, "f"]:
        gains, pairs, _ = deviations
        # The known scores have mean 0, but the level of all is uncertain by about as much as they differ.
        return np.array([1.0] + [gains] * len(self.pool) + [pairs] * len(self.pool) ** 2)

    def _products(
        self, one: Float[np.ndarray, "n f"], other: Float[np.ndarray, "m f"], deviations: tuple[float, float, float]
    ) -> Float[np.ndarray, "n m"]:
        scales = self._scales(deviations)
        return (one * scales) @ (other * scales).T

    def _covariance(self, deviations: tuple[float, float, float]) -> Float[np.ndarray, "n n"]:
        features = np.array(self.features)
        return self._products(features, features, deviations) + deviations[2] ** 2 * np.eye(len(features))

    def _log_likelihood(self, deviations: tuple[float, float, float]) -> float:
        """Log density of the known scores, but for a constant."""
        factor = cho_factor(self._covariance(deviations), lower=True)
        fit = self.scores @ cho_solve(factor, self.scores)
        return float(-0.5 * fit - np.log(np.diag(factor[0])).sum())
