"""Splits whose batches hold all classes alike."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from aiseeme_jax import seeds
from aiseeme_jax.data.order import endless_batches, endless_permutations
from aiseeme_jax.data.splits import Split

if TYPE_CHECKING:
    import grain


@dataclasses.dataclass(frozen=True)
class Balanced(Split):
    """A split that training goes through so that every class that occurs has the same share of the images."""

    def order(self, *, batch_size: int, seed: int) -> "grain.MapDataset":
        """Indices int [batch_size] of every step, without end.

        The classes are spread over the batch by `order.spread`: among the first n images of the series, each class has
        n over the number of classes, to an image or so. Each class goes through fresh permutations of its own, and so
        a small class is gone through more often.
        """
        classes = np.unique(self.labels)
        members = [np.flatnonzero(self.labels == c) for c in classes]
        streams = [
            endless_permutations(len(rows), seed=seeds.derive(seed, "order", f"class {c}"))
            for c, rows in zip(classes, members, strict=True)
        ]
        return endless_batches(streams, members, (1 / len(classes),) * len(classes), batch_size=batch_size)


def balance(split: Split) -> Balanced:
    """The split of the same images whose batches hold all classes alike. ValueError unless each image has one class."""
    if split.kind != "class" or (split.labels < 0).any():
        raise ValueError(f"{split.name}: batches can be balanced where each image has one known class")
    return Balanced(**{field.name: getattr(split, field.name) for field in dataclasses.fields(Split)})
