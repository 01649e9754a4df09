"""The masks that the second and third network get beside the image: predicted, true, none, or of other images."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from aiseeme_jax import augment, data, seeds, weights
from aiseeme_jax.systems.mb_dcnn import backbones

PREDICTED, TRUTH, NONE, SHUFFLED = SOURCES = ("predicted", "truth", "none", "shuffled")
# Sources for which the coarse network must be trained.
PREDICTING = (PREDICTED, SHUFFLED)
# How a mask that is given and a true mask are one stored mask: truth + 2 given, and 254 + given where the truth is not
# known. One random view then moves both.
UNKNOWN_PAIR = 254


def make_masks(
    source: str, split: data.Split, coarse: Path | None, *, orientations: bool, batch_size: int, seed: int
) -> UInt8[np.ndarray, "n h w 1"]:
    """The mask of each image, 0 or 1, in the size in which the images are stored.

    Args:
      source: one of `SOURCES`. Of a true mask what is not known is 0.
      coarse: folder of the finished measurement of the coarse network, for the sources that predict.
      seed: of the shuffle.
    """
    if source == NONE:
        return np.zeros((len(split), *split.shape[:2], 1), np.uint8)
    if source == TRUTH:
        return (split.segmentations() == 1).astype(np.uint8)
    found = predict_all(coarse, split, orientations=orientations, batch_size=batch_size)
    if source == PREDICTED:
        return found
    # Moved by one place in a random order: no image keeps its own.
    order = np.random.default_rng(seeds.derive(seed, "shuffled masks", split.name)).permutation(len(split))
    moved = np.empty_like(found)
    moved[order] = found[np.roll(order, 1)]
    return moved


def predict_all(
    coarse: Path, split: data.Split, *, orientations: bool, batch_size: int
) -> UInt8[np.ndarray, "n h w 1"]:
    """What the coarse network predicts for every image: 1 where the probability is above a half."""
    loaded = weights.load_segmenter(coarse)
    segmenter = dataclasses.replace(loaded, network=backbones.Averaged(loaded.network, orientations=orientations))
    starts = np.array_split(np.arange(len(split)), max(1, -(-len(split) // batch_size)))
    found = [segmenter.predict(split.read(rows), batch_size=batch_size) > 0.5 for rows in starts]
    return np.concatenate(found)[..., None].astype(np.uint8)


def give_masks(
    splits: Mapping[str, data.Split], made: Mapping[str, UInt8[np.ndarray, "n h w 1"]]
) -> dict[str, data.Split]:
    """The splits with other masks in the place of their own."""
    return {name: dataclasses.replace(split, segmentation=made[name]) for name, split in splits.items()}


def pair_masks(given: UInt8[np.ndarray, "..."], truth: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Two masks as one, see `UNKNOWN_PAIR`."""
    return np.where(truth == data.UNKNOWN, UNKNOWN_PAIR + given, truth + 2 * given).astype(np.uint8)


def split_pairs(pairs: UInt8[Array, "..."]) -> tuple[Bool[Array, "..."], UInt8[Array, "..."]]:
    """Whether a pixel is in the given mask, and the true mask: 0, 1, 255."""
    unknown = pairs >= UNKNOWN_PAIR
    given = jnp.where(unknown, pairs - UNKNOWN_PAIR, pairs // 2) == 1
    return given, jnp.where(unknown, data.UNKNOWN, pairs % 2).astype(jnp.uint8)


def show_with_masks(
    images: Shaped[Array, "b h w c"], masks: Bool[Array, "b h w 1"], views: augment.Views, shown: str = augment.CENTRAL
) -> list[Float[Array, "b s s d"]]:
    """The evaluation views of images, each with its mask as one channel more, of 0 and 1."""
    plain = dataclasses.replace(views, mean=(0.0,), std=(1.0,), window=())
    moved = augment.evaluation_views((255 * masks).astype(jnp.uint8), plain, shown)
    seen = augment.evaluation_views(images, views, shown)
    return [add_channel(view, mask > 0.5) for view, mask in zip(seen, moved, strict=True)]


def add_channel(view: Float[Array, "b s s c"], mask: Bool[Array, "b s s 1"]) -> Float[Array, "b s s d"]:
    """A view with a mask as its last channel."""
    return jnp.concatenate([view, mask.astype(view.dtype)], axis=-1)
