"""Rules by which a bandit chooses the member of the next interval, from how much each member learned in its own.

Each rule is a frozen dataclass of its fields, and pure functions on arrays. Only the member that was trained is
measured. `docs/pacing.md` explains the rules. A rule is the `teacher` of a stage 'bandit', as Matiisen et al. call it;
it has nothing to do with the teachers of distillation.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aiseeme_jax.errors import UserError

State = dict[str, Array]
RESERVOIR = 1000


class Measured(NamedTuple):
    """What is known of the chosen member after its interval.

    Attributes:
      member: its number.
      score: minus its mean loss, over the mean loss of its first interval: it rises as the member learns.
      progress: fall of the loss in a step, by least squares, over its mean: relative progress. It and all changes of
        the score are divided by the cost of a step of the member.
      time: number of the interval, from 0.
      cost: of a step.
    """

    member: Int[Array, ""]
    score: Float[Array, ""]
    progress: Float[Array, ""]
    time: Int[Array, ""]
    cost: Float[Array, ""]


class Rule:
    """A rule. `NAME` is the name in configs."""

    NAME: ClassVar[str]

    def resolve(self, count: int, intervals: int) -> "Rule":
        """The rule for so many members and intervals: what is to be derived of its fields is set."""
        return self

    def start(self, count: int) -> State:
        """The state before the first interval."""
        return {}

    def learn(self, state: State, measured: Measured, key: PRNGKeyArray) -> State:
        """The state after an interval."""
        return state

    def probabilities(self, state: State, time: Int[Array, ""], count: int, key: PRNGKeyArray) -> Float[Array, " n"]:
        """With which probability each member is chosen for the interval number `time`."""
        raise TypeError(f"{type(self).__name__} chooses nothing")

    def check(self) -> None:
        """Raises UserError for a field out of its range."""


@dataclasses.dataclass(frozen=True)
class Uniform(Rule):
    """Every member with the same probability."""

    NAME = "random"

    def probabilities(self, state, time, count, key):
        return jnp.full(count, 1 / count)


@dataclasses.dataclass(frozen=True)
class RoundRobin(Rule):
    """One member after the other."""

    NAME = "round_robin"

    def probabilities(self, state, time, count, key):
        return jax.nn.one_hot(time % count, count)


@dataclasses.dataclass(frozen=True)
class _EstimatedProgress(Rule):
    """Teacher-student curriculum learning (Matiisen et al., arXiv 1707.00183): the member with the largest estimate of
    progress, and at times another one. The estimate is 1 until something is known of a member, so that each is tried.

    Args:
      policy: 'greedy', the best with probability 1 - epsilon and otherwise any; 'boltzmann', softmax of the estimates
        over the temperature.
      epsilon: of 'greedy'.
      temperature: of 'boltzmann', in units of relative progress. The value is ours: the published 0.0004 belongs to
        slopes of accuracies.
      absolute: whether a member that is being forgotten counts like one that learns.
    """

    policy: str = "greedy"
    epsilon: float = 0.1
    temperature: float = 0.01
    absolute: bool = False

    def estimate(self, state: State, key: PRNGKeyArray) -> Float[Array, " n"]:
        return jnp.where(jnp.isnan(state["estimate"]), 1.0, state["estimate"])

    def probabilities(self, state, time, count, key):
        estimate_key, tie_key = jax.random.split(key)
        estimates = self.estimate(state, estimate_key)
        estimates = jnp.abs(estimates) if self.absolute else estimates
        if self.policy == "boltzmann":
            return jax.nn.softmax(estimates / self.temperature)
        return mostly_best(estimates, self.epsilon, tie_key)

    def check(self):
        check_field("policy", self.policy, self.policy in ("greedy", "boltzmann"), "greedy or boltzmann")
        check_share("epsilon", self.epsilon)
        check_field("temperature", self.temperature, self.temperature > 0, "above 0")


def mostly_best(estimates: Float[Array, " n"], epsilon: float, key: PRNGKeyArray) -> Float[Array, " n"]:
    """(1 - epsilon) for the largest, ties broken at random, and epsilon / N for each."""
    count = estimates.shape[0]
    ties = estimates == jnp.max(estimates)
    best = jnp.argmax(jnp.where(ties, jax.random.uniform(key, (count,)), -1.0))
    return (1 - epsilon) * jax.nn.one_hot(best, count) + epsilon / count


def move_estimate(old: Float[Array, ""], seen: Float[Array, ""], rate: float) -> Float[Array, ""]:
    """old + rate (seen - old), from 0 if nothing is known (NaN)."""
    old = jnp.nan_to_num(old)
    return old + rate * (seen - old)


@dataclasses.dataclass(frozen=True)
class Online(_EstimatedProgress):
    """Progress is a moving average of the changes of the score since the member was last measured.

    Args:
      rate: of the moving average.
    """

    NAME = "tscl_online"
    rate: float = 0.1

    def start(self, count):
        return {"estimate": jnp.full(count, jnp.nan), "score": jnp.full(count, jnp.nan)}

    def learn(self, state, measured, key):
        at, before = measured.member, state["score"][measured.member]
        change = (measured.score - before) / measured.cost
        # A member that was never measured before has no change.
        new = jnp.where(jnp.isnan(before), jnp.nan, move_estimate(state["estimate"][at], change, self.rate))
        return {"estimate": state["estimate"].at[at].set(new), "score": state["score"].at[at].set(measured.score)}

    def check(self):
        super().check()
        check_share("rate", self.rate)


@dataclasses.dataclass(frozen=True)
class Naive(_EstimatedProgress):
    """Progress is a moving average of the slopes within the intervals of the member.

    Args:
      rate: of the moving average.
    """

    NAME = "tscl_naive"
    rate: float = 0.1

    def start(self, count):
        return {"estimate": jnp.full(count, jnp.nan)}

    def learn(self, state, measured, key):
        new = move_estimate(state["estimate"][measured.member], measured.progress, self.rate)
        return {"estimate": state["estimate"].at[measured.member].set(new)}

    def check(self):
        super().check()
        check_share("rate", self.rate)


@dataclasses.dataclass(frozen=True)
class Window(_EstimatedProgress):
    """Progress is the slope of the last scores of the member over their times.

    Args:
      window: scores that are kept of each member.
    """

    NAME = "tscl_window"
    window: int = 10

    def start(self, count):
        missing = jnp.full((count, self.window), jnp.nan)
        return {"scores": missing, "times": missing, "costs": jnp.ones(count)}

    def learn(self, state, measured, key):
        at = measured.member
        return {
            "scores": push(state["scores"], at, measured.score),
            "times": push(state["times"], at, measured.time.astype(jnp.float32)),
            "costs": state["costs"].at[at].set(measured.cost),
        }

    def estimate(self, state, key):
        known = jnp.sum(~jnp.isnan(state["scores"]), axis=1)
        slopes = jax.vmap(slope)(state["times"], state["scores"]) / state["costs"]
        return jnp.where(known >= 2, slopes, 1.0)

    def check(self):
        super().check()
        check_field("window", self.window, self.window >= 2, "at least 2")


@dataclasses.dataclass(frozen=True)
class Sampling(Rule):
    """Of each member one of its last changes of the score is drawn, and the largest wins; 1 until there is one.

    Args:
      window: changes that are kept of each member.
      absolute: whether a member that is being forgotten counts like one that learns.
    """

    NAME = "tscl_sampling"
    window: int = 10
    absolute: bool = False

    def start(self, count):
        return {"changes": jnp.full((count, self.window), jnp.nan), "score": jnp.full(count, jnp.nan)}

    def learn(self, state, measured, key):
        at, before = measured.member, state["score"][measured.member]
        pushed = push(state["changes"], at, (measured.score - before) / measured.cost)
        return {
            "changes": jnp.where(jnp.isnan(before), state["changes"], pushed),
            "score": state["score"].at[at].set(measured.score),
        }

    def probabilities(self, state, time, count, key):
        draw_key, tie_key = jax.random.split(key)
        known = jnp.sum(~jnp.isnan(state["changes"]), axis=1)
        # The newest values are at the end.
        drawn = jax.random.randint(draw_key, (count,), 0, jnp.maximum(known, 1))
        found = state["changes"][jnp.arange(count), self.window - 1 - drawn]
        found = jnp.where(known > 0, jnp.abs(found) if self.absolute else found, 1.0)
        return mostly_best(found, 0.0, tie_key)

    def check(self):
        check_field("window", self.window, self.window >= 1, "at least 1")


@dataclasses.dataclass(frozen=True)
class Exp3S(Rule):
    """Exp3.S on relative progress per unit of compute (Graves et al., arXiv 1704.03003, section 2.2).

    A progress is scaled to [-1, 1] by quantiles of those up to now. The published share alpha = 1/t gives, after the
    first interval, all that the chosen member won to the others; here it is at most `largest_share`.

    Args:
      eta: step of the log-weights; 0: sqrt(log N / (N T)) for T intervals. Published is 0.001, for about 100,000 draws.
      epsilon: probability of a uniform draw.
      beta: added to each reward.
      low, high: quantiles that become -1 and 1.
      largest_share: of alpha. The value is ours.
    """

    NAME = "exp3s"
    eta: float = 0.0
    epsilon: float = 0.05
    beta: float = 0.0
    low: float = 0.2
    high: float = 0.8
    largest_share: float = 0.5

    def resolve(self, count, intervals):
        derived = math.sqrt(math.log(count) / (count * intervals))
        return dataclasses.replace(self, eta=self.eta or derived)

    def start(self, count):
        zero = jnp.zeros((), jnp.int32)
        return {"w": jnp.zeros(count), "draws": zero, "reservoir": jnp.full(RESERVOIR, jnp.nan)}

    def learn(self, state, measured, key):
        draws = state["draws"]
        reward = scale_reward(measured.progress, state["reservoir"], self.low, self.high)
        # Reservoir sampling: every progress up to now is kept with the same probability.
        place = jnp.where(draws < RESERVOIR, draws, jax.random.randint(key, (), 0, jnp.maximum(draws + 1, 1)))
        reservoir = state["reservoir"].at[place].set(measured.progress, mode="drop")
        w = share_weights(state["w"], measured.member, reward, draws + 1, self)
        return {"w": w, "draws": draws + 1, "reservoir": reservoir}

    def probabilities(self, state, time, count, key):
        return explore(state["w"], self.epsilon)

    def check(self):
        check_field("eta", self.eta, self.eta >= 0, "at least 0 (0 is derived)")
        for name in ("epsilon", "largest_share"):
            check_share(name, getattr(self, name))
        check_field("epsilon", self.epsilon, self.epsilon > 0, "above 0")
        check_field("low", self.low, 0 <= self.low < self.high <= 1, "at least 0 and below `high`, which is at most 1")


def explore(w: Float[Array, " n"], epsilon: float) -> Float[Array, " n"]:
    """(1 - epsilon) softmax(w) + epsilon / N"""
    return (1 - epsilon) * jax.nn.softmax(w) + epsilon / w.shape[0]


def share_weights(
    w: Float[Array, " n"],
    chosen: Int[Array, ""] | int,
    reward: Float[Array, ""] | float,
    draw: int | Array,
    rule: Exp3S,
) -> Float[Array, " n"]:
    """The log-weights after draw number `draw`, counted from 1, less their largest, so that no exponential overflows.

    w_i <- log((1 - a) exp(w_i + eta r_i) + a / (N - 1) sum_{j != i} exp(w_j + eta r_j)), a = min(1 / draw, the cap)
    """
    count = w.shape[0]
    estimated = (jnp.where(jnp.arange(count) == chosen, reward, 0.0) + rule.beta) / explore(w, rule.epsilon)
    raised = w + rule.eta * estimated
    share = jnp.minimum(1.0 / draw, rule.largest_share)
    own = jnp.eye(count, dtype=bool)
    factors = jnp.where(own, 1 - share, share / (count - 1))
    new = jax.nn.logsumexp(jnp.broadcast_to(raised, (count, count)), axis=1, b=factors)
    return new - jnp.max(new)


def scale_reward(value: Float[Array, ""], past: Float[Array, " k"], low: float, high: float) -> Float[Array, ""]:
    """From -1 at the low quantile of the past to 1 at the high one; 0 while they are the same, or none is known."""
    bottom, top = jnp.nanquantile(past, low), jnp.nanquantile(past, high)
    scaled = 2 * (value - bottom) / jnp.where(top > bottom, top - bottom, 1.0) - 1
    return jnp.where(top > bottom, jnp.clip(scaled, -1.0, 1.0), 0.0)


def slope(times: Float[Array, " k"], values: Float[Array, " k"]) -> Float[Array, ""]:
    """Slope of values over times by least squares; pairs that are NaN are left out, and without two it is 0."""
    known = ~jnp.isnan(values)
    count = jnp.maximum(jnp.sum(known), 1)
    mean = lambda x: jnp.sum(jnp.where(known, x, 0.0)) / count  # noqa: E731
    offsets = times - mean(times)
    spread = jnp.sum(jnp.where(known, offsets**2, 0.0))
    return jnp.sum(jnp.where(known, offsets * (values - mean(values)), 0.0)) / jnp.where(spread > 0, spread, 1.0)


def push(table: Float[Array, "n k"], row: Int[Array, ""], value: Float[Array, ""]) -> Float[Array, "n k"]:
    """The table with a value at the end of a row, whose oldest value is gone."""
    return table.at[row].set(jnp.append(table[row][1:], value))


def check_field(name: str, value: object, fits: bool, wanted: str) -> None:
    """Raises UserError, with the name of the field and what it must be, unless its value fits."""
    if not fits:
        raise UserError(f"teacher.{name} is {value}; it must be {wanted}")


def check_share(name: str, value: float) -> None:
    """Raises UserError unless a value lies between 0 and 1."""
    check_field(name, value, 0 <= value <= 1, "from 0 to 1")


RULES: Mapping[str, type[Rule]] = {
    rule.NAME: rule for rule in (Uniform, RoundRobin, Online, Naive, Window, Sampling, Exp3S)
}
