"""A joint stage: all members in each step, and their losses weighed."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax.pretext.pacing.combined import Combined, keep_state, read_state, round_numbers, write_state
from aiseeme_jax.pretext.pacing.tables import make_weighting
from aiseeme_jax.pretext.pacing.weighting import Moment
from aiseeme_jax.task import Bank, Output, Setting, Task

# Parts of a stage for which the mean weights are kept.
PARTS = 40
# Members fold their numbers into the key of a step. This one counts from the middle of the numbers.
WEIGHING = 2**31


class Joint(Combined):
    """The weighted sum of the losses of all members. Distillation compares on the images of the first member by name.

    Args:
      members: tasks around one backbone, by name.
      weights: the weighting and its fields, as `pacing.default_fields` has them.

    Raises UserError as `Combined` does, and for a field of the weighting out of its range.
    """

    NAME = "joint"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: None,
        setting: Setting,
        *,
        members: Mapping[str, Task] = MappingProxyType({}),
        weights: Mapping[str, Any] | str = "equal",
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, setting, members)
        count = len(self.names)
        self.weighting = make_weighting(weights, self.names)
        self.separate_gradients = self.weighting.SEPARATE_GRADIENTS
        self.compares_losses = self.weighting.COMPARES_LOSSES
        self.learned = nnx.Dict({name: nnx.Param(value) for name, value in self.weighting.parameters(count).items()})
        self.memory = keep_state(self.weighting.start(count))
        self.weights = Bank(jnp.ones(count))
        self.history = Bank(jnp.zeros((PARTS, count)))
        self.history_steps = Bank(jnp.zeros(PARTS, jnp.int32))

    def views(self, key: PRNGKeyArray, batch):
        shown = [self.member_views(number, key, batch) for number in range(len(self.names))]
        return {"members": shown, "key": jax.random.fold_in(key, WEIGHING)}

    def shown_images(self, views):
        return self.members[self.names[0]].shown_images(views["members"][0])

    def loss(self, views, progress) -> Output:
        outputs = [self.member_loss(number, shown, progress) for number, shown in enumerate(views["members"])]
        losses = jnp.stack([output.loss for output in outputs])
        learned = {name: self.learned[name].get_value() for name in self.learned}
        moment = Moment(views["key"], progress)
        weighed = self.weighting.weigh(read_state(self.memory), learned, self._above_lowest(losses), moment)
        write_state(self.memory, weighed.state)
        if not self.separate_gradients:
            self.weights.set_value(weighed.weights)
        total = jnp.sum(weighed.weights * losses) if weighed.loss is None else weighed.loss
        metrics = {name: value for output in outputs for name, value in output.metrics.items()}
        metrics |= {f"{name}_weight": self.weights.get_value()[i] for i, name in enumerate(self.names)}
        # A member without anything to learn leaves the step to the others.
        empty = jnp.all(jnp.stack([jnp.asarray(output.empty) for output in outputs]))
        first = outputs[0]
        return Output(total, metrics, first.images, first.features, empty, losses)

    def _above_lowest(self, losses: Float[Array, " n"]) -> Float[Array, " n"]:
        return losses - jnp.asarray(self.lowest)

    def combine_gradients(
        self, gradients: Sequence[nnx.State], losses: Float[Array, " n"], key: PRNGKeyArray
    ) -> nnx.State:
        """The weighted sum of the gradients of the backbone. Each head gets the plain gradient of its own loss."""
        shared = [gradient["backbone"] for gradient in gradients]
        weights, state = self.weighting.weigh_gradients(
            read_state(self.memory),
            _inner_products(shared),
            self._above_lowest(losses),
            jax.random.fold_in(key, WEIGHING),
        )
        write_state(self.memory, state)
        self.weights.set_value(weights)

        def mix(path, *leaves):
            shares = weights if path[0].key == "backbone" else jnp.ones_like(weights)
            return sum(share * leaf for share, leaf in zip(shares, leaves, strict=True))

        return jax.tree.map_with_path(mix, *gradients)

    def compare_losses(self, before: Float[Array, " n"], after: Float[Array, " n"]) -> None:
        state = read_state(self.memory)
        write_state(self.memory, self.weighting.compare(state, self._above_lowest(before), self._above_lowest(after)))

    def frozen(self, progress):
        return {path: flag for i in range(len(self.names)) for path, flag in self.member_frozen(i, progress).items()}

    def after_update(self, progress: Float[Array, ""]) -> None:
        for name in self.names:
            self.members[name].after_update(progress)
        # `progress` counts the step.
        part = jnp.clip(jnp.ceil(progress * PARTS - 1e-4).astype(jnp.int32) - 1, 0, PARTS - 1)
        self.history.set_value(self.history.get_value().at[part].add(self.weights.get_value()))
        self.history_steps.set_value(self.history_steps.get_value().at[part].add(1))

    def summary(self) -> dict[str, Any]:
        """The mean weights of each part of the stage that has steps: (last progress, weights)."""
        sums, steps = np.asarray(self.history.get_value()), np.asarray(self.history_steps.get_value())
        some = steps > 0
        means = sums[some] / steps[some, None]
        mean = sums.sum(axis=0) / max(steps.sum(), 1)
        return {
            "pacing": {
                "kind": self.NAME,
                "members": list(self.names),
                "until": [round((part + 1) / PARTS, 6) for part in np.flatnonzero(some).tolist()],
                "weights": round_numbers(means),
                "mean": round_numbers(mean[None])[0],
            }
        }


def _inner_products(trees: Sequence[Any]) -> Float[Array, "n n"]:
    def product(one, other):
        return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))

    return jnp.stack([jnp.stack([product(one, other) for other in trees]) for one in trees])
