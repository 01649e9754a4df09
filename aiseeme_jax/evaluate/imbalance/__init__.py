"""Ways to fine-tune on classes of very different sizes: the table of methods, and a method from its config.

A method is a frozen dataclass in one of these files, and one line here. Its fields are those of `target.imbalance`, and
so they are in the key of a measurement. A target has exactly one method, so that nothing is corrected twice: a balanced
sampler with class weights, for instance, would make the rare classes count too much.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.imbalance.base import ROUNDING, Counts, Loss, Method, Moment, count
from aiseeme_jax.evaluate.imbalance.ccl import ClassCurriculum
from aiseeme_jax.evaluate.imbalance.focal import Focal
from aiseeme_jax.evaluate.imbalance.ldam import LdamDrw
from aiseeme_jax.evaluate.imbalance.priors import BalancedSoftmax, LogitAdjustment
from aiseeme_jax.evaluate.imbalance.weights import BalancedSampling, ClassBalanced, InverseFrequency, Uncorrected

__all__ = [
    "DEFAULT",
    "METHODS",
    "ROUNDING",
    "Counts",
    "Loss",
    "Method",
    "Moment",
    "count",
    "default_fields",
    "describe",
    "find_method",
    "make_method",
]

METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        method.NAME: method
        for method in (
            Uncorrected,
            InverseFrequency,
            BalancedSampling,
            ClassBalanced,
            Focal,
            LdamDrw,
            LogitAdjustment,
            BalancedSoftmax,
            ClassCurriculum,
        )
    }
)

DEFAULT = InverseFrequency.NAME


def find_method(name: str) -> type[Method]:
    """The method of a name. Raises UserError that names the known ones."""
    if name not in METHODS:
        raise UserError(f"unknown imbalance '{name}': known are {', '.join(METHODS)}")
    return METHODS[name]


def default_fields(name: str) -> dict[str, Any]:
    """The config of a method: its name, and its fields with their defaults. UserError for an unknown name."""
    return {"name": name, **dataclasses.asdict(find_method(name)())}


def make_method(config: Mapping[str, Any]) -> Method:
    """The method of a config, as `default_fields` describes it.

    Raises UserError for an unknown name, for the fields of another method, and for a value that cannot be.
    """
    kind = find_method(config["name"])
    known = [field.name for field in dataclasses.fields(kind)]
    given = [name for name in config if name != "name"]
    if sorted(given) != sorted(known):
        raise UserError(
            f"imbalance '{kind.NAME}' has the fields {', '.join(known) or 'none'}, not {', '.join(given) or 'none'}: "
            f"write target(…, imbalance='{kind.NAME}') in the config file"
        )
    return kind(**{name: config[name] for name in known})


def describe(config: Mapping[str, Any]) -> str:
    """A method as part of the name of a target, with the fields that differ from their defaults; '' for the default.

    Such as 'focal' or 'ldam_drw(max_margin=0.3)'.
    """
    name, defaults = config["name"], default_fields(config["name"])
    if name == DEFAULT:
        return ""
    changed = ",".join(
        f"{field}={_write(config[field])}"
        for field in sorted(config)
        if field not in defaults or config[field] != defaults[field]
    )
    return f"{name}({changed})" if changed else name


def _write(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
