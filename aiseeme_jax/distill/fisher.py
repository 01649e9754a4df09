"""Fisher information: how much each parameter of a backbone matters to the loss of a task."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from aiseeme_jax.task import Task


def estimate_fisher(task: Task, batches: Iterable[dict[str, Array]], key: PRNGKeyArray) -> nnx.Module:
    """Diagonal Fisher information of the backbone's parameters in the loss of the task, in the form of a backbone.

    Its parameters are F_i = B mean_b (d L_b / d w_i)^2 over the batches b of B images, L_b being the mean loss of the
    batch. If the loss is a mean over images and its gradient vanishes on average, as at the end of a stage, this
    estimates the mean over images of their squared gradients. A loss that compares the images of a batch, such as a
    contrastive one, has no gradient of a single image. This form is ours: Kirkpatrick et al. (2017) define the Fisher
    information of a likelihood.

    Views are drawn and norms work as in training; the task is left as it was. The loss is that of the stage's end. If a
    step of the task can go several ways, batches take them in turn.

    Args:
      key: batch number n draws its views with n folded into it.

    Raises ValueError without a batch.
    """
    graph, state = nnx.split(task)
    state = nnx.as_pure(state)
    # Jitted here, so that what is compiled goes when this is done.
    ways = [jax.jit(functools.partial(_squares, graph, way)) for way in range(task.alternatives)]
    total, count = None, 0
    for count, batch in enumerate(batches, start=1):
        squares = ways[(count - 1) % len(ways)](state, batch, jax.random.fold_in(key, count - 1))
        total = squares if total is None else jax.tree.map(jnp.add, total, squares)
    if total is None:
        raise ValueError("Fisher information needs at least one batch")
    found = nnx.clone(task.backbone)
    nnx.update(found, jax.tree.map(lambda x: x / count, total))
    return found


def _squares(graph: nnx.GraphDef, way: int, state: nnx.State, batch: dict[str, Array], key: PRNGKeyArray) -> nnx.State:
    """B (d L / d w)^2 of the backbone's parameters."""

    def loss(weights):
        task = nnx.merge(graph, state)
        task.turn = way
        nnx.update(task.backbone, weights)
        return task.loss(task.views(key, batch), jnp.ones(())).loss

    weights = nnx.as_pure(nnx.state(nnx.merge(graph, state).backbone, nnx.Param))
    images = batch["image"].shape[0]
    return jax.tree.map(lambda g: images * jnp.square(g), jax.grad(loss)(weights))
