"""Whether a classifier looks at a mark that goes with a class without being part of the disease."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from aiseeme_jax.evaluate import metrics
from aiseeme_jax.evidence.localisation import MEASURES, find_empty, score_maps


@dataclass(frozen=True)
class Shortcut:
    """What a mark does to a classifier.

    Attributes:
      energy: mean share of the maps' energy on the mark, over the images that bear it.
      lift: median of that over the share of area, 1 for a uniform map.
      empty: share of these maps that are zero everywhere; they count as uniform.
      auroc_with, auroc_without: on the images as they are, and on the same images with the mark taken off.
    """

    energy: float
    lift: float
    empty: float
    auroc_with: float
    auroc_without: float

    @property
    def drop(self) -> float:
        """How much AUROC is lost without the mark."""
        return self.auroc_with - self.auroc_without


def find_mark(
    images: Shaped[np.ndarray, "n h w c"], clean: Shaped[np.ndarray, "n h w c"]
) -> UInt8[np.ndarray, "n h w"]:
    """The box around the pixels in which each image differs from the same image without the mark: 1 inside, else 0."""
    if images.shape != clean.shape:
        raise ValueError(f"images {images.shape} and the same without the mark {clean.shape} differ in shape")
    differs = (images != clean).any(axis=-1)
    boxes = np.zeros(differs.shape, np.uint8)
    for box, rows, columns in zip(boxes, differs.any(axis=2), differs.any(axis=1), strict=True):
        if rows.any():
            high, wide = np.flatnonzero(rows), np.flatnonzero(columns)
            box[high[0] : high[-1] + 1, wide[0] : wide[-1] + 1] = 1
    return boxes


def measure_shortcut(
    maps: Float[np.ndarray, "n h w"],
    boxes: UInt8[np.ndarray, "n h w"],
    labels: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, "n k"],
    probs_without: Float[np.ndarray, "n k"],
) -> Shortcut:
    """Energy on the mark, and what its removal costs.

    Args:
      maps: of the images as they are.
      boxes: where the mark is, see `find_mark`; without 1 in images that do not bear it.
      labels: the class of each image.
      probs, probs_without: of the images as they are, and without the mark.

    Raises ValueError if no image bears the mark.
    """
    marked = boxes.any(axis=(1, 2))
    if not marked.any():
        raise ValueError("no image bears the mark")
    scores = dict(zip(MEASURES, score_maps(maps[marked], boxes[marked]).T, strict=True))
    return Shortcut(
        energy=float(np.nanmean(scores["energy"])),
        lift=float(np.nanmedian(scores["lift"])),
        empty=float(find_empty(maps[marked]).mean()),
        auroc_with=metrics.auroc(labels, probs),
        auroc_without=metrics.auroc(labels, probs_without),
    )
