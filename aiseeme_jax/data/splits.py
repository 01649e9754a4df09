"""The splits of data sets: what is stored, read by position, with its tables in memory."""

import dataclasses
import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

log = logging.getLogger(__name__)

# The features a data set may keep the group of an image in.
GROUPS = ("lesion_id", "patient_id", "group")
# ISIC 2019 names an image of an earlier year that it shrank by the old name and this.
SHRUNK = "_downsampled"
# The feature that says which CT series a volume was cut from.
SERIES = "series_uid"
# The first cell of a line, in quotation marks (two stand for one inside) or not.
FIRST_CELL = re.compile(r' *(?:"((?:[^"]|"")*)"|([^,;\t]*))')


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set, in a fixed order.

    Attributes:
      name: for messages, such as 'isic2019/64:train'.
      source: random access to images, uint8 [H, W, C], or volumes, int16 HU [D, H, W, 1]; `read` takes many at once.
      labels: int32 [N], -1 where not known.
      groups: the lesion or patient of each image; what splits and intervals must not tear apart.
      ids: a name for each image, stable over runs.
      class_names: one per label; none if no image has a single label.
      aliases: by id, what else `without` knows an image by, if anything: its series, the other names of its group.
      excluded: images of the data set that were left out of the split, see `without`.
      version: of the data set.
    """

    name: str
    source: Sequence
    labels: Int[np.ndarray, "n"]
    groups: tuple[str, ...]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    excluded: int = 0
    version: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *space c"]:
        """The images at `indices`. ValueError if they differ in size."""
        many = getattr(self.source, "__getitems__", None)
        rows = many([int(i) for i in indices]) if many else [self.source[int(i)] for i in indices]
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            raise ValueError(
                f"{self.name}: images of different sizes {sorted(shapes)[:3]} cannot form a batch; "
                "prepare a config of the data set with one size"
            )
        return np.stack(rows)

    def images(self) -> Shaped[np.ndarray, "n *space c"]:
        """All images, in memory."""
        return np.concatenate([self.read(rows) for rows in np.array_split(np.arange(len(self)), len(self) // 256 + 1)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image or volume: (H, W, C) or (D, H, W, C)."""
        return self.read(np.arange(1)).shape[1:]

    def fingerprint(self) -> dict[str, Any]:
        """What tells these images from others, as JSON values; pixels count by the version."""
        listed = json.dumps([self.ids, self.labels.tolist()])
        digest = hashlib.sha256(listed.encode()).hexdigest()
        return {"version": self.version, "images": len(self), "ids_and_labels": digest}

    def subset(self, indices: Int[np.ndarray, "k"]) -> "Split":
        """The split made of these images only; positions count anew."""
        rows = [int(i) for i in indices]
        return dataclasses.replace(
            self,
            source=_Rows(self.source, rows),
            labels=self.labels[rows],
            groups=tuple(self.groups[i] for i in rows),
            ids=tuple(self.ids[i] for i in rows),
        )


class _Rows:
    """A view of some rows of a source."""

    def __init__(self, source: Sequence, rows: list[int]):
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        return self.source[self.rows[i]]

    def __getitems__(self, indices: Sequence[int]):
        many = getattr(self.source, "__getitems__", None)
        rows = [self.rows[i] for i in indices]
        return many(rows) if many else [self.source[i] for i in rows]


