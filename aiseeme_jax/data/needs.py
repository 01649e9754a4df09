"""What the images of a target must have, and the images of a split that have it."""

import dataclasses

import numpy as np
from jaxtyping import Bool

from aiseeme_jax.data.sources import find_known_masks
from aiseeme_jax.data.splits import Split
from aiseeme_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Needs:
    """What the images of a target must have. Those that lack it are left out of its splits.

    Attributes:
      labels: a known label.
      masks: a mask.
      unlabelled: whether the training images without a known label are given too, as a split of their own.
      together: whether the pictures of one thing stay together, [B, P, H, W, C]; else each is an image of its own.
    """

    labels: bool = True
    masks: bool = False
    unlabelled: bool = False
    together: bool = False

    def __str__(self) -> str:
        names = ("labels",) * self.labels + ("masks",) * self.masks
        more = ", beside images without a label" * self.unlabelled + ", all pictures of one thing" * self.together
        return " and ".join(names) + more


LABELS, MASKS = Needs(), Needs(labels=False, masks=True)


def known_labels(split: Split) -> Bool[np.ndarray, "n"]:
    """Of which images a label is known, or of several findings at least one."""
    return ~np.isnan(split.labels).all(axis=1) if split.kind == "findings" else split.labels >= 0


def labelled(split: Split) -> Split:
    """The split less the images of which no label is known, for targets. UserError if nothing is left."""
    if split.kind == "none":
        raise UserError(
            f"{split.name} has no single label for each image: it has no `label`, and no `labels` of findings either. "
            "Targets need labels: take a data set that has some, or leave `targets` empty"
        )
    rows = np.flatnonzero(known_labels(split))
    if not len(rows):
        raise UserError(f"no image of {split.name} is labelled: targets need labels, so leave `targets` empty")
    return split if len(rows) == len(split) else split.subset(rows)


def segmented(split: Split) -> Split:
    """The split less the images without a mask, for targets that segment. UserError if nothing is left."""
    split.check_segmentation()
    rows = np.flatnonzero(find_known_masks(split.segmentation))
    if not len(rows):
        raise UserError(
            f"no image of {split.name} has a mask: put masks beside the images and prepare the data set again, or take "
            "a target that needs no masks"
        )
    return split if len(rows) == len(split) else split.subset(rows)


def take_needed(split: Split, needs: Needs) -> Split:
    """The images of a split that have what a target needs. UserError if nothing is left."""
    if not (needs.labels and needs.masks):
        return labelled(split) if needs.labels else segmented(split)
    with_masks = segmented(split)
    try:
        return labelled(with_masks)
    except UserError as error:
        raise UserError(f"of the images with a mask: {error}") from None


def take_unlabelled(split: Split, needs: Needs) -> Split:
    """The images of which no label is known, with a mask if the target needs masks. There may be none."""
    found = split.subset(np.flatnonzero(~known_labels(split)))
    if not needs.masks or not len(found):
        return found
    found.check_segmentation()
    return found.subset(np.flatnonzero(find_known_masks(found.segmentation)))
