"""What a joint stage and a bandit have in common: member tasks around one backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.pacing.weighting import State
from aiseeme_jax.task import Bank, Output, Setting, Task


class Combined(Task):
    """A task whose steps are those of its members. They share a backbone, and each has heads and state of its own.

    Members are in the order of their names. What a member learns at a rate of its own, freezes, draws anew at an epoch
    or does after an update, it does here too. The backbone that is handed over is the trained one, also if a member
    alone would hand over another.

    Args:
      members: by name.

    Raises UserError for fewer than two members, for a member with parts, and for members whose sizes of views differ or
    that are called at different epochs.
    """

    members: nnx.Dict

    def __init__(self, backbone: nnx.Module, setting: Setting, members: Mapping[str, Task]):
        check_members(self.NAME, members)
        self.names = tuple(sorted(members))
        at_epoch = [members[name] for name in self.names if members[name].AT_EPOCH != "never"]
        super().__init__(backbone, (at_epoch or [members[self.names[0]]])[0].spec)
        self.members = nnx.Dict({name: members[name] for name in self.names})
        self.AT_EPOCH = at_epoch[0].AT_EPOCH if at_epoch else "never"
        self.RESTARTS = self._paths(lambda member: member.RESTARTS)
        self.CONSTANT_RATE = self._paths(lambda member: member.CONSTANT_RATE)
        self.groups = max(member.groups for member in members.values())
        self.lowest = tuple(members[name].LOWEST_LOSS for name in self.names)

    def _paths(self, listed) -> tuple[str, ...]:
        return tuple(f"members.{name}.{path}" for name in self.names for path in listed(self.members[name]))

    def pictured(self) -> Sequence[Task]:
        return [self.members[name] for name in self.names]

    def member_views(self, number: int, key: PRNGKeyArray, batch: Any) -> Any:
        """The views of one member. The key of each member is another one."""
        return self.members[self.names[number]].views(jax.random.fold_in(key, number), batch)

    def member_loss(self, number: int, views: Any, progress: Float[Array, ""]) -> Output:
        """The output of one member, with its name before those of its metrics."""
        name = self.names[number]
        output = self.members[name].loss(views, progress)
        metrics = {f"{name}_loss": output.loss, **{f"{name}_{key}": value for key, value in output.metrics.items()}}
        return output.replace(metrics=metrics)

    def member_frozen(self, number: int, progress: Float[Array, ""]) -> dict[str, Bool[Array, ""]]:
        """What one member freezes, by names from the top of this task."""
        name = self.names[number]
        return {f"members.{name}.{path}": flag for path, flag in self.members[name].frozen(progress).items()}

    def at_epoch(self, features: Float[Array, "n d"], key: PRNGKeyArray) -> None:
        for number, name in enumerate(self.names):
            if self.members[name].AT_EPOCH != "never":
                self.members[name].at_epoch(features, jax.random.fold_in(key, number))


def check_members(title: str, members: Mapping[str, Task]) -> None:
    """Raises UserError unless these tasks can be the members of one stage."""
    if len(members) < 2:
        found = f"{', '.join(members)} alone" if members else "none"
        raise UserError(f"{title} needs at least two members, and has {found}: write members=(stage(…), stage(…))")
    for name, member in members.items():
        if member.parts():
            raise UserError(
                f"{title}: '{name}' has parts with optimizers of their own, which no member can have: give it a stage "
                "of its own"
            )
    shown = {
        name: (member.spec.dimensions, member.spec.size, *_normalisation(member)) for name, member in members.items()
    }
    if len(set(shown.values())) > 1:
        raise UserError(
            f"{title}: views differ in size or normalisation: "
            f"{', '.join(f'{name} has {values[1]} px' for name, values in shown.items())}; "
            "give all members one `size` and one `preset`"
        )
    times = {member.AT_EPOCH for member in members.values()} - {"never"}
    if len(times) > 1:
        names = ", ".join(name for name, member in members.items() if member.AT_EPOCH != "never")
        raise UserError(
            f"{title}: of {names}, one finds its targets once and another at each epoch, which cannot be in one stage: "
            "give one of them a stage of its own"
        )


def _normalisation(member: Task) -> tuple[Any, ...]:
    return tuple(getattr(member.spec, field, None) for field in ("mean", "std", "window"))


def keep_state(state: State) -> nnx.Dict:
    """Arrays as variables, which are saved and restored."""
    return nnx.Dict({name: Bank(value) for name, value in state.items()})


def read_state(kept: nnx.Dict) -> State:
    """The arrays of `keep_state`."""
    return {name: kept[name].get_value() for name in kept}


def write_state(kept: nnx.Dict, state: State) -> None:
    """Puts new arrays into `keep_state`."""
    for name, value in state.items():
        kept[name].set_value(value)


def round_numbers(rows: Array) -> list[list[float]]:
    """A table for a record."""
    return [[round(float(value), 6) for value in row] for row in np.asarray(rows)]
