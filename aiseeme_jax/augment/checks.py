"""Checks of the fields of views. The messages name a field as a config does."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


def check_fields(
    spec: Any, *, dimensions: int, at_least_zero: Sequence[str], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Raises ValueError for a field out of its range.

    Args:
      spec: a dataclass of views.
      dimensions: the value that its field `dimensions` must have.
      at_least_zero: fields that must not be negative.
      ranges: for fields (low, high), the limits of low and high. The lower limit is excluded.
    """
    if spec.dimensions != dimensions:
        raise ValueError(
            f"views.dimensions is {spec.dimensions}, but these are fields of {dimensions}-D views: "
            "take a preset of that kind instead"
        )
    if spec.size < 1:
        raise ValueError(f"views.size must be at least 1 pixel, not {spec.size}")
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if (field.name.endswith("probability") or field.name.startswith("flip")) and not 0 <= value <= 1:
            raise ValueError(f"views.{field.name} is a probability, so from 0 to 1, not {value}")
    for name in at_least_zero:
        if getattr(spec, name) < 0:
            raise ValueError(f"views.{name} must not be negative, but is {getattr(spec, name)}")
    for name, (low, high) in ranges.items():
        value = getattr(spec, name)
        if len(value) != 2 or not low < value[0] <= value[1] <= high:
            raise ValueError(f"views.{name} must be (low, high) with {low} < low <= high <= {high}, not {value}")
    if len(spec.mean) != len(spec.std) or min(spec.std) <= 0:
        raise ValueError(f"views.mean and views.std must match and std be positive: {spec.mean}, {spec.std}")


def check_window(window: Sequence[float]) -> None:
    """Raises ValueError unless a window is (low, high) in HU."""
    if len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"views.window must be (low, high) in HU with low < high, not {window}")
