"""A bandit: one member in each step, chosen anew for each interval by what its last intervals taught."""

import functools
import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.pacing.choosing import Measured
from aiseeme_jax.pretext.pacing.combined import Combined, keep_state, read_state, write_state
from aiseeme_jax.pretext.pacing.tables import align, make_rule
from aiseeme_jax.task import Output, Setting, Task

# Members fold their numbers into the key of a step. This one counts from the middle of the numbers.
CHOOSING = 2**31
# No ratio is taken of a smaller loss.
SMALLEST = 1e-8


class Bandit(Combined):
    """In each step the loss of one member. Heads, statistics and optimizer state of the others stay as they are.

    At the end of an interval the rule learns how the loss of the chosen member fell in it, and draws the next one.
    Steps that are undone do not count.

    Args:
      members: tasks around one backbone, by name.
      teacher: the rule and its fields, as `pacing.default_fields` has them.
      interval: steps of an interval, at least 2.
      costs: compute of a step of a member beside that of others; 1 where it is not given.

    Raises UserError as `Combined` does, for a field out of its range, and for fewer intervals than members.
    """

    NAME = "bandit"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: None,
        setting: Setting,
        *,
        members: Mapping[str, Task] = MappingProxyType({}),
        teacher: Mapping[str, Any] | str = "exp3s",
        interval: int = 20,
        costs: Mapping[str, float] = MappingProxyType({}),
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, setting, members)
        count = self.alternatives = len(self.names)
        intervals = _count_intervals(setting, interval, count)
        self.interval = interval
        self.rule = make_rule(teacher, count, intervals)
        self.costs = tuple(1.0 if math.isnan(cost) else cost for cost in align("costs", costs, self.names))
        if not min(self.costs) > 0:
            raise UserError(f"bandit: a cost is {min(self.costs)}; each must be above 0")
        zero = jnp.zeros((), jnp.int32)
        self.learned = keep_state(self.rule.start(count))
        self.record = keep_state(
            {
                "done": zero,
                "member": zero,
                "sum": jnp.zeros(()),
                "moment": jnp.zeros(()),
                "first": jnp.full(count, jnp.nan),
                "choices": jnp.full(intervals, -1, jnp.int32),
            }
        )

    def views(self, key: PRNGKeyArray, batch):
        return self.member_views(self.turn, key, batch)

    def shown_images(self, views):
        return self.members[self.names[self.turn]].shown_images(views)

    def loss(self, views, progress) -> Output:
        output = self.member_loss(self.turn, views, progress)
        above = jax.lax.stop_gradient(output.loss) - self.lowest[self.turn]
        record = read_state(self.record)
        at = record["done"] % self.interval
        write_state(
            self.record,
            {"done": record["done"] + 1, "sum": record["sum"] + above, "moment": record["moment"] + at * above},
        )
        return output

    def choose(self, key: PRNGKeyArray, progress: Float[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        state = {"learned": read_state(self.learned), "record": read_state(self.record)}
        time, taken = jnp.divmod(state["record"]["done"], self.interval)
        # The first step of an interval may be undone; the choice stays.
        begins = (taken == 0) & (state["record"]["choices"][time] < 0)
        begin = functools.partial(self._begin_interval, jax.random.fold_in(key, CHOOSING))
        state = jax.lax.cond(begins, begin, lambda known: known, state)
        write_state(self.learned, state["learned"])
        write_state(self.record, state["record"])
        return state["record"]["member"], self.interval - taken

    def _begin_interval(self, key: PRNGKeyArray, state: dict[str, Any]) -> dict[str, Any]:
        """What is known, and who is next, after an interval or before the first one."""
        record, time = state["record"], state["record"]["done"] // self.interval
        learn_key, estimate_key, draw_key = jax.random.split(key, 3)
        first, measured = self._measure(record)
        learned = self.rule.learn(state["learned"], measured, learn_key)
        some = record["done"] > 0
        keep = lambda new, old: jnp.where(some, new, old).astype(old.dtype)  # noqa: E731
        learned, first = jax.tree.map(keep, (learned, first), (state["learned"], record["first"]))
        probabilities = self.rule.probabilities(learned, time, len(self.names), estimate_key)
        member = jax.random.categorical(draw_key, jnp.log(probabilities)).astype(jnp.int32)
        record = {
            **record,
            "member": member,
            "sum": jnp.zeros(()),
            "moment": jnp.zeros(()),
            "first": first,
            "choices": record["choices"].at[time].set(member),
        }
        return {"learned": learned, "record": record}

    def _measure(self, record: dict[str, Array]) -> tuple[Float[Array, " n"], Measured]:
        """The first mean loss of each member, and what the interval that has ended showed."""
        length, member = self.interval, record["member"]
        mean = record["sum"] / length
        spread = length * (length**2 - 1) / 12
        slope = (record["moment"] - (length - 1) / 2 * record["sum"]) / spread
        known = record["first"][member]
        first = record["first"].at[member].set(jnp.where(jnp.isnan(known), mean, known))
        cost = jnp.asarray(self.costs)[member]
        score = -mean / jnp.maximum(first[member], SMALLEST)
        progress = -slope / jnp.maximum(mean, SMALLEST) / cost
        return first, Measured(member, score, progress, record["done"] // length - 1, cost)

    def frozen(self, progress: Float[Array, ""]) -> dict[str, Bool[Array, ""]]:
        chosen, found = self.record["member"].get_value(), {}
        for number, name in enumerate(self.names):
            found[f"members.{name}"] = chosen != number
            found |= self.member_frozen(number, progress)
        return found

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.members[self.names[self.turn]].after_update(progress)

    def summary(self) -> dict[str, Any]:
        """How many steps went to which member, in their order, neighbouring intervals of one member joined."""
        choices, done = np.asarray(self.record["choices"].get_value()), int(self.record["done"].get_value())
        taken = choices[: math.ceil(done / self.interval)].tolist()
        lengths = [min(self.interval, done - i * self.interval) for i in range(len(taken))]
        runs = itertools.groupby(zip(taken, lengths, strict=True), key=lambda pair: pair[0])
        return {
            "pacing": {
                "kind": self.NAME,
                "members": list(self.names),
                "interval": self.interval,
                "runs": [[self.names[member], sum(length for _, length in run)] for member, run in runs],
            }
        }


def _count_intervals(setting: Setting, interval: int, members: int) -> int:
    if interval < 2:
        raise UserError(f"bandit: `interval` is {interval}; it must be at least 2, so that a loss can fall in it")
    intervals = math.ceil(setting.steps / interval)
    if intervals < members:
        raise UserError(
            f"bandit: {setting.steps} steps are {intervals} intervals of {interval}, fewer than the {members} members; "
            "lower `interval` or lengthen the stage"
        )
    return intervals
