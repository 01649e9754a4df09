"""`check`: which images, lesions, patients or CT series do prepared data sets share?

Images are compared by id (an ISIC id with and without `_downsampled` is one), by group, by series, and by content.
Ids and groups that look alike, such as P-1 and p-1, are the same (`common/spelling.py`). By content: a
perceptual hash finds the candidates, the correlation of small grey pictures confirms them, so that a photograph is
found again after another shortening and JPEG. Turned or mirrored copies are not found.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8, UInt64

from tfds_builders.common.opening import open_prepared
from tfds_builders.common.reading import StoredFeatures
from tfds_builders.common.spelling import fold
from tfds_builders.common.splits import JOINED
from tfds_builders.preparing import newest_version

# Bits of 64 in which the hashes of a photograph and its copy may differ, and least correlation of their small pictures.
# Both were set on the 10,015 images of HAM10000. Of a 64x64 PNG and a 224x224 JPEG of one image no pair is further
# apart than 4 bits or correlates less than 0.995; 86 pairs of different images lie within both limits, 85 of them
# photographs of one lesion.
MAX_DISTANCE = 10
MIN_CORRELATION = 0.99
SIDE = 32
PIXELS = ("image", "volume", "views", "patches")
# Hashes of so many images are compared with all others at once.
BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is compared of a prepared data set, all splits of it, row by row.

    Attributes:
      groups: the names of each image's group, more than one where groups share an identical image; equal for the images
        of one group.
      series: the UID of each volume's CT series, '' for none.
    """

    name: str
    splits: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    series: tuple[str, ...]
    hashes: UInt64[np.ndarray, "n"]
    pictures: Float[np.ndarray, "n pixels"]


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Rows of two data sets (or of two splits of one) that are the same image, or of the same group.

    Attributes:
      reason: 'id', 'group', 'series' or 'content'.
      first, second: data set and split, such as 'isic2019/224:train', and image id.
    """

    reason: str
    first: tuple[str, str]
    second: tuple[str, str]


def check(names: Sequence[str], data_dir: str | Path) -> list[Overlap]:
    """What the prepared data sets `names` (data set and config) share; of a single one, what its splits share.

    Raises FileNotFoundError for one that is not prepared in `data_dir`.
    """
    return list(overlaps(read_all(names, data_dir)))


def read_all(names: Sequence[str], data_dir: str | Path) -> list[Contents]:
    """FileNotFoundError for one that is not prepared in `data_dir`."""
    return [read_contents(_prepared(name, data_dir), name) for name in names]


def _prepared(name: str, data_dir: str | Path) -> Path:
    folder = newest_version(name, data_dir)
    if folder is None:
        raise FileNotFoundError(f"{name} is not prepared in {data_dir}: prepare it first, with its config")
    return folder


def read_contents(directory: Path, name: str) -> Contents:
    """Reads every image of the prepared data set in `directory` once. Raises DamagedDataSet if a file is damaged."""
    from tqdm import tqdm

    builder = open_prepared(directory)
    group_key = next(key for key in ("lesion_id", "patient_id", "group", "image_id") if key in builder.info.features)
    total = sum(split.num_examples for split in builder.info.splits.values())
    splits, ids, groups, series = [], [], [], []
    hashes, pictures = np.empty(total, np.uint64), np.empty((total, SIDE * SIDE), np.float32)
    for split in builder.info.splits:
        stored = StoredFeatures(builder, split, list(builder.info.features))
        rows = map(stored.__getitem__, range(len(stored)))
        for row in tqdm(rows, total=len(stored), desc=f"{name}:{split}", mininterval=1):
            picture = grey(next(row[key] for key in PIXELS if key in row))
            hashes[len(ids)], pictures[len(ids)] = phash(picture), thumbnail(picture)
            splits.append(split)
            ids.append(text(row["image_id"]))
            groups.append(text(row[group_key]))
            series.append(text(row.get("series_uid", "")))
    named = group_names(groups, (builder.info.metadata or {}).get(JOINED, {}))
    return Contents(name, tuple(splits), tuple(ids), named, tuple(series), hashes, pictures)


def group_names(groups: Sequence[str], joined: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """All names of the group of each image; `joined` names the group that a group counts as."""
    members = defaultdict(set)
    for own, whole in joined.items():
        members[whole] |= {own, whole}
    names = {whole: tuple(sorted(several)) for whole, several in members.items()}
    return tuple(names.get(joined.get(group, group), (group,)) for group in groups)


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def grey(pixels: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "height width"]:
    """One grey picture: an image's luminance, of a CT volume the middle slice, of several planes the first, both from
    -1000 to 400 HU.
    """
    if pixels.ndim == 3 and pixels.dtype == np.uint8:
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.shape[-1] == 3 else pixels[..., 0]
    cube = pixels.shape[0] == pixels.shape[1]
    plane = pixels[pixels.shape[0] // 2 if cube else 0, ..., 0].astype(np.float32)
    return np.clip((plane + 1000) * (255 / 1400), 0, 255).astype(np.uint8)


def phash(picture: UInt8[np.ndarray, "height width"]) -> int:
    """Perceptual hash of 64 bits: signs of the low frequencies against their median."""
    import imagehash
    from PIL import Image

    bits = imagehash.phash(Image.fromarray(picture)).hash.ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def thumbnail(picture: UInt8[np.ndarray, "height width"]) -> Float[np.ndarray, "pixels"]:
    """The picture at 32 x 32, with mean 0 and length 1: the product of two is their correlation."""
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)


def overlaps(sets: Sequence[Contents]) -> Iterator[Overlap]:
    """Everything that two of the data sets share; of a single one, everything that two of its splits share."""
    if len(sets) == 1:
        pairs = combinations([part(sets[0], split) for split in dict.fromkeys(sets[0].splits)], 2)
    else:
        pairs = combinations(sets, 2)
    for one, other in pairs:
        yield from _shared("id", one, other, folded_ids(one), folded_ids(other))
        yield from _shared("group", one, other, folded_groups(one), folded_groups(other))
        yield from _shared("series", one, other, known(one.series), known(other.series))
        yield from _alike(one, other)


def part(contents: Contents, split: str) -> Contents:
    """One split of a data set as a data set of its own."""
    rows = [i for i, name in enumerate(contents.splits) if name == split]
    pick = lambda values: tuple(values[i] for i in rows)  # noqa: E731
    return Contents(
        contents.name,
        pick(contents.splits),
        pick(contents.ids),
        pick(contents.groups),
        pick(contents.series),
        contents.hashes[rows],
        contents.pictures[rows],
    )


def to_exclude(found: Sequence[Overlap], contents: Contents) -> list[str]:
    """Ids of all images of the data set whose group has one that overlaps: the other photographs of its lesion too."""
    hits = {place for overlap in found for place in (overlap.first, overlap.second)}
    rows = range(len(contents.ids))
    groups = {contents.groups[row] for row in rows if _place(contents, row) in hits}
    return sorted({contents.ids[row] for row in rows if contents.groups[row] in groups})


def bare(image_id: str) -> str:
    return image_id.removesuffix("_downsampled")


def folded_ids(contents: Contents) -> list[tuple[str, ...]]:
    return [(fold(bare(name)),) for name in contents.ids]


def folded_groups(contents: Contents) -> list[tuple[str, ...]]:
    return [tuple(dict.fromkeys(map(fold, names))) for names in contents.groups]


def known(series: Sequence[str]) -> list[tuple[str, ...]]:
    return [(uid,) if uid else () for uid in series]


def _shared(
    reason: str, one: Contents, other: Contents, mine: Sequence[tuple[str, ...]], theirs: Sequence[tuple[str, ...]]
) -> Iterator[Overlap]:
    """Rows that have a name in common."""
    places: dict[str, list[int]] = {}
    for j, names in enumerate(theirs):
        for name in names:
            places.setdefault(name, []).append(j)
    for i, names in enumerate(mine):
        for j in sorted({j for name in names for j in places.get(name, [])}):
            yield Overlap(reason, _place(one, i), _place(other, j))


def _alike(one: Contents, other: Contents) -> Iterator[Overlap]:
    for start in range(0, len(one.ids), BLOCK):
        block = slice(start, start + BLOCK)
        distance = np.bitwise_count(one.hashes[block, None] ^ other.hashes[None])
        for i, j in zip(*np.nonzero(distance <= MAX_DISTANCE), strict=True):
            if one.pictures[start + i] @ other.pictures[j] >= MIN_CORRELATION:
                yield Overlap("content", _place(one, start + i), _place(other, j))


def _place(contents: Contents, row: int) -> tuple[str, str]:
    return f"{contents.name}:{contents.splits[row]}", contents.ids[row]
