"""The two sides of distillation: what is trained with the task, and what stays frozen beside it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import seeds
from aiseeme_jax.distill import cassle, features, parameters
from aiseeme_jax.distill.terms import AVERAGING, PARAMETER_KINDS, Term, nodes_by_name
from aiseeme_jax.errors import UserError
from aiseeme_jax.task import Output, Task

KINDS: dict[str, Callable[..., nnx.Module]] = {
    "kl": features.KL,
    "mse": features.MSE,
    "cosine": features.Cosine,
    "relational": features.Relational,
    "similarity_preserving": features.SimilarityPreserving,
    "pfr": features.PFR,
    "cassle": cassle.CaSSLe,
    "l2_sp": parameters.L2SP,
    "ewc": parameters.EWC,
}


def read_terms(config: Any) -> tuple[Term, ...]:
    """The terms of `stage.distill`, a single one or a node of named ones; none for kind 'none'.

    Raises UserError for an unknown kind, with the known ones, and for a field out of its range.
    """
    found = nodes_by_name(config)
    for node in found.values():
        if node.kind not in (*KINDS, AVERAGING):
            raise UserError(f"distill.kind is '{node.kind}'; known: none, {', '.join((*KINDS, AVERAGING))}")
    return tuple(Term(name=name, **{key: node[key] for key in node}) for name, node in found.items())


def check_term(term: Term, student: nnx.Module, teachers: Mapping[str, nnx.Module], size: int, rows: int) -> None:
    """Raises UserError unless what the term compares can be compared, and the batch is large enough for it.

    Args:
      student, teachers: backbones, which may be abstract.
      size: of the views.
      rows: of features that a batch gives, or fewer.
    """
    least = _count_minimum_rows(term)
    if teachers and rows < least:
        raise UserError(
            f"distill.kind '{term.kind}' compares the rows of a batch: it needs at least {least}, and this stage gives "
            f"{rows}; raise `batch_size`"
        )
    by_parameters = term.kind in PARAMETER_KINDS
    describe = _describe_parameters if by_parameters else functools.partial(_describe_rows, term, size)
    wanted = describe("the stage", student)
    same_size = getattr(KINDS.get(term.kind), "SAME_SIZE", True)
    for number, (name, teacher) in enumerate(teachers.items()):
        _check_same(term, name, "images", _describe_images(teacher), _describe_images(student))
        found = describe(f"teacher {name}", teacher)
        if not same_size and number == 0:
            # The student may differ from its teachers. They must not differ from each other: they are averaged.
            wanted = found
        _check_same(term, name, "weights" if by_parameters else f"'{term.endpoint}'", found, wanted)


def _count_minimum_rows(term: Term) -> int:
    kind = KINDS.get(term.kind)
    if hasattr(kind, "count_minimum_rows"):
        return kind.count_minimum_rows(term)
    return getattr(kind, "MINIMUM_ROWS", 1)


def _describe_rows(term: Term, size: int, whose: str, backbone: nnx.Module) -> str:
    """Shape of the rows that the term makes of one image."""
    endpoints = features.shapes(backbone, size)
    if term.endpoint not in endpoints:
        raise UserError(f"distill.endpoint is '{term.endpoint}'; the backbone of {whose} has {', '.join(endpoints)}")
    rows = getattr(KINDS[term.kind], "ROWS", features.mean_over_places)
    return str(jax.eval_shape(rows, jax.ShapeDtypeStruct(endpoints[term.endpoint], "float32")).shape)


def _describe_parameters(whose: str, backbone: nnx.Module) -> str:
    shapes = [weight.shape for weight in parameters.parameter_list(backbone)]
    return f"{len(shapes)} arrays {', '.join(map(str, shapes))}"


def _describe_images(backbone: nnx.Module) -> str:
    return f"{getattr(backbone, 'dimensions', 2)}-D with {backbone.channels} channels"


def _check_same(term: Term, name: str, what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(
            f"distill.teachers: {what} of {name}: {found[:200]}; kind '{term.kind}' needs {wanted[:200]} here"
        )


class FrozenTeachers(nnx.Module):
    """What no gradient reaches: the teachers by name, their Fisher information, and the task's projection as it was
    when the stage began.

    All of it is made again from files and seeds when a run goes on. Checkpoints contain only its hashes.
    """

    def __init__(
        self,
        backbones: dict[str, nnx.Module],
        fishers: dict[str, nnx.Module],
        first_projection: cassle.FrozenProjection | None,
    ):
        self.backbones = nnx.Dict({name: nnx.clone(backbone) for name, backbone in backbones.items()})
        self.fishers = nnx.Dict({name: nnx.clone(fisher) for name, fisher in fishers.items()})
        self.first_projection = first_projection

    def parts(self) -> dict[str, nnx.Module]:
        """Every frozen module by a name for a reader."""
        found = {name: self.backbones[name] for name in self.backbones}
        found |= {f"Fisher information of {name}": self.fishers[name] for name in self.fishers}
        projection = self.first_projection
        return found if projection is None else {**found, "projector at the start": projection}


class Distillation(nnx.Module):
    """All terms of a stage. Its trained parameters (predictors) are saved and restored as a part of the task."""

    def __init__(self, terms: Sequence[Term], task: Task, frozen: FrozenTeachers, *, dtype: str, rngs: nnx.Rngs):
        self.terms = tuple(terms)
        self.distillers = nnx.List(KINDS[term.kind](term, task, frozen, dtype=dtype, rngs=rngs) for term in terms)

    def __call__(
        self, task: Task, output: Output, frozen: FrozenTeachers, progress: Float[Array, ""] | float
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What is added to the loss of the task, and each term before its weight, to log.

        Args:
          output: of the task, in the present step.
          progress: 0 at the first step of the stage and 1 at its last, so that weights go from `weight` to
            `final_weight`.
        """
        endpoints = features.Endpoints(task, output, frozen.backbones)
        total, metrics = 0.0, {}
        for term, distiller in zip(self.terms, self.distillers, strict=True):
            value = distiller(task, endpoints, frozen)
            total = total + term.weight_at(progress) * value
            metrics[f"distill_{term.name}"] = value
        return total, metrics


def attach_distillation(
    task: Task,
    terms: Sequence[Term],
    backbones: Mapping[str, nnx.Module],
    fishers: Mapping[str, nnx.Module] | None = None,
    *,
    dtype: str = "float32",
    seed: int = 0,
) -> FrozenTeachers | None:
    """Sets `task.distillation` before the task's first step, and returns the frozen teachers.

    Returns None, and leaves the task as it is, if no term adds to the loss.

    Args:
      terms: their `teachers` are names in `backbones`.
      fishers: of the same names, for kind 'ewc'.
      dtype: computing type of the predictors.
      seed: of the predictors' weights.
    """
    terms = [term for term in terms if term.kind != AVERAGING]
    if not terms:
        return None
    projection = cassle.FrozenProjection(task) if any(term.kind == "cassle" for term in terms) else None
    wanted = dict.fromkeys(name for term in terms for name in term.teachers)
    frozen = FrozenTeachers({name: backbones[name] for name in wanted}, dict(fishers or {}), projection)
    rngs = nnx.Rngs(seeds.derive(seed, "distil"))
    task.distillation = Distillation(terms, task, frozen, dtype=dtype, rngs=rngs)
    return frozen
