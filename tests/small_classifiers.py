"""Classifiers of a small backbone, for images and for volumes."""

import jax
import tiny
from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.models.classifier import ClassifierNetwork, linear_head
from aiseeme_jax.weights.classifier import Classifier

VIEWS = augment.Views(size=tiny.SIZE, mean=(0.7, 0.5, 0.5), crop_scale=(0.3, 1.0))
NAMES = ("MEL", "NV", "läsion, andere")


def make(body=None, **changes):
    """A classifier whose three logits differ much between images."""
    body = tiny.backbone() if body is None else body
    head = linear_head(body.features, 3, rngs=nnx.Rngs(1))
    head.kernel.set_value(jax.random.normal(jax.random.key(0), head.kernel.shape))
    head.bias.set_value(jax.numpy.array([0.1, -0.2, 0.3]))
    fields = {"kind": "class", "class_names": NAMES, "views": VIEWS, "temperature": 1.7, **changes}
    return Classifier(ClassifierNetwork(body, head), **fields)


def make_volumes():
    views = augment.VolumeViews(size=tiny.SIZE)
    return make(tiny.backbone(dimensions=3, channels=1), views=views, kind="findings")
