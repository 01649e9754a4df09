"""Opens data sets that TFDS prepared: those of `tfds_builders/`, and any other with images."""

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from aiseeme_jax.data.sources import Masks, StoredImages, damage_told
from aiseeme_jax.data.splits import Split, as_texts
from aiseeme_jax.errors import MissingFile, UserError
from tfds_builders.common import row_tables
from tfds_builders.common.opening import open_prepared
from tfds_builders.common.reading import StoredFeatures
from tfds_builders.common.splits import JOINED, WARNINGS, split_of
from tfds_builders.common.storage import AVERAGING, FITS, ImageStorage, Storage, VolumeStorage
from tfds_builders.preparing import DATASETS, find_builder_class, newest_version, suggest

log = logging.getLogger(__name__)

# Features of pixels, in the order in which one is looked for; the last two hold several pictures of one thing.
PIXELS = ("volume", "image", "views", "patches")
SEVERAL = ("views", "patches")
# Features that may hold the group of an image, if the metadata name none.
GROUPS = ("lesion_id", "patient_id", "group")
ID, SERIES, MASK, HAS_MASK, CLASS, FINDINGS = "image_id", "series_uid", "mask", "has_mask", "label", "labels"
# The share of the training groups that is the validation split of a data set that has none.
DRAWN = {"train": 0.9, "validation": 0.1}
DRAWN_SEED = 0


def open_split(name: str, split: str, data_dir: str | Path, *, labels: str = CLASS) -> Split:
    """Opens a split of a data set that TFDS prepared as array_record.

    Pixels are those of the first of the features `PIXELS` that the data set has: `volume` (int16 HU [D, H, W, 1]),
    `image` (uint8 [H, W, 1 or 3]), `views` (nine planes, int16 HU [9, H, W, 1]), or `patches` (int16 HU [9, H, W, 3]).
    It reads `image_id`, the group (the feature that the metadata name, or the first of `GROUPS`), `label`, `labels`,
    `series_uid` and `mask` if there are any; all other numbers, classes and texts are attributes. Groups that count as
    another one by the metadata go by that one's name.

    Most data sets of TFDS itself have neither ids nor groups. Then each image is its own group, and its id is made from
    its place, as 'cifar10-train-00012'. Such a data set without a validation split gets one: a tenth of its training
    images, drawn by the hash of the id; `train` is without them. Such a data set without a test split gives its
    validation split as `test`, and validation is drawn from its training images likewise.

    The tables are read from the file that the builder wrote (`tfds_builders/common/row_tables.py`). If there is none,
    they are read from the records once and written beside them, or kept in memory where that is not allowed.

    Args:
      name: data set and config, such as 'isic2019/64'; with '@64' behind it, every image is resized to 64 x 64 while
        it is read.
      split: 'train', 'validation' or 'test', or another one that the data set has.
      data_dir: the folder it was prepared in.
      labels: 'label' or 'labels', for a data set that has both; one that has one of them gives that.

    Raises:
      MissingFile: it is not there; the message says how to prepare it.
      UserError: an unknown split, a data set that cannot be used, or a damaged file of it.
    """
    if labels not in (CLASS, FINDINGS):
        raise UserError(f"the labels of a data set are '{CLASS}' or '{FINDINGS}', not '{labels}'")
    dataset, size = parse_name(name)
    with damage_told():
        return _open_split(name, dataset, size, split, data_dir, labels)


