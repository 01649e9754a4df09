"""Exponential weights of progress: a rule of choice that assumes nothing of how progress changes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aiseeme_jax.pretext.pacing.choosing import Rule, check_field, check_share

# Values of progress that are kept.
RESERVOIR = 1000


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
