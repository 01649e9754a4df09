"""Random access to images and masks: what a `Split` reads from. Every class pickles, for reading in workers."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from aiseeme_jax.errors import UserError
from tfds_builders.common.opening import DamagedDataSet
from tfds_builders.common.reading import StoredFeatures

# Pixels of a mask that is not known.
UNKNOWN = 255


@contextlib.contextmanager
def damage_told() -> Iterator[None]:
    """Makes a UserError of what the builders' code says about a damaged file of a prepared data set."""
    try:
        yield
    except DamagedDataSet as error:
        raise UserError(str(error)) from error


def read_many(source: Sequence, rows: Sequence[int]) -> list[np.ndarray]:
    """The items at `rows`, in one call if the source can do that."""
    rows = [int(row) for row in rows]
    many = getattr(source, "__getitems__", None)
    return list(many(rows)) if many else [source[row] for row in rows]


class Source:
    """Base of the sources below, which read many items at once; a subclass gives `__len__` and `__getitems__`."""

    def __getitem__(self, row: int) -> np.ndarray:
        return self.__getitems__([row])[0]


class Rows(Source):
    """Some rows of a source."""

    def __init__(self, source: Sequence, rows: Int[np.ndarray, "k"]):
        self.source, self.rows = source, np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, rows: Sequence[int]) -> list[np.ndarray]:
        return read_many(self.source, self.rows[list(rows)])


def find_known_masks(masks: Sequence) -> Bool[np.ndarray, "n"]:
    """Which masks of a source are known, at least in part. They are read only if the source does not know it."""
    if isinstance(masks, Masks):
        return masks.known
    if isinstance(masks, Rows):
        return find_known_masks(masks.source)[masks.rows]
    if isinstance(masks, Pictures):
        return np.repeat(find_known_masks(masks.source), masks.pictures)
    return np.array([bool((masks[row] != UNKNOWN).any()) for row in range(len(masks))], bool)


class StoredImages(Source):
    """One pixel feature of a prepared split.

    Args:
      rows: gives the feature.
      feature: its name.
      size: images are resized to squares of this side; None leaves them as they are stored.
    """

    def __init__(self, rows: StoredFeatures, feature: str, size: int | None = None):
        self.rows, self.feature, self.size = rows, feature, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, rows: Sequence[int]) -> list[np.ndarray]:
        with damage_told():
            images = [row[self.feature] for row in self.rows.__getitems__(rows)]
        return images if self.size is None else [_resized(image, self.size) for image in images]


def _resized(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "size size c"]:
    # OpenCV is imported by those only who resize.
    from tfds_builders.common.images import square

    return square(image, size)


class Masks(Source):
    """Segmentations as 0 and 1, all `UNKNOWN` in a row that has none.

    Args:
      stored: masks of 0 and another number (1 or 255).
      known: which rows have a mask.
    """

    def __init__(self, stored: StoredImages, known: Bool[np.ndarray, "n"]):
        self.stored, self.known = stored, known

    def __len__(self) -> int:
        return len(self.known)

    def __getitems__(self, rows: Sequence[int]) -> list[np.ndarray]:
        masks = read_many(self.stored, rows)
        return [self._mask(mask, self.known[row]) for mask, row in zip(masks, rows, strict=True)]

    def _mask(self, stored: UInt8[np.ndarray, "*space 1"], known: bool) -> UInt8[np.ndarray, "*space 1"]:
        if not known:
            return np.full_like(stored, UNKNOWN)
        # A mask that was resized has values in between on its border.
        inside = stored > 127 if self.stored.size else stored > 0
        return inside.astype(np.uint8)


class Pictures(Source):
    """Each of several pictures of a thing as an item: item i P + p is picture p of row i.

    Args:
      source: of items [P, ...].
      pictures: P.
    """

    def __init__(self, source: Sequence, pictures: int):
        self.source, self.pictures = source, pictures

    def __len__(self) -> int:
        return len(self.source) * self.pictures

    def __getitems__(self, rows: Sequence[int]) -> list[Shaped[np.ndarray, "..."]]:
        things, places = np.divmod(np.asarray(rows, np.int64), self.pictures)
        wanted, back = np.unique(things, return_inverse=True)
        read = read_many(self.source, wanted)
        return [read[thing][place] for thing, place in zip(back, places, strict=True)]


class Union(Source):
    """Several sources behind one another."""

    def __init__(self, sources: Sequence[Sequence], lengths: Sequence[int]):
        self.sources = tuple(sources)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitems__(self, rows: Sequence[int]) -> list[np.ndarray]:
        rows = np.asarray(rows, np.int64)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        read: list[np.ndarray | None] = [None] * len(rows)
        for number, source in enumerate(self.sources):
            places = np.flatnonzero(which == number)
            items = read_many(source, rows[places] - self.starts[number]) if len(places) else []
            for place, item in zip(places, items, strict=True):
                read[place] = item
        return read