def _open_split(name: str, dataset: str, size: int | None, split: str, data_dir: str | Path, labels: str) -> Split:
    builder = open_prepared(prepared_directory(dataset, data_dir))
    _check_format(dataset, builder, data_dir)
    layout = _find_layout(name, builder.info, size, labels)
    stored, drawn = _stored_split(split, builder.info.splits) if layout.foreign else (split, None)
    if stored not in builder.info.splits:
        raise UserError(f"{name} has no split '{split}': there are {', '.join(builder.info.splits)}")
    opened = _open_stored(f"{name}:{split}", builder, stored, layout)
    return opened if drawn is None else opened.subset(_rows_drawn(opened.groups, drawn))


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where things lie in a data set.

    Attributes:
      features: of TFDS, by name.
      metadata: of the data set.
      pixels: the feature of pixels.
      size: side of the squares to which images are resized, or None.
      group: the feature of the group, or None.
      labels: the feature of the labels, or None.
    """

    features: Mapping[str, Any]
    metadata: Mapping[str, Any]
    pixels: str
    size: int | None
    group: str | None
    labels: str | None

    @property
    def foreign(self) -> bool:
        """Whether the data set has neither groups nor ids."""
        return self.group is None and ID not in self.features


def _find_layout(name: str, info: Any, size: int | None, labels: str) -> _Layout:
    features, metadata = dict(info.features.items()), info.metadata or {}
    pixels = _pixel_feature(name, features, size)
    group = metadata.get("group") or next((key for key in GROUPS if key in features), None)
    there = _label_features(features)
    chosen = labels if labels in there else next(iter(there), None)
    return _Layout(features, metadata, pixels, size, group, chosen)


def _open_stored(name: str, builder: Any, stored: str, layout: _Layout) -> Split:
    """A stored split as a whole, under the name `name`."""
    tables, rows = _tables(builder, stored), builder.info.splits[stored].num_examples
    ids = tables[ID] if ID in tables else _ids_by_place(builder.name, stored, rows)
    joined = layout.metadata.get(JOINED, {})
    images = StoredFeatures(builder, stored, [layout.pixels])
    return Split(
        name=name,
        source=StoredImages(images, layout.pixels, layout.size),
        labels=_labels(tables, layout.labels, rows),
        groups=_joined(tables[layout.group], joined) if layout.group else ids,
        ids=ids,
        class_names=_class_names(layout),
        series=tables.get(SERIES),
        other_names=_other_names(joined),
        version=str(builder.version),
        attributes=_attributes(tables, layout),
        segmentation=_masks(builder, stored, tables, layout.size, rows) if MASK in layout.features else None,
        picture_names=_picture_names(layout),
        warnings=_warnings(name, layout),
        storage=_storage(builder.name, layout),
        own_ids=ID in tables,
        own_groups=layout.group is not None,
    )


def parse_name(name: str) -> tuple[str, int | None]:
    """The data set with its config, and the side of the square to which images are resized, or None.

    Raises UserError for a size that is none.
    """
    dataset, at, size = name.partition("@")
    if at and not (size.isdecimal() and int(size) > 0):
        raise UserError(
            f"'{name}': behind '@' belongs the side of the resized images in pixels, such as '{dataset}@64'"
        )
    return dataset, int(size) if at else None


def prepared_directory(name: str, data_dir: str | Path) -> Path:
    """The newest version's folder of a prepared data set.

    Raises MissingFile that says how to prepare it, and UserError if neither this project nor TFDS has such a data set.
    """
    folder = newest_version(name, data_dir)
    if folder is not None:
        return folder
    builder, _, variant = name.partition("/")
    _check_known(builder, variant)
    where = ""
    if builder not in DATASETS:
        command = _tfds_command(name, data_dir)
    elif builder.endswith("phantom"):
        command = f"python -m tfds_builders prepare {name} --data_dir {data_dir}"
    else:
        command = f"python -m tfds_builders prepare {name} --data_dir {data_dir} --manual_dir FOLDER"
        where = f"where FOLDER holds the archives that tfds_builders/{builder}/README.md lists, "
    raise MissingFile(
        f"the data set '{name}' is not prepared under '{data_dir}'. Prepare it with\n"
        f"    {command}\n"
        f"{where}or name the folder where it lies with --config.runtime.data_dir=…"
    )


def _check_known(builder: str, variant: str) -> None:
    """Raises UserError for a data set, or a config of one, that does not exist."""
    if builder in DATASETS:
        found = find_builder_class(builder)
        try:
            # Without a config TFDS would prepare one of them, which is then not found under this name.
            if variant or found.builder_configs:
                found.check_config(variant)
        except ValueError as error:
            raise UserError(str(error)) from error
        return
    known = _list_tfds_builders()
    if known and builder not in known:
        raise UserError(
            f"there is no data set '{builder}'{suggest(builder, [*DATASETS, *known])}: this project has "
            f"{', '.join(DATASETS)}, and TFDS those of https://www.tensorflow.org/datasets/catalog"
        )


def _list_tfds_builders() -> list[str]:
    """Names of the data sets that TFDS prepares; none if it does not say.

    A process of its own asks, since TFDS imports them all for it: here there would be two of one name then, such as
    `chexpert`.
    """
    program = "import tensorflow_datasets as tfds; print(*tfds.list_builders(with_community_datasets=False))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def _tfds_command(name: str, data_dir: str | Path) -> str:
    call = f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record').download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'


def _check_format(name: str, builder: Any, data_dir: str | Path) -> None:
    """UserError unless the records can be read in any order."""
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" in formats:
        return
    raise UserError(
        f"the data set '{name}' is stored as {', '.join(sorted(formats)) or 'files of no known format'}, which cannot "
        f"be read in any order. Delete {builder.data_dir}, and prepare it anew with\n"
        f"    {_tfds_command(name, data_dir)}"
    )


def _pixel_feature(name: str, features: Mapping[str, Any], size: int | None) -> str:
    """The feature that holds the pixels. UserError if there is none, or none that can be resized to `size`."""
    found = next((key for key in PIXELS if key in features), None)
    if found is None:
        raise UserError(
            f"the data set '{name}' has no feature {' or '.join(PIXELS)}: it cannot be used. It has "
            f"{', '.join(sorted(features))}"
        )
    if size is not None and found != "image":
        raise UserError(f"'{name}': images can be resized with '@{size}', but not the {found} of this data set")
    return found


def _stored_split(split: str, splits: Mapping[str, Any]) -> tuple[str, str | None]:
    """Where a split of a data set without groups lies: the stored split, and which part of it if not all."""
    draws = "train" in splits and not {"validation", "test"} <= set(splits)
    if split == "test" and "test" not in splits and "validation" in splits:
        return "validation", None
    if draws and split in DRAWN:
        return "train", split
    return split, None


def _rows_drawn(groups: Shaped[np.ndarray, "n"], part: str) -> Int[np.ndarray, "k"]:
    """The rows whose group's hash draws the part 'train' or 'validation'."""
    return np.flatnonzero([split_of(group, DRAWN_SEED, DRAWN) == part for group in groups.tolist()])


