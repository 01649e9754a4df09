"""A split of a data set: images as they are stored, read by position, and its tables in memory."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from aiseeme_jax.augment import AnyViews
from aiseeme_jax.data.order import order
from aiseeme_jax.data.sources import Pictures, Rows, read_many
from aiseeme_jax.errors import UserError
from tfds_builders.common.storage import Storage

if TYPE_CHECKING:
    import grain

# Text in arrays: Python strings of any length, of which short ones take 16 bytes.
TEXT = np.dtypes.StringDType()
# Ids that are hashed at once.
HASHED = 1 << 16

Labels = Int[np.ndarray, "n"] | Float[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set, in a fixed order.

    Attributes:
      name: for messages, such as 'isic2019/64:train'.
      source: random access to images, uint8 [H, W, C] or int16 HU [H, W, C], to volumes, int16 HU [D, H, W, 1], or
        to several pictures of one thing, [P, H, W, C]; `read` takes many at once.
      labels: the class, int32 [N], -1 where not known; or several findings at once, float32 [N, K] of 0 and 1, NaN
        where not known.
      groups: the lesion or patient of each image, text [N]; what splits and intervals must not tear apart.
      ids: a name for each image, text [N], stable over runs.
      class_names: of the classes or of the findings; none if there are no labels.
      series: of volumes, the CT series of each, text [N], '' where there is none; else None.
      other_names: by group, further names that the data set knows the group by.
      excluded: images of the data set that were left out of the split, see `without`.
      version: of the data set.
      attributes: what else the data set says of each image, float32 [N] or text [N], by name: age, sex, site, ...
      segmentation: random access to masks, see `read_segmentation`; None if there are none.
      picture_names: names of the P pictures of each thing; none if there is one.
      warnings: what the preparation of the data set warned of, each with the name of the data set.
      storage: how the data set stores its images; None if that is not known.
      own_ids, own_groups: whether ids and groups are the data set's own, not made from the order of the images.
    """

    name: str
    source: Sequence
    labels: Labels
    groups: Shaped[np.ndarray, "n"]
    ids: Shaped[np.ndarray, "n"]
    class_names: tuple[str, ...]
    series: Shaped[np.ndarray, "n"] | None = None
    other_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    excluded: int = 0
    version: str = ""
    attributes: Mapping[str, Shaped[np.ndarray, "n"]] = dataclasses.field(default_factory=dict)
    segmentation: Sequence | None = None
    picture_names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    storage: Storage | None = None
    own_ids: bool = True
    own_groups: bool = True

    def __post_init__(self):
        for name in ("groups", "ids"):
            object.__setattr__(self, name, as_texts(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> Literal["class", "findings", "none"]:
        """What the labels are: one class of several, several findings at once, or nothing."""
        if not self.class_names:
            return "none"
        return "findings" if self.labels.ndim == 2 else "class"

    @property
    def pictures(self) -> int:
        """How many pictures there are of one thing."""
        return max(1, len(self.picture_names))

    def read(self, indices: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *space c"]:
        """The images at `indices`. UserError if they differ in size."""
        return self._stack(read_many(self.source, indices))

    def read_segmentation(self, indices: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k *space 1"]:
        """The masks at `indices`: 0 or 1, 255 where not known. UserError if there are none, or if they differ in
        size.
        """
        self.check_segmentation()
        return self._stack(read_many(self.segmentation, indices))

    def check_segmentation(self) -> None:
        """UserError if there are no segmentations."""
        if self.segmentation is None:
            raise UserError(
                f"{self.name} has no segmentations: take a config of the data set with masks, such as one whose name "
                "ends in '_mask'"
            )

    def _stack(self, images: Sequence[np.ndarray]) -> Shaped[np.ndarray, "k *space c"]:
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            dataset, _, part = self.name.rpartition(":")
            raise UserError(
                f"{self.name}: images of different sizes {sorted(shapes)[:3]} cannot form a batch; take a config of "
                f"the data set with one size, or have them resized as they are read: '{dataset or part}@64'"
            )
        return np.stack(images)

    def images(self) -> Shaped[np.ndarray, "n *space c"]:
        """All images, in memory."""
        return np.concatenate([self.read(rows) for rows in np.array_split(np.arange(len(self)), len(self) // 256 + 1)])

    def segmentations(self) -> UInt8[np.ndarray, "n *space 1"]:
        """All masks, in memory."""
        parts = np.array_split(np.arange(len(self)), len(self) // 256 + 1)
        return np.concatenate([self.read_segmentation(rows) for rows in parts])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, volume or thing: (H, W, C), (D, H, W, C) or (P, H, W, C)."""
        return self.read(np.arange(1)).shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Of the stored pixels: uint8, or int16 for HU."""
        return self.read(np.arange(1)).dtype

    def fingerprint(self) -> dict[str, Any]:
        """What tells these images from others, as JSON values; pixels and attributes count by the version."""
        shape = list(self.shape) if len(self) else []
        return {"version": self.version, "images": len(self), "shape": shape, "rows": self._digest()}

    def _digest(self) -> str:
        """SHA-256 of ids, groups and labels with their names."""
        digest = hashlib.sha256(json.dumps([list(self.class_names), self.labels.shape]).encode())
        for table in (self.ids, self.groups):
            for start in range(0, len(table), HASHED):
                digest.update(json.dumps(table[start : start + HASHED].tolist()).encode())
        labels = self.labels
        if labels.ndim == 2:
            # There are many NaNs: one stands for all.
            labels = np.where(np.isnan(labels), np.float32(np.nan), labels)
        digest.update(np.ascontiguousarray(labels.astype(labels.dtype.newbyteorder("<"))).tobytes())
        return digest.hexdigest()

    def subset(self, indices: Int[np.ndarray, "k"]) -> "Split":
        """The split made of these images only; positions count anew."""
        rows = np.asarray(indices, np.int64)
        return dataclasses.replace(
            self,
            source=Rows(self.source, rows),
            labels=self.labels[rows],
            groups=self.groups[rows],
            ids=self.ids[rows],
            series=None if self.series is None else self.series[rows],
            attributes={name: table[rows] for name, table in self.attributes.items()},
            segmentation=None if self.segmentation is None else Rows(self.segmentation, rows),
        )

    def names_of_rows(self) -> Iterator[tuple[str, ...]]:
        """All names by which each image is known: its own id, its group's names and its series."""
        series = [""] * len(self) if self.series is None else self.series.tolist()
        for i, group, uid in zip(self.ids.tolist(), self.groups.tolist(), series, strict=True):
            yield (i, group, *self.other_names.get(group, ()), *([uid] if uid else ()))

    def order(self, *, batch_size: int, seed: int) -> "grain.MapDataset":
        """Indices int [batch_size] of every training step, without end, a fresh permutation each epoch."""
        return order(len(self), batch_size=batch_size, seed=seed)

    def counts(self, steps: int, batch_size: int) -> dict[str, int]:
        """Images that the first `steps` steps of `order` take, by the name of the data set."""
        return {self.name: steps * batch_size}


def as_texts(texts: Sequence[str]) -> Shaped[np.ndarray, "n"]:
    """An array of text, from strings or an array of them."""
    return np.asarray(texts if isinstance(texts, np.ndarray) else list(texts), TEXT)


def from_arrays(
    images: Shaped[np.ndarray, "n *space c"],
    labels: Sequence[int] | Float[np.ndarray, "n k"] | None = None,
    groups: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    name: str = "arrays",
) -> Split:
    """A split of arrays in memory; without `labels` all are -1, without `groups` each image is its own."""
    ids = as_texts([str(i) for i in range(len(images))])
    labels = np.full(len(images), -1, np.int32) if labels is None else np.asarray(labels)
    return Split(
        name=name,
        source=images,
        labels=labels.astype(np.float32 if labels.ndim == 2 else np.int32),
        groups=as_texts(groups) if groups is not None else ids,
        ids=ids,
        class_names=tuple(class_names),
        own_ids=False,
        own_groups=groups is not None,
    )


def each_picture(split: Split) -> Split:
    """Makes each of the P pictures of a thing an image of its own, with the group and the labels of the thing.

    Of N things it gives a split of N P images. Picture p of thing i lies at i P + p; its id is 'ID/NAME', with the name
    of the picture. A split of single images is returned unchanged.
    """
    if split.pictures == 1:
        return split
    count = split.pictures
    rows = np.repeat(np.arange(len(split)), count)
    endings = np.tile(as_texts([f"/{name}" for name in split.picture_names]), len(split))
    masks = split.segmentation
    return dataclasses.replace(
        split,
        source=Pictures(split.source, count),
        labels=split.labels[rows],
        groups=split.groups[rows],
        ids=np.strings.add(split.ids[rows], endings),
        series=None if split.series is None else split.series[rows],
        attributes={name: table[rows] for name, table in split.attributes.items()},
        segmentation=None if masks is None else Pictures(masks, count),
        picture_names=(),
        excluded=split.excluded * count,
    )


def shown_pictures(split: Split) -> Split:
    """The images that a network of images is shown of a split whose pictures stay together: each of them, and of a
    volume, of which planes are cut, its middle plane in place of all. For checks, without masks.
    """
    whole = dataclasses.replace(split, segmentation=None)
    if split.pictures > 1 or len(split.shape) < 4:
        return each_picture(whole)
    depth = split.shape[0]
    middles = np.arange(len(split)) * depth + depth // 2
    return dataclasses.replace(whole, source=Rows(Pictures(split.source, depth), middles))


def check_model(split: Split, model: Any) -> None:
    """UserError unless `model.dimensions` and `model.channels` are those of the split's images."""
    if split.pictures > 1:
        raise UserError(
            f"{split.name} holds {split.pictures} pictures of each thing, {split.shape}, but a network takes one image "
            "at a time: hand over each picture as an image of its own (`data.each_picture`)"
        )
    *space, channels = split.shape
    if (len(space), channels) != (model.dimensions, model.channels):
        held = "volumes" if len(space) == 3 else "images"
        raise UserError(
            f"model.dimensions is {model.dimensions} and model.channels {model.channels}, but {split.name} holds "
            f"{held} {split.shape}: set model.dimensions={len(space)} and model.channels={channels}"
        )


def check_views(split: Split, views: AnyViews) -> None:
    """UserError unless such views can be made of the split's images: images in HU need a window, others have none."""
    dimensions = len(split.shape) - 1
    if views.dimensions != dimensions:
        raise UserError(
            f"views.dimensions is {views.dimensions}, but {split.name} holds {dimensions}-D images: take a preset of "
            "that kind"
        )
    if dimensions == 2 and bool(views.window) != (split.dtype == np.int16):
        other = "a window, such as 'ct_planes'" if split.dtype == np.int16 else "no window"
        raise UserError(f"{split.name} holds images of type {split.dtype}: take a preset of views with {other}")
