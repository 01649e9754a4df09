"""CaSSLe (Fini et al., CVPR 2022): the student's projection must still tell what the frozen projection said.

A predictor g stands between the two, so that the student may add to what it knew. They are compared by the loss of the
task itself: `Task.CASSLE` names its form.

CaSSLe freezes encoder and projector as they are at the start of the stage. In a curriculum the projector is fresh at
that moment, since a stage hands on its backbone alone and the next task may be another one. So the frozen projection is
the teacher's pooled features through a frozen copy of the student's projector as the stage begins: the same definition,
and the only one that puts both sides into the space the task's loss is made for. Its norms, which have no running
averages yet, take the statistics of the batch. Where a task has no projector, pooled features are compared by their
mean squared difference.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import losses
from aiseeme_jax.distill import losses as own
from aiseeme_jax.distill.features import Seen, predictor
from aiseeme_jax.distill.terms import Term
from aiseeme_jax.task import Task

CONTRASTIVE_TEMPERATURE = 0.2
PROTOTYPE_TEMPERATURE = 0.1
INVARIANCE = 25.0
OFF_DIAGONAL = 5e-3
CORRELATION_SCALE = 0.1

Compare = Callable[[Array, Array], Float[Array, ""]]

# Constants of the authors' code.
DISTANCES: dict[str, Compare] = {
    "contrastive": lambda p, z: own.contrastive(p, z, temperature=CONTRASTIVE_TEMPERATURE),
    "cosine": lambda p, z: 2 * own.cosine(p, z),
    "mse": losses.mse,
    "invariance": lambda p, z: INVARIANCE * losses.mse(p, z),
    "cross_correlation": lambda p, z: CORRELATION_SCALE * losses.barlow_twins(p, z, off_diagonal_weight=OFF_DIAGONAL),
}


class Prototypes(nnx.Variable):
    """Directions [d, K] as they were at the start of a stage."""


class Start(nnx.Module):
    """The task's projector and prototypes as the stage begins: the frozen side."""

    def __init__(self, task: Task):
        module, prototypes = task.projection(), task.prototypes()
        self.module = None if module is None else nnx.clone(module)
        self.prototypes = None if prototypes is None else Prototypes(prototypes)

    def __call__(self, features: Float[Array, "m d"]) -> Float[Array, "m k"]:
        return project(self.module, features)


def project(module: nnx.Module | None, features: Float[Array, "m d"]) -> Float[Array, "m k"]:
    """Projections by the statistics of the batch; the module keeps its running averages. Features without a module."""
    if module is None:
        return features
    module = nnx.clone(module)
    rows = module(features) if isinstance(module, nnx.Linear) else module(features, train=True)
    return rows.astype(jnp.float32)


class CaSSLe(nnx.Module):
    """D(g(z), z of the teacher), over all views of the batch at once.

    Raises ValueError if the task names a form that is not known.
    """

    def __init__(self, term: Term, task: Task, frozen: Any, *, dtype: str, rngs: nnx.Rngs):
        self.term = term
        self.form = "mse" if task.projection() is None else task.CASSLE
        prototypes = task.prototypes()
        if self.form not in (*DISTANCES, "prototypes") or (self.form == "prototypes") != (prototypes is not None):
            raise ValueError(
                f"{type(task).__name__}: CASSLE is '{self.form}'; known are {', '.join(DISTANCES)}, "
                "and prototypes for a task that has some"
            )
        length = _length(task)
        self.predictor = predictor(term, task, length, length, dtype, rngs)
        if prototypes is not None:
            # The authors draw the student's prototypes anew as well.
            self.directions = nnx.Param(jax.random.normal(rngs.params(), prototypes.shape))

    def __call__(self, task: Task, seen: Seen, frozen: Any) -> Float[Array, ""]:
        prediction = self.predictor(project(task.projection(), seen.student("pooled")), train=True)
        wanted = [frozen.start(seen.teacher(name, "pooled")) for name in self.term.teachers]
        target = jax.lax.stop_gradient(sum(wanted) / len(wanted))
        if self.form != "prototypes":
            return DISTANCES[self.form](prediction, target)
        return own.prototype_cross_entropy(
            prediction,
            target,
            self.directions.get_value(),
            jax.lax.stop_gradient(frozen.start.prototypes.get_value()),
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
