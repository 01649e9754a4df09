"""The names of weights in PyTorch programs: torchvision's for a ResNet, timm's for a ViT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from flax import nnx

from aiseeme_jax import models
from aiseeme_jax.weights import timm, torchvision
from aiseeme_jax.weights.tensors import Tensors


@dataclass(frozen=True)
class Format:
    """How the weights of one kind of backbone are written and read.

    Attributes:
      head: name of the linear head of a classifier.
      write: takes a backbone and the side in pixels of the images that another program will give it (or None), and
        returns the tensors.
      fill: puts tensors into a backbone, all or none. Those of a head are ignored. Raises ValueError if they do not
        fit.
    """

    head: str
    write: Callable[[nnx.Module, int | None], Tensors]
    fill: Callable[[nnx.Module, Mapping[str, np.ndarray]], None]


RESNET = Format("fc", lambda backbone, size: torchvision.to_torchvision(backbone), torchvision.from_torchvision)
VIT = Format("head", lambda backbone, size: timm.to_timm(backbone, size=size), timm.from_timm)


def format_of(backbone: nnx.Module) -> Format:
    """The format of a backbone."""
    return VIT if isinstance(backbone, models.ViT) else RESNET
