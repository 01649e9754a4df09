"""Curricula of self-supervised pretext tasks for medical images, in JAX."""

import importlib
from typing import Any

__version__ = "0.2.0"

# Name -> module that defines it. It is imported only when it is used: commands that need no network start without jax.
_PUBLIC = {
    "export_backbone": "aiseeme_jax.weights",
    "load_backbone": "aiseeme_jax.weights",
    "load_classifier": "aiseeme_jax.weights",
    "load_segmenter": "aiseeme_jax.weights",
}

__all__ = ["export_backbone", "load_backbone", "load_classifier", "load_segmenter"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'aiseeme_jax' has no attribute '{name}'")