def _tables(builder: Any, split: str) -> dict[str, Shaped[np.ndarray, "n ..."]]:
    """The tables of a stored split, from its file if there is one. UserError if that is damaged."""
    path = row_tables.table_path(builder.data_dir, split)
    names = row_tables.table_features(builder.info.features)
    try:
        return row_tables.load_tables(path, builder.info.splits[split].num_examples, names)
    except row_tables.DamagedTable as error:
        raise UserError(str(error)) from error
    except FileNotFoundError:
        log.info("%s:%s: reading ids, groups and labels from the records", builder.name, split)
    tables = row_tables.read_tables(builder, split)
    try:
        row_tables.save_tables(path, tables)
    except OSError as error:
        log.info("%s: the tables are kept in memory, not written to %s: %s", builder.name, path, error)
    return tables


def _ids_by_place(name: str, split: str, rows: int) -> Shaped[np.ndarray, "n"]:
    return as_texts([f"{name}-{split}-{row:05d}" for row in range(rows)])


def _joined(groups: Shaped[np.ndarray, "n"], joined: Mapping[str, str]) -> Shaped[np.ndarray, "n"]:
    """The groups, each by the name of the group that it counts as."""
    return as_texts([joined.get(group, group) for group in groups.tolist()]) if joined else groups


def _other_names(joined: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for own, whole in joined.items():
        names.setdefault(whole, []).append(own)
    return {whole: tuple(several) for whole, several in names.items()}


def _label_features(features: Mapping[str, Any]) -> list[str]:
    """The features of labels; a `label` without names of classes is a number like others."""
    there = [CLASS] if hasattr(features.get(CLASS), "names") else []
    return [*there, FINDINGS] if FINDINGS in row_tables.table_features(features) else there


def _labels(tables: Mapping[str, np.ndarray], chosen: str | None, rows: int) -> Shaped[np.ndarray, "n ..."]:
    if chosen is None:
        return np.full(rows, -1, np.int32)
    return tables[chosen].astype(np.int32 if chosen == CLASS else np.float32)


def _class_names(layout: _Layout) -> tuple[str, ...]:
    """Names of the classes, or of the findings by the metadata's `label_names`."""
    if layout.labels is None:
        return ()
    feature = layout.features[layout.labels]
    if layout.labels == CLASS:
        return tuple(feature.names)
    return tuple(layout.metadata.get("label_names") or map(str, range(feature.shape[0])))


def _attributes(tables: Mapping[str, np.ndarray], layout: _Layout) -> dict[str, Shaped[np.ndarray, "n"]]:
    """What is left of the tables: numbers as float32, texts, and classes by their names, '' where not known."""
    others = {ID, layout.group, SERIES, HAS_MASK, *_label_features(layout.features)}
    return {name: _attribute(table, layout.features[name]) for name, table in tables.items() if name not in others}


def _attribute(table: Shaped[np.ndarray, "n"], feature: Any) -> Shaped[np.ndarray, "n"]:
    if table.dtype == row_tables.TEXT:
        return table
    if hasattr(feature, "names"):
        return as_texts([*feature.names, ""])[table]
    return table.astype(np.float32)


def _masks(builder: Any, split: str, tables: Mapping[str, np.ndarray], size: int | None, rows: int) -> Masks:
    stored = StoredImages(StoredFeatures(builder, split, [MASK]), MASK, size)
    return Masks(stored, tables[HAS_MASK].astype(bool) if HAS_MASK in tables else np.ones(rows, bool))


def _warnings(name: str, layout: _Layout) -> tuple[str, ...]:
    """What the metadata warn of, each with the name of the data set."""
    dataset = name.rpartition(":")[0]
    return tuple(f"{dataset}: {warning}" for warning in layout.metadata.get(WARNINGS) or ())


def _storage(name: str, layout: _Layout) -> Storage | None:
    """How the data set `name` stores its pixels, as far as its features and metadata say."""
    feature = layout.features[layout.pixels]
    if layout.pixels == "image" and feature.np_dtype == np.uint8 and feature.shape[-1] in (1, 3):
        side, lossless = feature.shape[0], feature.encoding_format != "jpeg"
        fit = layout.metadata.get("fit", FITS[0])
        return ImageStorage(side, feature.shape[-1], lossless or side is None, layout.size, fit)
    spacing = layout.metadata.get("spacing_mm")
    if layout.pixels == "volume" and spacing:
        return VolumeStorage(feature.shape[0], float(spacing), name in AVERAGING)
    return None


def _picture_names(layout: _Layout) -> tuple[str, ...]:
    """Of several pictures of one thing, their names by the metadata's `plane_names`, or their numbers."""
    if layout.pixels not in SEVERAL:
        return ()
    pictures = layout.features[layout.pixels].shape[0]
    names = tuple(layout.metadata.get("plane_names") or ())
    return names if len(names) == pictures else tuple(map(str, range(pictures)))
