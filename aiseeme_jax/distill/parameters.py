"""Kinds that compare parameters, not features: penalties on the distance from the teacher's, and an average."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.distill import distances
from aiseeme_jax.distill.features import Endpoints
from aiseeme_jax.distill.terms import Term
from aiseeme_jax.task import Task


class L2SP(nnx.Module):
    """1/2 |w - w*|^2 over the backbone's parameters, w* the teacher's (Li et al., ICML 2018); the weight is alpha.

    Of several teachers the mean of their penalties.
    """

    def __init__(self, term: Term, task: Task, frozen: Any, *, dtype: str, rngs: nnx.Rngs):
        self.term = term

    def __call__(self, task: Task, endpoints: Endpoints, frozen: Any) -> Float[Array, ""]:
        weights = parameter_list(task.backbone)
        found = [self.penalty(weights, frozen, name) for name in self.term.teachers]
        return sum(found) / len(found)

    def penalty(self, weights: list[Array], frozen: Any, name: str) -> Float[Array, ""]:
        return distances.quadratic(weights, parameter_list(frozen.backbones[name]))


class EWC(L2SP):
    """1/2 sum_i F_i (w_i - w*_i)^2, F the Fisher information of the teacher's stage (Kirkpatrick et al., 2017).

    The weight is lambda.
    """

    def penalty(self, weights: list[Array], frozen: Any, name: str) -> Float[Array, ""]:
        teacher, fisher = parameter_list(frozen.backbones[name]), parameter_list(frozen.fishers[name])
        return distances.quadratic(weights, teacher, fisher)


def parameter_list(backbone: nnx.Module) -> list[Array]:
    """The parameters, in a fixed order."""
    return jax.tree.leaves(nnx.as_pure(nnx.state(backbone, nnx.Param)))


def average_weights(trained: nnx.Module, teachers: Sequence[nnx.Module], share: float) -> nnx.Module:
    """(1 - share) trained + share times the mean of the teachers: parameters and running statistics.

    Share 0 gives the bits of the trained backbone, share 1 those of the mean of the teachers. The average of running
    statistics is not what the averaged weights would gather: a stage that follows gathers its own.
    """
    if share == 0:
        return trained
    averaged = nnx.clone(trained)
    others = [nnx.as_pure(nnx.state(teacher)) for teacher in teachers]
    mean = others[0] if len(others) == 1 else jax.tree.map(lambda *x: sum(x) / len(x), *others)
    if share < 1:
        mean = jax.tree.map(lambda a, b: (1 - share) * a + share * b, nnx.as_pure(nnx.state(trained)), mean)
    nnx.update(averaged, mean)
    return averaged
