"""What every kind of views must satisfy; the messages name the field as a config does."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


def check_fields(
    spec: Any, *, dimensions: int, at_least_zero: Sequence[str], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """ValueError for a field out of its range.

    Args:
      spec: a dataclass of views.
      dimensions: what its field of that name must be.
      at_least_zero: strengths that must not be negative.
      ranges: fields (low, high), each with the values between which low and high must lie, the lower one excluded.
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
    """ValueError unless it is (low, high) in HU."""
    if len(window) != 2 or not window[0] < window[1]:
        raise ValueError(f"views.window must be (low, high) in HU with low < high, not {window}")
