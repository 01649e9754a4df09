"""Stages that pace themselves between tasks: all members in each step with weights, or one at a time by a bandit.

A weighting or a rule of choice is a frozen dataclass in one of these files, and a line in its table.
`docs/pacing.md` describes them.
"""

from aiseeme_jax.pretext.pacing.bandit import Bandit
from aiseeme_jax.pretext.pacing.choosing import RULES
from aiseeme_jax.pretext.pacing.combined import Combined
from aiseeme_jax.pretext.pacing.joint import Joint
from aiseeme_jax.pretext.pacing.tables import TABLES, WEIGHTINGS, default_fields

# The kinds of stages that have members, by name.
COMBINED: dict[str, type[Combined]] = {kind.NAME: kind for kind in (Joint, Bandit)}

__all__ = ["COMBINED", "RULES", "TABLES", "WEIGHTINGS", "Bandit", "Combined", "Joint", "default_fields"]
