"""Curricula of self-supervised pretext tasks for medical images, in JAX."""

from aiseeme_jax.weights import export_backbone, load_backbone

__all__ = ["export_backbone", "load_backbone"]
