"""Distillation: losses that keep a stage close to its teachers.

`attach_distillation(task, read_terms(stage.distill), backbones)` gives a task its `distillation` and returns the frozen
teachers. The train step adds what `task.distillation` computes from an `Output`. A new kind is one class and one entry
of `KINDS`. `docs/distillation.md` describes all of them.
"""

from aiseeme_jax.distill.distillation import (
    KINDS,
    Distillation,
    FrozenTeachers,
    attach_distillation,
    check_term,
    read_terms,
)
from aiseeme_jax.distill.fisher import estimate_fisher
from aiseeme_jax.distill.parameters import average_weights
from aiseeme_jax.distill.terms import AVERAGING, Term

__all__ = [
    "AVERAGING",
    "KINDS",
    "Distillation",
    "FrozenTeachers",
    "Term",
    "attach_distillation",
    "average_weights",
    "check_term",
    "estimate_fisher",
    "read_terms",
]
