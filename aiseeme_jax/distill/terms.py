"""One way of keeping to a teacher, as a config describes it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

SCHEDULES = ("constant", "linear", "cosine")
# What the weights of a stage are drawn to, or merged with; no features are compared.
OF_WEIGHTS = ("l2_sp", "ewc", "weight_average")


@dataclasses.dataclass(frozen=True)
class Term:
    """The fields of a term in `configs/base.py`, and the name it goes by in the log.

    Hashable, so it may be an attribute of a module. Raises ValueError for a field out of its range.
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
        if self.kind in (*OF_WEIGHTS, "cassle"):
            self._check("endpoint", self.endpoint == "pooled", f"left at 'pooled' with kind '{self.kind}'")
        self._check("temperature", self.kind != "kl" or self.temperature > 0, "positive with kind 'kl'")
        self._check("angle", self.angle >= 0, "at least 0")
        self._check("hidden", self.hidden >= 0, "at least 0 (0 is derived)")
        self._check("share", 0 <= self.share <= 1, "in [0, 1]")

    def _check(self, field: str, valid: bool, wanted: str) -> None:
        if not valid:
            raise ValueError(f"distill.{field} is {getattr(self, field)!r}; it must be {wanted}")

    def weight_at(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """The weight when a share of the stage is done: 0 at the first step, 1 at the last."""
        shape = {"constant": 0.0, "linear": progress, "cosine": (1 - jnp.cos(jnp.pi * progress)) / 2}[self.schedule]
        return jnp.asarray(self.weight + (self.final_weight - self.weight) * shape, jnp.float32)


def named(config: Any) -> dict[str, Any]:
    """The nodes of the terms in `stage.distill` by name: itself, if it is a single one, or all it holds.

    Those of kind 'none' are left out.
    """
    nodes = {"loss": config} if "kind" in config else {name: config[name] for name in config}
    return {name: node for name, node in nodes.items() if node.kind != "none"}
