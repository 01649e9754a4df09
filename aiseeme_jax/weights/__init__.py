"""Weights as files, under the names of torchvision and timm and with a hash: reading and writing."""

from aiseeme_jax.store.keys import tree_hash
from aiseeme_jax.weights.backbones import (
    SCRATCH,
    any_backbone,
    backbone_hash,
    export_backbone,
    find_backbone,
    find_fisher,
    load_backbone,
    load_fisher,
    save_backbone,
    save_fisher,
    starting_backbone,
)
from aiseeme_jax.weights.classifier import Classifier, load_classifier, save_classifier
from aiseeme_jax.weights.headers import BACKBONE, BEST, CLASSIFIER, FISHER, NETWORK, check_artifact
from aiseeme_jax.weights.networks import fill_network, load_network, save_network
from aiseeme_jax.weights.preprocessing import PREPROCESSING, Preprocessing
from aiseeme_jax.weights.preprocessing import describe as describe_preprocessing
from aiseeme_jax.weights.segmenter import Segmenter, load_segmenter

__all__ = [
    "BACKBONE",
    "BEST",
    "CLASSIFIER",
    "Classifier",
    "FISHER",
    "NETWORK",
    "PREPROCESSING",
    "Preprocessing",
    "SCRATCH",
    "Segmenter",
    "any_backbone",
    "backbone_hash",
    "check_artifact",
    "describe_preprocessing",
    "export_backbone",
    "fill_network",
    "find_backbone",
    "find_fisher",
    "load_backbone",
    "load_classifier",
    "load_fisher",
    "load_network",
    "load_segmenter",
    "save_backbone",
    "save_classifier",
    "save_fisher",
    "save_network",
    "starting_backbone",
    "tree_hash",
]
