"""One distillation term, as a config describes it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from aiseeme_jax.errors import UserError

SCHEDULES = ("constant", "linear", "cosine")
# Not a loss: the trained backbone is averaged with its teachers when the stage has ended.
AVERAGING = "weight_average"
# Kinds that compare or average parameters. All others compare features.
PARAMETER_KINDS = ("l2_sp", "ewc", AVERAGING)


@dataclasses.dataclass(frozen=True)
class Term:
    """The fields of a term in `configs/nodes.py`, and its name in the log.

    Hashable, so it may be an attribute of a module. Raises UserError for a field out of its range.
    """

    name: str
    kind: str
    weight: float
    final_weight: float
    schedule: str
    teachers: tuple[str | int, ...]
    endpoint: str
    temperature: float
    angle: float
    hidden: int
    share: float

    def __post_init__(self):
        object.__setattr__(self, "teachers", tuple(self.teachers))
        self._check("weight", self.weight >= 0, "at least 0")
        self._check("final_weight", self.final_weight >= 0, "at least 0")
        self._check("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        self._check("teachers", len(set(self.teachers)) == len(self.teachers) > 0, "one or more, each once")
        if self.kind in (*PARAMETER_KINDS, "cassle"):
            self._check("endpoint", self.endpoint == "pooled", f"left at 'pooled' with kind '{self.kind}'")
        self._check("temperature", self.kind != "kl" or self.temperature > 0, "positive with kind 'kl'")
        self._check("angle", self.angle >= 0, "at least 0")
        self._check("hidden", self.hidden >= 0, "at least 0 (0 is derived)")
        self._check("share", 0 <= self.share <= 1, "in [0, 1]")

    def _check(self, field: str, valid: bool, wanted: str) -> None:
        if not valid:
            raise UserError(f"distill.{field} is {getattr(self, field)!r}; it must be {wanted}")

    def weight_at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The weight between the first step of a stage (progress 0) and its last one (1)."""
        shape = {"constant": 0.0, "linear": progress, "cosine": (1 - jnp.cos(jnp.pi * progress)) / 2}[self.schedule]
        return jnp.asarray(self.weight + (self.final_weight - self.weight) * shape, jnp.float32)


def nodes_by_name(config: Any) -> dict[str, Any]:
    """The config nodes of the terms in `stage.distill`: a single term is named 'loss', several have their names there.

    Terms of kind 'none' are left out.
    """
    nodes = {"loss": config} if "kind" in config else {name: config[name] for name in config}
    return {name: node for name, node in nodes.items() if node.kind != "none"}
