"""On what a training ran: the record of a stage keeps it, so that a card can tell it."""

import importlib.metadata
import platform
from typing import Any

import jax

# Packages on which numbers depend.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def describe_environment() -> dict[str, Any]:
    """The kind of device, and the versions of Python and of the packages, as JSON values."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"device": jax.devices()[0].device_kind, "versions": {"python": platform.python_version(), **versions}}
