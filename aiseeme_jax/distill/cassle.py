"""CaSSLe (Fini et al., CVPR 2022): a predictor must recover the frozen projection from the student's projection.

The predictor g stands between the two, so that the student may learn more than its teacher knew. The two sides are
compared as the loss of the task compares embeddings: `Task.EMBEDDING_DISTANCE`.

CaSSLe freezes the encoder and the projector as they are at the start of the stage. In a curriculum the projector is new
at that moment, since a stage hands over its backbone only, and the next task may be another one. So the frozen
projection is the teacher's pooled features through a frozen copy of the student's projector as the stage begins. This
is the same definition, and the only one that puts both sides into the space that the task's loss is made for. The norms
of that projector have no running averages yet, so they take the statistics of the batch. For a task without a
projector, the pooled features are compared by their mean squared difference.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import losses
from aiseeme_jax.distill import distances
from aiseeme_jax.distill.features import Endpoints, make_predictor
from aiseeme_jax.distill.terms import Term
from aiseeme_jax.task import Task

# Constants of the authors' code.
CONTRASTIVE_TEMPERATURE = 0.2
PROTOTYPE_TEMPERATURE = 0.1
INVARIANCE = 25.0
OFF_DIAGONAL = 5e-3
CORRELATION_SCALE = 0.1

Compare = Callable[[Array, Array], Float[Array, ""]]


def _cosine(prediction: Array, target: Array) -> Float[Array, ""]:
    return 2 * distances.cosine(prediction, target)


def _invariance(prediction: Array, target: Array) -> Float[Array, ""]:
    return INVARIANCE * losses.mse(prediction, target)


def _cross_correlation(prediction: Array, target: Array) -> Float[Array, ""]:
    return CORRELATION_SCALE * losses.barlow_twins(prediction, target, off_diagonal_weight=OFF_DIAGONAL)


DISTANCES: dict[str, Compare] = {
    "contrastive": functools.partial(distances.contrastive, temperature=CONTRASTIVE_TEMPERATURE),
    "cosine": _cosine,
    "mse": losses.mse,
    "invariance": _invariance,
    "cross_correlation": _cross_correlation,
}


class Prototypes(nnx.Variable):
    """Directions [d, K] as they were at the start of a stage."""


class FrozenProjection(nnx.Module):
    """The task's projector and prototypes as they are when the stage begins."""

    def __init__(self, task: Task):
        module, prototypes = task.projection(), task.prototypes()
        self.module = None if module is None else nnx.clone(module)
        self.prototypes = None if prototypes is None else Prototypes(prototypes)

    def __call__(self, features: Float[Array, "m d"]) -> Float[Array, "m k"]:
        return project(self.module, features)


def project(module: nnx.Module | None, features: Float[Array, "m d"]) -> Float[Array, "m k"]:
    """Projections by the statistics of the batch; running averages stay as they are. Without a module, the features."""
    if module is None:
        return features
    module = nnx.clone(module)
    rows = module(features) if isinstance(module, nnx.Linear) else module(features, train=True)
    return rows.astype(jnp.float32)


class CaSSLe(nnx.Module):
    """D(g(z), z of the teacher), over all views of the batch at once, at least three.

    Raises ValueError if the task's EMBEDDING_DISTANCE is not known.
    """

    # g normalises its hidden layer by the statistics of the batch, which makes 1 and -1 of any two values.
    MINIMUM_ROWS = 3

    def __init__(self, term: Term, task: Task, frozen: Any, *, dtype: str, rngs: nnx.Rngs):
        self.term = term
        self.distance = "mse" if task.projection() is None else task.EMBEDDING_DISTANCE
        prototypes = task.prototypes()
        known = self.distance in (*DISTANCES, "prototypes")
        if not known or (self.distance == "prototypes") != (prototypes is not None):
            raise ValueError(
                f"{type(task).__name__}: EMBEDDING_DISTANCE is '{self.distance}'; known are {', '.join(DISTANCES)}, "
                "and prototypes for a task that has some"
            )
        length = _length(task)
        self.predictor = make_predictor(term, task, length, length, dtype=dtype, rngs=rngs)
        if prototypes is not None:
            # The authors draw the student's prototypes anew as well.
            self.directions = nnx.Param(jax.random.normal(rngs.params(), prototypes.shape))

    def __call__(self, task: Task, endpoints: Endpoints, frozen: Any) -> Float[Array, ""]:
        prediction = self.predictor(project(task.projection(), endpoints.student("pooled")), train=True)
        wanted = [frozen.first_projection(endpoints.teacher(name, "pooled")) for name in self.term.teachers]
        target = jax.lax.stop_gradient(sum(wanted) / len(wanted))
        if self.distance != "prototypes":
            return DISTANCES[self.distance](prediction, target)
        return distances.prototype_cross_entropy(
            prediction,
            target,
            self.directions.get_value(),
            jax.lax.stop_gradient(frozen.first_projection.prototypes.get_value()),
            temperature=PROTOTYPE_TEMPERATURE,
        )


def _length(task: Task) -> int:
    """Length of a projection."""
    module = task.projection()
    if module is None:
        return task.backbone.features
    graph, state = nnx.split(module)
    features = jax.ShapeDtypeStruct((2, task.backbone.features), jnp.float32)
    return jax.eval_shape(lambda s, x: project(nnx.merge(graph, s), x), nnx.as_pure(state), features).shape[-1]
