"""Mixtures: several data sets in the batches of one training, each by its share."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from aiseeme_jax import seeds
from aiseeme_jax.data.order import cumulated, endless_batches, endless_permutations
from aiseeme_jax.data.sources import Union
from aiseeme_jax.data.splits import Split
from aiseeme_jax.errors import UserError
from tfds_builders.common.storage import ImageStorage, Storage

if TYPE_CHECKING:
    import grain


@dataclasses.dataclass(frozen=True)
class Mixture(Split):
    """The union of several splits, which `order` takes by their shares.

    Positions count over the union: the rows of the first set, then those of the second, and so on. Labels are not
    known, and neither are attributes and masks.

    Attributes (besides those of `Split`):
      sets: the splits by name.
      shares: of the images of every batch, by name; positive, with sum 1.
    """

    sets: Mapping[str, Split] = dataclasses.field(default_factory=dict)
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def fingerprint(self) -> dict:
        sets = {name: {"share": self.shares[name], **part.fingerprint()} for name, part in self.sets.items()}
        return {"images": len(self), "sets": sets}

    def subset(self, indices: Int[np.ndarray, "k"]) -> "Mixture":
        """The mixture of the same shares made of these images only.

        Raises ValueError if the indices do not increase, UserError if a set has no image left.
        """
        rows = np.asarray(indices, np.int64)
        if (np.diff(rows) <= 0).any():
            raise ValueError("the indices of a mixture's subset must increase")
        parts, start = {}, 0
        for name, part in self.sets.items():
            mine = rows[(rows >= start) & (rows < start + len(part))] - start
            if not len(mine):
                raise UserError(f"no image of '{name}' is left in the mixture {self.name}: take it out of the mixture")
            parts[name], start = part.subset(mine), start + len(part)
        return mix(parts, self.shares)

    def names_of_rows(self) -> Iterator[tuple[str, ...]]:
        return itertools.chain.from_iterable(part.names_of_rows() for part in self.sets.values())

    def order(self, *, batch_size: int, seed: int) -> "grain.MapDataset":
        """Indices int [batch_size] of every step, without end.

        The sets are spread over the batch by `spread`. Each runs through fresh permutations of its own, whatever
        the other sets are; none is cut at the end of an epoch.
        """
        streams = [
            endless_permutations(len(part), seed=seeds.derive(seed, "order", name)) for name, part in self.sets.items()
        ]
        ends = np.cumsum([0, *map(len, self.sets.values())])
        members = [np.arange(start, end) for start, end in itertools.pairwise(ends.tolist())]
        return endless_batches(streams, members, tuple(self.shares.values()), batch_size=batch_size)

    def counts(self, steps: int, batch_size: int) -> dict[str, int]:
        """Images of each set in the first `steps` steps."""
        numbers = cumulated(np.array([steps * batch_size]), tuple(self.shares.values()))
        return {name: int(number) for name, number in zip(self.sets, numbers[:, 0], strict=True)}


def mix(splits: Mapping[str, Split], shares: Mapping[str, float]) -> Mixture:
    """A split of several data sets for pretraining, of whose images every batch holds each set in its share.

    A share is rounded over the steps, not in each batch: among the first n batches of B images a set has n B times its
    share, to the nearest image if there are two sets and within an image or so if there are more. A small set is gone
    through more often than a large one; an epoch of the mixture has as many steps as one of the union.

    Args:
      splits: by name; of one shape and dtype.
      shares: by the same names; positive, divided by their sum.

    Raises UserError for shares that do not fit, or images of different shapes or dtypes.
    """
    if not splits or set(splits) != set(shares):
        raise UserError(
            f"a mixture needs one share for each data set: the data sets are {', '.join(splits) or 'none'}, the shares "
            f"those of {', '.join(shares) or 'none'}"
        )
    for name, share in shares.items():
        if not (math.isfinite(share) and share > 0):
            raise UserError(f"the share of '{name}' in a mixture must be a positive number, not {share}")
    _check_alike(splits)
    total = math.fsum(shares.values())
    parts = list(splits.values())
    return Mixture(
        name=" + ".join(part.name for part in parts),
        source=Union([part.source for part in parts], [len(part) for part in parts]),
        labels=np.full(sum(map(len, parts)), -1, np.int32),
        groups=np.concatenate([part.groups for part in parts]),
        ids=_distinct_ids(splits),
        class_names=(),
        excluded=sum(part.excluded for part in parts),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        storage=_common_storage(parts),
        own_ids=all(part.own_ids for part in parts),
        own_groups=all(part.own_groups for part in parts),
        sets=dict(splits),
        shares={name: float(shares[name]) / total for name in splits},
    )


def _common_storage(parts: Sequence[Split]) -> Storage | None:
    """That of all parts. Of images that are stored in several ways, squares of the size that all are resized to."""
    first, *others = [part.storage for part in parts]
    if all(other == first for other in others):
        return first
    if all(isinstance(part.storage, ImageStorage) for part in parts):
        side, _, channels = parts[0].shape
        return ImageStorage(side, channels)
    return None


def _check_alike(splits: Mapping[str, Split]) -> None:
    first, *others = splits.items()
    for name, split in others:
        if _form(split) != _form(first[1]):
            one, other = (f"'{n}' holds {s.dtype} {s.shape}" for n, s in (first, (name, split)))
            raise UserError(
                f"the data sets of a mixture must have images of one shape and type, but {one} and {other}: take "
                "configs of one size, or have images resized as they are read, with '@64' behind the name"
            )


def _form(split: Split) -> tuple:
    """Of the images: what must be alike for them to lie in one batch."""
    return split.shape, split.dtype, split.pictures


def _distinct_ids(splits: Mapping[str, Split]) -> np.ndarray:
    """The ids of all sets; one that several sets have is preceded by the name of the set."""
    seen: set[str] = set()
    shared: set[str] = set()
    for split in splits.values():
        own = set(split.ids.tolist())
        shared |= seen & own
        seen |= own
    if not shared:
        return np.concatenate([split.ids for split in splits.values()])
    named = [
        np.where([i in shared for i in split.ids.tolist()], np.strings.add(f"{name}/", split.ids), split.ids)
        for name, split in splits.items()
    ]
    return np.concatenate(named)
