"""What a stage keeps of its teachers.

`keep(task, terms(stage.distill), backbones)` gives a task its keeper and returns the frozen side; the train step adds
what the keeper says of an `Output`. A new kind is one class and one entry of `KINDS`. `docs/distillation.md` tells them
all.
"""

from aiseeme_jax.distill.anchors import average, fisher
from aiseeme_jax.distill.keeper import KINDS, MERGE, Frozen, Keeper, check, keep, terms
from aiseeme_jax.distill.terms import OF_WEIGHTS, Term

__all__ = ["KINDS", "MERGE", "OF_WEIGHTS", "Frozen", "Keeper", "Term", "average", "check", "fisher", "keep", "terms"]
