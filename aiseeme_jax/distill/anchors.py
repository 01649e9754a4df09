"""Kinds that hold on to weights: penalties on leaving them, Fisher information, and the merge of two backbones."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax.distill import losses as own
from aiseeme_jax.distill.features import Seen
from aiseeme_jax.distill.terms import Term
from aiseeme_jax.task import Task


class L2SP(nnx.Module):
    """1/2 |w - w*|^2 over the backbone's parameters, w* the teacher's (Li et al., ICML 2018); the weight is alpha.

    Of several teachers the mean of their penalties.
    """

    def __init__(self, term: Term, task: Task, frozen: Any, *, dtype: str, rngs: nnx.Rngs):
        self.term = term

    def __call__(self, task: Task, seen: Seen, frozen: Any) -> Float[Array, ""]:
        weights = leaves(task.backbone)
        found = [self.penalty(weights, frozen, name) for name in self.term.teachers]
        return sum(found) / len(found)

    def penalty(self, weights: list[Array], frozen: Any, name: str) -> Float[Array, ""]:
        return own.quadratic(weights, leaves(frozen.backbones[name]))


class EWC(L2SP):
    """1/2 sum_i F_i (w_i - w*_i)^2, F the Fisher information of the teacher's stage (Kirkpatrick et al., 2017).

    The weight is lambda.
    """

    def penalty(self, weights: list[Array], frozen: Any, name: str) -> Float[Array, ""]:
        return own.quadratic(weights, leaves(frozen.backbones[name]), leaves(frozen.fishers[name]))


def leaves(backbone: nnx.Module) -> list[Array]:
    """The parameters, in a fixed order."""
    return jax.tree.leaves(nnx.as_pure(nnx.state(backbone, nnx.Param)))


def fisher(task: Task, batches: Iterable[dict[str, Array]], key: PRNGKeyArray) -> nnx.Module:
    """Diagonal Fisher information of the backbone's parameters in the loss of the task, in the form of a backbone.

    Its parameters hold F_i = B mean_b (d L_b / d w_i)^2 over the batches b of B images, L_b being the mean loss of the
    batch. Where the loss is a sum over images and its gradient vanishes in the mean, as at the end of a stage, that
    estimates the mean over images of their squared gradients; a loss over the batch as a whole, such as a contrastive
    one, has no other. Ours: Kirkpatrick et al. (2017) write it for a likelihood. Views are drawn and norms work as in
    training; the task is left as it was.

    Args:
      key: batch number n draws its views with n folded into it.
    """
    graph, state = nnx.split(task)
    state = nnx.as_pure(state)
    # Jitted here, so that what is compiled goes when this is done.
    squares_of = jax.jit(functools.partial(_squares, graph))
    total, count = None, 0
    for count, batch in enumerate(batches, start=1):
        squares = squares_of(state, batch, jax.random.fold_in(key, count - 1))
        total = squares if total is None else jax.tree.map(jnp.add, total, squares)
    if total is None:
        raise ValueError("Fisher information needs at least one batch")
    found = nnx.clone(task.backbone)
    nnx.update(found, jax.tree.map(lambda x: x / count, total))
    return found


def _squares(graph: nnx.GraphDef, state: nnx.State, batch: dict[str, Array], key: PRNGKeyArray) -> nnx.State:
    """B (d L / d w)^2 of the backbone's parameters."""

    def loss(weights):
        task = nnx.merge(graph, state)
        nnx.update(task.backbone, weights)
        return task.loss(task.views(key, batch)).loss

    weights = nnx.as_pure(nnx.state(nnx.merge(graph, state).backbone, nnx.Param))
    images = batch["image"].shape[0]
    return jax.tree.map(lambda g: images * jnp.square(g), jax.grad(loss)(weights))


def average(trained: nnx.Module, teachers: Sequence[nnx.Module], share: float) -> nnx.Module:
    """(1 - share) trained + share times the mean of the teachers: parameters and running statistics.

    Share 0 gives the bits of the one, share 1 those of the mean of the others. The statistics of merged weights are
    not the merged statistics: a stage that follows gathers its own.
    """
    if share == 0:
        return trained
    merged = nnx.clone(trained)
    others = [nnx.as_pure(nnx.state(teacher)) for teacher in teachers]
    mean = others[0] if len(others) == 1 else jax.tree.map(lambda *x: sum(x) / len(x), *others)
    if share < 1:
        mean = jax.tree.map(lambda a, b: (1 - share) * a + share * b, nnx.as_pure(nnx.state(trained)), mean)
    nnx.update(merged, mean)
    return merged
