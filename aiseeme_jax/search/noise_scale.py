"""The gradient noise scale: up to about which batch size a larger one pays (McCandlish et al., arXiv 1812.06162)."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aiseeme_jax import seeds
from aiseeme_jax.pretext import pacing
from aiseeme_jax.task import Task
from aiseeme_jax.training.step import split_state

# A batch is cut into so many.
PARTS = 8


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """What was measured.

    Attributes:
      small, large: the two batch sizes.
      gradient: estimate of the squared norm of the true gradient.
      noise: estimate of the trace of the covariance of the gradient of one image.
      value: noise over gradient, in images; None if it is not resolved.
    """

    small: int
    large: int
    gradient: float
    noise: float
    value: float | None
    sentence: str


def estimate(small: int, large: int, of_small: float, of_large: float) -> NoiseScale:
    """The noise scale from mean squared norms of the gradient on batches of two sizes (appendix A.1).

    The two estimates are divided only after the means over batches: the mean of ratios would be biased.
    """
    gradient = (large * of_large - small * of_small) / (large - small)
    noise = (of_small - of_large) / (1 / small - 1 / large)
    if not (gradient > 0 and noise > 0):
        sentence = "not resolved: the estimate of the gradient or of its noise is not positive."
        return NoiseScale(small, large, gradient, noise, None, sentence)
    value = noise / gradient
    sentence = f"{value:.3g} images at the beginning of the stage; it grows. Far larger batches save few steps."
    return NoiseScale(small, large, gradient, noise, value, sentence)


def measure(
    task: Task, batches: Callable[[int], Iterable[dict[str, Array]]], count: int, size: int, seed: int
) -> NoiseScale:
    """The noise scale of a task as it is. It is not changed.

    Batch normalisation makes the loss of an image depend a little on the others of its part, which is left aside.

    Args:
      batches: start step -> iterator, as `data.Batches`.
      count: batches that are used.
      size: images in each.

    Raises ValueError unless each image has a loss of its own, and batches can be cut.
    """
    reason = find_obstacle(task, size)
    if reason:
        raise ValueError(reason)
    graph, params, rest = split_state(task)
    squared = jax.jit(functools.partial(_squared_norm, graph), static_argnums=0)
    key, small = jax.random.key(seeds.derive(seed, "noise scale")), size // PARTS
    whole, parts = [], []
    for number, batch in enumerate(itertools.islice(batches(0), count)):
        step_key = jax.random.fold_in(key, number)
        whole.append(float(squared(size, params, rest, batch, 0, step_key)))
        for part in range(PARTS):
            part_key = jax.random.fold_in(step_key, part)
            parts.append(float(squared(small, params, rest, batch, part * small, part_key)))
    return estimate(small, size, float(np.mean(parts)), float(np.mean(whole)))


def find_obstacle(task: Task, size: int) -> str:
    """Why the noise scale of a task cannot be measured; '' if it can."""
    if task.MINIMUM_BATCH > 1:
        return "not measured: the loss of an image depends on the others of its batch."
    if task.NAME in pacing.COMBINED:
        return "not measured: the stage has several tasks."
    if task.AT_EPOCH != "never":
        return "not measured: the task needs the features of all images first."
    if size // PARTS < 2:
        return f"not measured: batches of {size} images cannot be cut into {PARTS}."
    return ""


def _squared_norm(
    graph: nnx.GraphDef,
    size: int,
    params: nnx.State,
    rest: nnx.State,
    batch: dict[str, Array],
    start: Int[Array, ""],
    key: PRNGKeyArray,
) -> Float[Array, ""]:
    """Of the gradient on so many images of a batch."""
    batch = {name: jax.lax.dynamic_slice_in_dim(value, start, size) for name, value in batch.items()}

    def loss(params):
        task = nnx.merge(graph, params, rest)
        return task.loss(task.views(key, batch), jnp.zeros(())).loss

    return optax.global_norm(jax.grad(loss)(params)) ** 2
