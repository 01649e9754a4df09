"""The tables of weightings and of rules of choice by name, and both from their configs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.pacing.choosing import RULES, Rule
from aiseeme_jax.pretext.pacing.gradients import GradNorm, PCGrad
from aiseeme_jax.pretext.pacing.weighting import SIMPLE, Weighting

WEIGHTINGS: Mapping[str, type[Weighting]] = {**SIMPLE, GradNorm.NAME: GradNorm, PCGrad.NAME: PCGrad}
TABLES: Mapping[str, Mapping[str, type]] = {"weights": WEIGHTINGS, "teacher": RULES}


def default_fields(field: str, name: str) -> dict[str, Any]:
    """The config of a weighting or a rule: its name, and its fields with their defaults.

    Args:
      field: 'weights' or 'teacher'.

    Raises UserError that names the known ones.
    """
    kind = _find(field, name)
    fields = dataclasses.asdict(kind())
    return {"name": name, **{key: {} if key in _by_member(kind) else value for key, value in fields.items()}}


def make_weighting(config: Mapping[str, Any] | str, names: Sequence[str]) -> Weighting:
    """The weighting of a config for these members. Raises UserError for a value that cannot be."""
    made = _make("weights", config, names)
    made.check(tuple(names))
    return made


def make_rule(config: Mapping[str, Any] | str, count: int, intervals: int) -> Rule:
    """The rule of a config for so many members and intervals. Raises UserError for a value that cannot be."""
    made = _make("teacher", config, ())
    made.check()
    return made.resolve(count, intervals)


def align(field: str, values: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """The values of members in their order, NaN where there is none. Raises UserError for the name of no member."""
    unknown = set(values) - set(names)
    if unknown:
        raise UserError(f"{field}: '{min(unknown)}' is no member: there are {', '.join(names)}")
    return tuple(float(values[name]) if name in values else math.nan for name in names)


def _make(field: str, config: Mapping[str, Any] | str, names: Sequence[str]) -> Any:
    config = default_fields(field, config) if isinstance(config, str) else config
    kind = _find(field, config["name"])
    known = [entry.name for entry in dataclasses.fields(kind)]
    given = [name for name in config if name != "name"]
    if sorted(given) != sorted(known):
        raise UserError(
            f"{field} '{kind.NAME}' has the fields {', '.join(known) or 'none'}, not {', '.join(given) or 'none'}: "
            f"write stage(…, {field}='{kind.NAME}') in the config file"
        )
    values = {name: config[name] for name in known}
    for name in _by_member(kind):
        values[name] = align(f"{field}.{name}", values[name], names)
    return kind(**values)


def _by_member(kind: type) -> tuple[str, ...]:
    return getattr(kind, "BY_MEMBER", ())


def _find(field: str, name: str) -> type:
    table = TABLES[field]
    if name not in table:
        raise UserError(f"unknown {field} '{name}': known are {', '.join(table)}")
    return table[name]
