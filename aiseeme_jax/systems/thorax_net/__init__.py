"""Thorax-Net: a classifier with an attention branch, trained in three steps."""

from aiseeme_jax.systems.thorax_net.kept import ThoraxClassifier, load_thorax_classifier
from aiseeme_jax.systems.thorax_net.protocol import THORAX_ATTENTION, THORAX_NET

__all__ = ["THORAX_ATTENTION", "THORAX_NET", "ThoraxClassifier", "load_thorax_classifier"]
