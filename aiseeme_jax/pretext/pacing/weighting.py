"""What a weighting of several losses is, and those that need no gradient of their own.

Each weighting is a frozen dataclass of its fields, and pure functions on arrays. Losses [N] are in the order of the
members, and each is measured from the lowest value that its task can have, so that none is negative.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax.errors import UserError

State = dict[str, Array]
# No ratio is taken of a smaller loss.
SMALLEST = 1e-8


class Moment(NamedTuple):
    """What weights may depend on beside losses: the key of the step, and the share of the stage that is done."""

    key: PRNGKeyArray
    progress: Float[Array, ""]


class Weighed(NamedTuple):
    """What a weighting makes of the losses of a step.

    Attributes:
      weights: [N] of the gradients of the losses, without a gradient of their own.
      loss: what is minimised; None: the sum of weights times losses.
      state: after the step.
    """

    weights: Float[Array, " n"]
    loss: Float[Array, ""] | None
    state: State


class Weighting:
    """A way to weigh the losses of a joint stage.

    Class attributes:
      NAME: in configs.
      SEPARATE_GRADIENTS: whether it needs the gradient of each loss: `weigh_gradients` then says the weights.
      COMPARES_LOSSES: whether it needs the losses of the same batch after the update: `compare` is then called.
      BY_MEMBER: fields that are a value for each member, by its name in a config.
    """

    NAME: ClassVar[str]
    SEPARATE_GRADIENTS: ClassVar[bool] = False
    COMPARES_LOSSES: ClassVar[bool] = False
    BY_MEMBER: ClassVar[tuple[str, ...]] = ()

    def parameters(self, count: int) -> State:
        """What the optimizer of the stage learns."""
        return {}

    def start(self, count: int) -> State:
        """The state before the first step."""
        return {}

    def weigh(self, state: State, learned: State, losses: Float[Array, " n"], moment: Moment) -> Weighed:
        """The weights of a step.

        Args:
          learned: values of `parameters`.
          losses: of the step, with their gradients.
        """
        return Weighed(jnp.ones_like(losses), None, state)

    def weigh_gradients(
        self, state: State, products: Float[Array, "n n"], losses: Float[Array, " n"], key: PRNGKeyArray
    ) -> tuple[Float[Array, " n"], State]:
        """The weights of the gradients of the shared parameters, and the state after the step.

        Args:
          products: inner products of the gradients.
        """
        raise TypeError(f"{self.NAME} weighs no gradients")

    def compare(self, state: State, before: Float[Array, " n"], after: Float[Array, " n"]) -> State:
        """The state after the losses of one batch before and after the update are known."""
        return state

    def check(self, names: tuple[str, ...]) -> None:
        """Raises UserError for a field out of its range."""


@dataclasses.dataclass(frozen=True)
class Equal(Weighting):
    """The sum of the losses."""

    NAME = "equal"


@dataclasses.dataclass(frozen=True)
class Fixed(Weighting):
    """Weights that do not change.

    Args:
      factors: a weight for each member.
    """

    NAME = "fixed"
    BY_MEMBER = ("factors",)
    factors: Any = ()

    def weigh(self, state, learned, losses, moment):
        return Weighed(jnp.asarray(self.factors, jnp.float32), None, state)

    def check(self, names):
        for name, value in zip(names, self.factors, strict=True):
            check_field(f"factors.{name}", value, value >= 0, "at least 0, and given for each member")
        check_field("factors", self.factors, sum(self.factors) > 0, "above 0 for some member")


@dataclasses.dataclass(frozen=True)
class Random(Weighting):
    """In each step the softmax of normal noise (Lin et al., arXiv 2111.10603). The weights sum to 1."""

    NAME = "random"

    def weigh(self, state, learned, losses, moment):
        return Weighed(jax.nn.softmax(jax.random.normal(moment.key, losses.shape)), None, state)


@dataclasses.dataclass(frozen=True)
class Scaled(Weighting):
    """Each loss over what it was, so that losses in different units count alike. The form is ours.

    Args:
      by: 'start', over the loss of the first step; 'running', over a running mean of the losses up to now.
      momentum: of the running mean.
    """

    NAME = "scaled"
    by: str = "start"
    momentum: float = 0.99

    def start(self, count):
        return {"mean": jnp.zeros(count), "steps": jnp.zeros((), jnp.int32)}

    def weigh(self, state, learned, losses, moment):
        now, steps = jax.lax.stop_gradient(losses), state["steps"] + 1
        if self.by == "start":
            mean = scale = jnp.where(steps == 1, now, state["mean"])
        else:
            mean = self.momentum * state["mean"] + (1 - self.momentum) * now
            scale = mean / (1 - self.momentum**steps)
        return Weighed(1 / jnp.maximum(scale, SMALLEST), None, {"mean": mean, "steps": steps})

    def check(self, names):
        check_field("by", self.by, self.by in ("start", "running"), "start or running")
        check_momentum(self.momentum)


@dataclasses.dataclass(frozen=True)
class DynamicAverage(Weighting):
    """Dynamic weight averaging: N softmax(r / T), r being the mean loss of the last window over that of the window
    before (Liu et al., CVPR 2019, eq. 7). All weights are 1 in the first two windows.

    Args:
      temperature: T.
      window: steps of a window. Published are epochs; this number is ours, as is that losses are summed.
    """

    NAME = "dwa"
    temperature: float = 2.0
    window: int = 25

    def start(self, count):
        zero = jnp.zeros((), jnp.int32)
        return {"sum": jnp.zeros(count), "last": jnp.ones(count), "before": jnp.ones(count), "steps": zero}

    def weigh(self, state, learned, losses, moment):
        started = state["steps"] >= 2 * self.window
        ratios = state["last"] / jnp.maximum(state["before"], SMALLEST)
        weights = jnp.where(started, average_weights(ratios, self.temperature), jnp.ones_like(ratios))
        total, steps = state["sum"] + jax.lax.stop_gradient(losses), state["steps"] + 1
        full = steps % self.window == 0
        state = {
            "sum": jnp.where(full, 0.0, total),
            "last": jnp.where(full, total / self.window, state["last"]),
            "before": jnp.where(full, state["last"], state["before"]),
            "steps": steps,
        }
        return Weighed(weights, None, state)

    def check(self, names):
        check_field("temperature", self.temperature, self.temperature > 0, "above 0")
        check_field("window", self.window, self.window >= 1, "at least 1")


def average_weights(ratios: Float[Array, " n"], temperature: float) -> Float[Array, " n"]:
    """N softmax(r / T)"""
    return ratios.shape[0] * jax.nn.softmax(ratios / temperature)


@dataclasses.dataclass(frozen=True)
class Uncertainty(Weighting):
    """sum [exp(-s) L + s] / 2 with learned s (Kendall et al., CVPR 2018, section 3.2). The optimizer learns s.

    Args:
      start_value: of s.
    """

    NAME = "uncertainty"
    start_value: float = 0.0

    def parameters(self, count):
        return {"log_variance": jnp.full(count, self.start_value, jnp.float32)}

    def weigh(self, state, learned, losses, moment):
        s = learned["log_variance"]
        weights = jax.lax.stop_gradient(jnp.exp(-s) / 2)
        return Weighed(weights, jnp.sum(jnp.exp(-s) * losses + s) / 2, state)


@dataclasses.dataclass(frozen=True)
class SelfPaced(Weighting):
    """N softmax(-l / lambda) with a growing lambda: first the members that have learned most, at last all alike.

    l is a running mean of each loss over its chance level. The weights minimise sum w l plus lambda times their
    negative entropy on the simplex. The growth of lambda, from `first` at the start of the stage to `last` at its end
    in equal factors, and its values are ours.

    Args:
      first, last: of lambda.
      momentum: of the running mean.
      chance: chance levels by member, such as log 4 of `rotation`; for the others the loss of the first step is taken.
    """

    NAME = "self_paced"
    BY_MEMBER = ("chance",)
    first: float = 0.1
    last: float = 10.0
    momentum: float = 0.9
    chance: Any = ()

    def start(self, count):
        known = jnp.asarray(self.chance or (jnp.nan,) * count, jnp.float32)
        return {"chance": known, "mean": jnp.zeros(count), "steps": jnp.zeros((), jnp.int32)}

    def weigh(self, state, learned, losses, moment):
        now, steps = jax.lax.stop_gradient(losses), state["steps"] + 1
        chance = jnp.where(jnp.isnan(state["chance"]), now, state["chance"])
        mean = self.momentum * state["mean"] + (1 - self.momentum) * now
        level = mean / (1 - self.momentum**steps) / jnp.maximum(chance, SMALLEST)
        weights = pace_weights(level, self.first * (self.last / self.first) ** moment.progress)
        return Weighed(weights, None, {"chance": chance, "mean": mean, "steps": steps})

    def check(self, names):
        check_field("first", self.first, self.first > 0, "above 0")
        check_field("last", self.last, self.last >= self.first, "at least `first`")
        check_momentum(self.momentum)
        for name, value in zip(names, self.chance, strict=False):
            check_field(f"chance.{name}", value, not value <= 0, "above 0")


def pace_weights(losses: Float[Array, " n"], scale: Float[Array, ""] | float) -> Float[Array, " n"]:
    """N softmax(-l / lambda)"""
    return losses.shape[0] * jax.nn.softmax(-losses / scale)


@dataclasses.dataclass(frozen=True)
class Famo(Weighting):
    """Fast adaptive multitask optimisation (Liu et al., arXiv 2306.03792, algorithm 1).

    z = softmax(v) weighs the logarithms of the losses, scaled by c = sum z / L: loss sum z log L / c. After the update
    the losses of the same batch are computed again, and Adam moves v against the gradient J_softmax(v)^T (log L before
    - log L after): a member whose loss fell more gets less weight.

    Args:
      learning_rate: of Adam.
      weight_decay: added to the gradient, times v. The authors' files have values from 0 to 0.01.
    """

    NAME = "famo"
    COMPARES_LOSSES = True
    learning_rate: float = 0.025
    weight_decay: float = 0.001

    def start(self, count):
        zeros = jnp.zeros(count)
        return {"v": zeros, "mean": zeros, "square": zeros, "steps": jnp.zeros((), jnp.int32)}

    def weigh(self, state, learned, losses, moment):
        shifted = losses + SMALLEST
        z = jax.nn.softmax(state["v"])
        scale = jax.lax.stop_gradient(jnp.sum(z / shifted))
        weights = jax.lax.stop_gradient(z / shifted) / scale
        return Weighed(weights, jnp.sum(z * jnp.log(shifted)) / scale, state)

    def compare(self, state, before, after):
        gradient = compare_logarithms(state["v"], before + SMALLEST, after + SMALLEST) + self.weight_decay * state["v"]
        steps = state["steps"] + 1
        mean = 0.9 * state["mean"] + 0.1 * gradient
        square = 0.999 * state["square"] + 0.001 * gradient**2
        move = mean / (1 - 0.9**steps) / (jnp.sqrt(square / (1 - 0.999**steps)) + 1e-8)
        return {"v": state["v"] - self.learning_rate * move, "mean": mean, "square": square, "steps": steps}

    def check(self, names):
        check_field("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        check_field("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")


def compare_logarithms(
    v: Float[Array, " n"], before: Float[Array, " n"], after: Float[Array, " n"]
) -> Float[Array, " n"]:
    """J_softmax(v)^T (log before - log after): FAMO's gradient on v."""
    z = jax.nn.softmax(v)
    fall = jnp.log(before) - jnp.log(after)
    return z * (fall - jnp.sum(z * fall))


def check_field(name: str, value: Any, fits: bool, wanted: str) -> None:
    """Raises UserError, with the name of the field and what it must be, unless its value fits."""
    if not fits:
        raise UserError(f"weights.{name} is {value}; it must be {wanted}")


def check_momentum(momentum: float) -> None:
    """Raises UserError unless a momentum leaves something of the new value."""
    check_field("momentum", momentum, 0 <= momentum < 1, "at least 0 and below 1")


SIMPLE: Mapping[str, type[Weighting]] = {
    kind.NAME: kind for kind in (Equal, Fixed, Scaled, Random, Uncertainty, DynamicAverage, Famo, SelfPaced)
}
