"""From stored nodules to patches: which systems of several planes have in common, in training and in evaluation."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from aiseeme_jax import augment, data
from aiseeme_jax.augment import nodule_patches
from aiseeme_jax.augment.planes import PLANES, cut_planes
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.features import fetch_rows, on_every_device
from aiseeme_jax.systems.multi_view import MultiViewNetwork
from aiseeme_jax.task import Batch

# Of pictures that are patches already.
CHANNELS_OF_PATCHES = 3


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How patches are made of stored nodules. Hashable, so that it can be a static argument.

    Attributes:
      views: of a patch; their size is that of the patches.
      kinds: of `nodule_patches.KINDS`.
      margin: of the square about the nodule, see `nodule_patches.cut_squares`.
      volumes: whether nodules are stored as volumes, of which nine planes are cut, and not as planes.
    """

    views: augment.Views
    kinds: tuple[str, ...]
    margin: float
    volumes: bool

    def draw(self, key: PRNGKeyArray, batch: Batch) -> Float[Array, "b p k s s c"]:
        """Random patches of a batch, for training: one transformation for all of a nodule."""
        return nodule_patches.random_patches(key, *self._squares(batch), self.views, self.kinds)

    def show(self, batch: Batch) -> Float[Array, "b p k s s c"]:
        """The patches of a batch, for evaluation."""
        return nodule_patches.central_patches(*self._squares(batch), self.views, self.kinds)

    def _squares(self, batch: Batch) -> tuple[Shaped[Array, "b p s s c"], Shaped[Array, "b p s s 1"]]:
        planes, masks = batch["image"], batch["segmentation"]
        if self.volumes:
            planes, masks = cut_planes(planes), cut_planes(masks, nearest=True)
        return nodule_patches.cut_squares(planes, masks, size=self.views.size, margin=self.margin)


def is_of_volumes(split: data.Split) -> bool:
    return split.pictures == 1 and len(split.shape) == 4


def count_planes(split: data.Split) -> int:
    """How many planes a nodule of a split has."""
    return len(PLANES) if is_of_volumes(split) else split.pictures


def check_nodules(split: data.Split, system: str) -> None:
    """Judges whether nodules in several planes can be had from a split.

    Raises UserError for single images, volumes that are no cubes, patches, and for more than two classes.
    """
    if len(split.class_names) != 2 or split.kind != "class":
        raise UserError(
            f"{system} tells two classes apart, and {split.name} has {', '.join(split.class_names) or 'none'}: take a "
            "data set of two classes, such as lidc_idri/views"
        )
    if count_planes(split) < 2:
        raise UserError(
            f"{system} needs several planes of each nodule, and {split.name} has one image: take a data set of planes "
            "or volumes, such as lidc_idri/views, lidc_idri/64 or lidc_nodules/64"
        )
    if is_of_volumes(split) and len(set(split.shape[:3])) > 1:
        raise UserError(f"{system} cuts planes from cubes, and {split.name} holds volumes {split.shape[:3]}")
    if not is_of_volumes(split) and split.dtype == np.int16 and split.shape[-1] == CHANNELS_OF_PATCHES:
        raise UserError(
            f"{system} cuts its patches itself, and {split.name} holds patches already: take lidc_idri/views instead"
        )


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises UserError unless there are some, each once and known."""
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(nodule_patches.KINDS):
        raise UserError(
            f"system.kinds are {tuple(kinds)}; there must be some, each once, of {', '.join(nodule_patches.KINDS)}"
        )


def predict(
    network: MultiViewNetwork, split: data.Split, cutting: Cutting, *, batch_size: int
) -> Float[np.ndarray, "n 2"]:
    """Probabilities of each nodule, in the order of the split; changes nothing."""
    batches = data.evaluation_batches(split, batch_size, segmentation=True)
    positive = fetch_rows(
        (_decide(network, batch["image"], batch["segmentation"], cutting) for batch in batches), len(split)
    )
    return np.stack([1 - positive, positive], axis=1)


@functools.partial(nnx.jit, static_argnames="cutting")
def _decide(network: MultiViewNetwork, images: Array, masks: Array, cutting: Cutting) -> Float[Array, " b"]:
    patches = cutting.show({"image": images, "segmentation": masks})
    _, logits, _ = network(patches, train=False)
    return on_every_device(jax.nn.sigmoid(logits.astype(jnp.float32)))
