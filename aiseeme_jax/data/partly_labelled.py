"""Splits of which a part has labels, for training that learns from the rest too."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from aiseeme_jax import seeds
from aiseeme_jax.data.order import endless_permutations
from aiseeme_jax.data.sources import Union
from aiseeme_jax.data.splits import Split

if TYPE_CHECKING:
    import grain


@dataclasses.dataclass(frozen=True)
class PartlyLabelled(Split):
    """A split whose batches begin with labelled images, and go on with those whose label is -1.

    Attributes (besides those of `Split`):
      labelled_share: of a batch, in (0, 1).
    """

    labelled_share: float = 0.5

    def labelled_rows(self, batch_size: int) -> int:
        """How many labelled images a batch has: their share rounded, at least one, and at least one without a label."""
        return min(max(round(batch_size * self.labelled_share), 1), batch_size - 1)

    def order(self, *, batch_size: int, seed: int) -> "grain.MapDataset":
        """Indices int [batch_size] of every step, without end. Both parts go through fresh permutations of their own,
        whatever the other part is.
        """
        import grain

        known = self.labels >= 0
        first = self.labelled_rows(batch_size)
        streams = [
            endless_permutations(len(rows), seed=seeds.derive(seed, "order", name)).map(rows.__getitem__).batch(size)
            for name, rows, size in (
                ("labelled", np.flatnonzero(known), first),
                ("unlabelled", np.flatnonzero(~known), batch_size - first),
            )
        ]
        return grain.MapDataset.range(streams[0].__len__()).map(_Join(streams))


class _Join:
    """The indices of a step; a class, since it travels to worker processes."""

    def __init__(self, streams: list):
        self.streams = streams

    def __call__(self, step: int) -> Int[np.ndarray, "batch"]:
        return np.concatenate([stream[int(step)] for stream in self.streams])


def partly_labelled(train: Split, rows: Int[np.ndarray, "k"], unlabelled: Split, share: float) -> PartlyLabelled:
    """The images of `train`, of which those at `rows` keep their labels, and all of `unlabelled`.

    Args:
      train: each image has one class.
      unlabelled: of the same data set.
      share: of labelled images in a batch, in (0, 1).

    Raises ValueError if there is no image without a label.
    """
    labels = np.full(len(train) + len(unlabelled), -1, np.int32)
    labels[rows] = train.labels[rows]
    if (labels >= 0).all():
        raise ValueError(f"{train.name}: there is no image without a label")
    parts, lengths = (train, unlabelled), (len(train), len(unlabelled))
    masks = None if train.segmentation is None else Union([part.segmentation for part in parts], lengths)
    fields = {field.name: getattr(train, field.name) for field in dataclasses.fields(Split)}
    return PartlyLabelled(
        **fields
        | {
            "source": Union([part.source for part in parts], lengths),
            "labels": labels,
            "groups": np.concatenate([part.groups for part in parts]),
            "ids": np.concatenate([part.ids for part in parts]),
            "series": None,
            "attributes": {},
            "segmentation": masks,
        },
        labelled_share=share,
    )
