"""Fisher vectors of the maps of a backbone, with components that are weighted by how much they model the foreground."""

from aiseeme_jax.systems.fisher_vector.network import FisherClassifier, load_fisher_classifier
from aiseeme_jax.systems.fisher_vector.protocol import FISHER_VECTOR

__all__ = ["FISHER_VECTOR", "FisherClassifier", "load_fisher_classifier"]