class _Feature:
    """One feature of a TFDS data source."""

    def __init__(self, source, name: str):
        self.source, self.name = source, name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.source[i][self.name]

    def __getitems__(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [row[self.name] for row in self.source.__getitems__(indices)]


def from_arrays(
    images: Shaped[np.ndarray, "n *space c"],
    labels: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    name: str = "arrays",
) -> Split:
    """A split of arrays in memory; without `labels` all are -1, without `groups` each image is its own."""
    ids = tuple(str(i) for i in range(len(images)))
    return Split(
        name=name,
        source=images,
        labels=np.full(len(images), -1, np.int32) if labels is None else np.asarray(labels, np.int32),
        groups=tuple(groups) if groups is not None else ids,
        ids=ids,
        class_names=tuple(class_names),
    )


def open_split(name: str, split: str, data_dir: str | Path) -> Split:
    """Opens a split of a data set that TFDS prepared as array_record.

    Of its features it reads `image` (uint8 [H, W, 1 or 3]) or `volume` (int16 HU [D, H, W, 1]), `image_id`, the group
    (the feature the data set's metadata name, or the first of `GROUPS`) and, if there are, the class `label` and the
    `SERIES`. Groups that count as another one by the metadata's `joined_groups` go by that one's name.

    Args:
      name: data set and config, such as 'isic2019/64'.
      split: 'train', 'validation' or 'test'.
      data_dir: the folder it was prepared in.

    Raises FileNotFoundError, with the command that prepares it, if it is not there; ValueError for an unknown split or
    a data set without these features.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared_directory(name, data_dir))
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no split '{split}': there are {', '.join(builder.info.splits)}")
    features = builder.info.features
    kind = _feature(name, features, ("volume", "image"))
    metadata = builder.info.metadata or {}
    group = metadata.get("group") or _feature(name, features, GROUPS)
    wanted = [group, _feature(name, features, ("image_id",)), *(key for key in ("label", SERIES) if key in features)]
    # Neither are pictures decoded for the tables, nor masks for the pictures.
    skip = {key: tfds.decode.SkipDecoding() for key in ("volume", "image", "mask") if key in features}
    rows = [[row[key] for key in wanted] for row in builder.as_data_source(split, decoders=skip)]
    columns = dict(zip(wanted, zip(*rows, strict=True), strict=True))
    joined = metadata.get("joined_groups", {})
    groups = tuple(joined.get(own, own) for own in map(_text, columns[group]))
    ids = tuple(map(_text, columns["image_id"]))
    source = builder.as_data_source(split, decoders={key: how for key, how in skip.items() if key != kind})
    return Split(
        name=f"{name}:{split}",
        source=_Feature(source, kind),
        labels=np.array(columns.get("label", [-1] * len(rows)), np.int32),
        groups=groups,
        ids=ids,
        class_names=tuple(features["label"].names) if "label" in features else (),
        aliases=_aliases(ids, groups, [_text(uid) for uid in columns.get(SERIES, ())], joined),
        version=str(builder.version),
    )


def _aliases(
    ids: Sequence[str], groups: Sequence[str], series: Sequence[str], joined: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The series (none, or one for each image) and the names of the groups that count as the image's."""
    names = defaultdict(list)
    for own, whole in joined.items():
        names[whole].append(own)
    found = {
        i: (*names.get(group, ()), *series[n : n + 1]) for n, (i, group) in enumerate(zip(ids, groups, strict=True))
    }
    return {i: aliases for i, aliases in found.items() if aliases}


def _feature(name: str, features: Mapping[str, Any], known: Sequence[str]) -> str:
    """The first of the known features that a data set has."""
    found = next((key for key in known if key in features), None)
    if found is None:
        raise ValueError(
            f"the data set '{name}' has no feature {' or '.join(known)}: prepare it with a builder of tfds_builders/, "
            f"or give yours one. It has {', '.join(sorted(features))}"
        )
    return found


def prepared_directory(name: str, data_dir: str | Path) -> Path:
    """The newest version's folder of a prepared data set, or FileNotFoundError that says how to prepare it."""
    found = (p.parent for p in Path(data_dir).expanduser().glob(f"{name}/*/dataset_info.json"))
    # A preparation that was killed leaves a folder that may have all of a data set but its name.
    versions = [p for p in found if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    if not versions:
        builder = name.split("/")[0]
        archives = "" if builder.endswith("phantom") else " --manual_dir FOLDER"
        where = f"where FOLDER holds the archives that tfds_builders/{builder}/README.md lists, " if archives else ""
        raise FileNotFoundError(
            f"the data set '{name}' is not prepared under '{data_dir}'. Prepare it with\n"
            f"    python -m tfds_builders prepare {name} --data_dir {data_dir}{archives}\n"
            f"{where}or name the folder where it lies with --config.runtime.data_dir=…"
        )
    return max(versions, key=lambda p: tuple(int(n) for n in p.name.split(".")))


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def labelled(split: Split) -> Split:
    """The split less its unlabelled images, for targets. ValueError if nothing is left."""
    if not split.class_names:
        raise ValueError(
            f"{split.name} has no single label for each image: it is unlabelled, or gives several labels at once. "
            "Targets need single labels: take a config of the data set with a `label`, or leave `targets` empty"
        )
    rows = np.flatnonzero(split.labels >= 0)
    if not len(rows):
        raise ValueError(f"no image of {split.name} is labelled: targets need labels, so leave `targets` empty")
    return split if len(rows) == len(split) else split.subset(rows)


def without(split: Split, files: Sequence[str]) -> Split:
    """The split less the images that `files` list by their own id, their group's or their series'.

    So images that a later year's data set shares with an earlier year's test set are kept out of pretraining. Ids count
    without the suffix `SHRUNK`; one that is not in the split is passed over.

    Args:
      files: text or CSV; each line is an id, or has one in its first column.

    Raises FileNotFoundError for a file that is not there, ValueError for one that is not text.
    """
    names = [
        {name.removesuffix(SHRUNK) for name in (i, group, *split.aliases.get(i, ()))}
        for i, group in zip(split.ids, split.groups, strict=True)
    ]
    known = set().union(*names)
    # An id may hold a comma: the first column of a line counts where the line as a whole is no id.
    lines = (readings for file in files for readings in listed_ids(file))
    listed = {whole if whole in known else first for whole, first in lines} - {""}
    kept = [i for i, several in enumerate(names) if listed.isdisjoint(several)]
    excluded = len(split) - len(kept)
    log.info("%s: %d of %d images are left out, as listed in %s", split.name, excluded, len(split), ", ".join(files))
    return dataclasses.replace(split.subset(kept), excluded=excluded)


def listed_ids(file: str) -> list[tuple[str, str]]:
    """The lines of a text or CSV file that are not blank, each as a whole and its first column, as ids."""
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise FileNotFoundError(f"data.exclude: no file at '{file}'") from None
    except UnicodeDecodeError:
        raise ValueError(f"data.exclude: '{file}' is no text file; it must have an image id on each line") from None
    readings = ((line.strip(" "), first_cell(line)) for line in lines)
    return [(whole.removesuffix(SHRUNK), first.removesuffix(SHRUNK)) for whole, first in readings if whole]


def first_cell(line: str) -> str:
    """Of a line of a table with commas, semicolons or tabs."""
    quoted, plain = FIRST_CELL.match(line).groups()
    return (plain if quoted is None else quoted.replace('""', '"')).strip()


def check_model(split: Split, model: Any) -> None:
    """ValueError unless `model.dimensions` and `model.channels` are those of the split's images."""
    *space, channels = split.shape
    if (len(space), channels) != (model.dimensions, model.channels):
        held = "volumes" if len(space) == 3 else "images"
        raise ValueError(
            f"model.dimensions is {model.dimensions} and model.channels {model.channels}, but {split.name} holds "
            f"{held} {split.shape}: set model.dimensions={len(space)} and model.channels={channels}"
        )
