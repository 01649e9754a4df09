"""The two sides of distillation: what learns with the task, and what is frozen beside it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import seeds
from aiseeme_jax.distill import anchors, cassle, features
from aiseeme_jax.distill.terms import OF_WEIGHTS, Term, named
from aiseeme_jax.task import Output, Task

KINDS: dict[str, Callable[..., nnx.Module]] = {
    "kl": features.KL,
    "mse": features.MSE,
    "cosine": features.Cosine,
    "relational": features.Relational,
    "similarity_preserving": features.SimilarityPreserving,
    "pfr": features.PFR,
    "cassle": cassle.CaSSLe,
    "l2_sp": anchors.L2SP,
    "ewc": anchors.EWC,
}
# Not a loss: the backbone is merged when it is handed over.
MERGE = "weight_average"


def terms(config: Any) -> tuple[Term, ...]:
    """The terms of `stage.distill`, a single one or a node of named ones; none for kind 'none'.

    Raises ValueError for a kind that is not known, with the known ones, and for a field out of its range.
    """
    found = named(config)
    for node in found.values():
        if node.kind not in (*KINDS, MERGE):
            raise ValueError(f"distill.kind is '{node.kind}'; known: none, {', '.join((*KINDS, MERGE))}")
    return tuple(Term(name=name, **{key: node[key] for key in node}) for name, node in found.items())


def check(term: Term, student: nnx.Module, teachers: Mapping[str, nnx.Module], size: int) -> None:
    """Raises ValueError, which names the teacher, unless what the term compares can be compared.

    Args:
      student, teachers: backbones, which may be abstract.
      size: of the views.
    """
    describe = _weights if term.kind in OF_WEIGHTS else functools.partial(_compared, term, size)
    wanted = describe("the stage", student)
    alike = getattr(KINDS.get(term.kind), "ALIKE", True)
    for number, (name, teacher) in enumerate(teachers.items()):
        _same(term, name, "images", _images(teacher), _images(student))
        found = describe(f"teacher {name}", teacher)
        if not alike and number == 0:
            # The student may differ from its teachers, but they are averaged.
            wanted = found
        _same(term, name, "weights" if term.kind in OF_WEIGHTS else f"'{term.endpoint}'", found, wanted)


def _compared(term: Term, size: int, whose: str, backbone: nnx.Module) -> str:
    """Shape of the rows that one image gives."""
    endpoints = features.shapes(backbone, size)
    if term.endpoint not in endpoints:
        raise ValueError(f"distill.endpoint is '{term.endpoint}'; the backbone of {whose} has {', '.join(endpoints)}")
    rows = getattr(KINDS[term.kind], "ROWS", features.averaged)
    return str(jax.eval_shape(rows, jax.ShapeDtypeStruct(endpoints[term.endpoint], "float32")).shape)


def _weights(whose: str, backbone: nnx.Module) -> str:
    shapes = [weight.shape for weight in anchors.leaves(backbone)]
    return f"{len(shapes)} arrays {', '.join(map(str, shapes))}"


def _images(backbone: nnx.Module) -> str:
    return f"{getattr(backbone, 'dimensions', 2)}-D with {backbone.channels} channels"


def _same(term: Term, name: str, what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(
            f"distill.teachers: {what} of {name}: {found[:200]}; kind '{term.kind}' needs {wanted[:200]} here"
        )


class Frozen(nnx.Module):
    """The side no gradient reaches: teachers by name, their Fisher information, the projector a stage began with.

    All of it is made again from files and seeds when a run goes on; checkpoints hold its hashes alone.
    """

    def __init__(self, backbones: dict[str, nnx.Module], fishers: dict[str, nnx.Module], start: nnx.Module | None):
        self.backbones = nnx.Dict({name: nnx.clone(backbone) for name, backbone in backbones.items()})
        self.fishers = nnx.Dict({name: nnx.clone(fisher) for name, fisher in fishers.items()})
        self.start = start

    def parts(self) -> dict[str, nnx.Module]:
        """Every frozen module by a name for a reader."""
        found = {name: self.backbones[name] for name in self.backbones}
        found |= {f"Fisher information of {name}": self.fishers[name] for name in self.fishers}
        return found if self.start is None else {**found, "projector at the start": self.start}


class Keeper(nnx.Module):
    """All terms of a stage. What they learn (predictors) is trained, saved and restored as a part of the task."""

    def __init__(self, terms: Sequence[Term], task: Task, frozen: Frozen, *, dtype: str, rngs: nnx.Rngs):
        self.terms = tuple(terms)
        self.distillers = nnx.List(KINDS[term.kind](term, task, frozen, dtype=dtype, rngs=rngs) for term in terms)

    def __call__(
        self, task: Task, output: Output, frozen: Frozen, progress: Float[Array, ""] | float
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What is added to the loss of the task, and each term before its weight, to log.

        Args:
          output: of the task, in the step that goes on.
          progress: share of the stage that is done, 0 at its first step and 1 at its last.
        """
        seen = features.Seen(task, output, frozen.backbones)
        total, metrics = 0.0, {}
        for term, distiller in zip(self.terms, self.distillers, strict=True):
            value = distiller(task, seen, frozen)
            total = total + term.weight_at(progress) * value
            metrics[f"distill_{term.name}"] = value
        return total, metrics


def keep(
    task: Task,
    terms: Sequence[Term],
    backbones: Mapping[str, nnx.Module],
    fishers: Mapping[str, nnx.Module] | None = None,
    *,
    dtype: str = "float32",
    seed: int = 0,
) -> Frozen | None:
    """Gives `task`, before its first step, a keeper (`task.keeper`), and returns the frozen side of it.

    None, and no keeper, if no term adds to the loss.

    Args:
      terms: their `teachers` are names in `backbones`.
      fishers: of the same names, for kind 'ewc'.
      dtype: computing type of the predictors.
      seed: of the predictors' weights.
    """
    terms = [term for term in terms if term.kind != MERGE]
    if not terms:
        return None
    start = cassle.Start(task) if any(term.kind == "cassle" for term in terms) else None
    wanted = dict.fromkeys(name for term in terms for name in term.teachers)
    frozen = Frozen({name: backbones[name] for name in wanted}, dict(fishers or {}), start)
    rngs = nnx.Rngs(seeds.derive(seed, "distil"))
    task.keeper = Keeper(terms, task, frozen, dtype=dtype, rngs=rngs)
    return frozen
