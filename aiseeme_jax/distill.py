"""What a stage keeps of its teacher.

Contract: `make(config.distill)` gives None (kind 'none') or a function of the student's and the teacher's
pooled features of the same images, both [batch, dim], that returns a float32 scalar to add, times
`config.distill.weight`, to the loss of the task. The teacher is the frozen backbone of the previous stage: no
gradient reaches it. A new kind is one entry of `KINDS`.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from aiseeme_jax import losses

Distiller = Callable[[Float[Array, "batch dim"], Float[Array, "batch dim"]], Float[Array, ""]]


def make(config: Any) -> Distiller | None:
    """The distiller that `config` (fields kind, temperature) describes, or None for kind 'none'.

    Raises ValueError for an unknown kind, with the known ones, and for a temperature the kind cannot use.
    """
    if config.kind == "none":
        return None
    if config.kind not in KINDS:
        raise ValueError(f"distill.kind is '{config.kind}'; known: none, {', '.join(KINDS)}")
    distance = KINDS[config.kind](config)
    return lambda student, teacher: distance(student, jax.lax.stop_gradient(teacher))


def _kl(config: Any) -> Distiller:
    """T^2 KL(teacher || student) of the softmax of pooled features taken as logits (Hinton et al., 2015)."""
    temperature = config.temperature
    if not temperature > 0:
        raise ValueError(f"distill.temperature is {temperature}; kind 'kl' needs a positive one")
    return lambda student, teacher: losses.kl_distill(student, teacher, temperature=temperature)


def _mse(config: Any) -> Distiller:
    """Mean over the batch of the mean over dimensions of the squared difference of pooled features."""
    return losses.mse


KINDS: dict[str, Callable[[Any], Distiller]] = {"kl": _kl, "mse": _mse}
