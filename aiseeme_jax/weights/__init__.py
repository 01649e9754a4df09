"""Weights as files: under the names of torchvision and timm, with a hash, in and out."""

from aiseeme_jax.weights.backbones import (
    BACKBONE,
    FISHER,
    any_backbone,
    backbone_hash,
    export_backbone,
    find_backbone,
    load_backbone,
    load_fisher,
    save_backbone,
    save_fisher,
    starting_backbone,
    tree_hash,
)
from aiseeme_jax.weights.classifier import CLASSIFIER, Classifier, load_classifier, save_classifier

__all__ = [
    "BACKBONE",
    "CLASSIFIER",
    "FISHER",
    "Classifier",
    "any_backbone",
    "backbone_hash",
    "export_backbone",
    "find_backbone",
    "load_backbone",
    "load_classifier",
    "load_fisher",
    "save_backbone",
    "save_classifier",
    "save_fisher",
    "starting_backbone",
    "tree_hash",
]
