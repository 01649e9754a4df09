"""TFDS builder of a user's own images, from a CSV in `manual_dir` (see README.md).

The name of the config names the table too: `224` reads `images.csv`, `clinic_a_224` reads `clinic_a.csv`, so tables
stand side by side under one `data_dir`, and one word says which is meant, to TFDS and to the training code alike.
"""

import dataclasses
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive
from tfds_builders.common.damage import Damaged
from tfds_builders.common.file_names import FileNames
from tfds_builders.common.image_builder import SPLITS, ImageBuilder, ImageConfig, sizes, with_masks
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.repeats import describe_images, find_ties
from tfds_builders.common.reporting import REPORT, file_fingerprint
from tfds_builders.common.spelling import show
from tfds_builders.common.splits import split_of
from tfds_builders.common.variants import variants

from .columns import Columns, is_known
from .rows import Row, read_rows

TABLE = "images"
FILES = "files"
# Repeated images that a message names; a file lists all.
SHOWN = 20


@dataclasses.dataclass(eq=False)
class TableConfig(ImageConfig):
    """Size and encoding of the stored images, and where they come from.

    Attributes:
      channels: 3 or 1 (grey).
      table: name of the CSV in `manual_dir`, without its suffix.
    """

    channels: int = 3
    table: str = TABLE


def make_configs() -> list[TableConfig]:
    colour = sizes(TableConfig)
    for fit, told in (("pad", "whole, with black borders"), ("crop", "the square in the middle")):
        colour += variants(colour[:2], f"{{}}_{fit}", told, fit=fit)
    return with_masks(colour + variants(colour, "{}_grey", "grey", channels=1))


class Files(Archive):
    """The files that a table names, below its folder; their suffixes do not matter (DICOM files often have none)."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.path = folder
        self._tar, self._zip = False, None
        self._names = FileNames(folder)
        found = {name: self._names.find(name) for name in names}
        self.members = {name: file for name, file in found.items() if file}

    def describe_others(self, name: str) -> str:
        """What there is instead of a missing file, or ''."""
        others = self._names.find_alike(name)
        return f"; there is {' and '.join(map(show, others))}, which looks like it: write that" if others else ""


class Builder(ImageBuilder):
    """The images of a table.

    Args (besides those of `ImageBuilder`):
      config: one of `BUILDER_CONFIGS` for `images.csv`; after a table's name and '_' for that table.
      keep_splits: the table's splits hold although identical images, whose groups count as one, are in several of them.
    """

    VERSION = tfds.core.Version("2.1.0")
    RELEASE_NOTES = {
        "1.0.0": "First version.",
        "2.0.0": "Orientations are applied; outliers of 16 bits are clipped; TIFF and DICOM files as meant. Labels and "
        "groups are tidied (1.0 is 1); classes that are numbers are in the order of their numbers.",
        "2.1.0": "Columns of findings (label_NAME) and attributes (attr_NAME); images padded or cropped to the square.",
    }
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    GROUP, BARE = "group", True
    REPAIR = "Repair the files, take their rows out of the table"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is the folder of the table: a CSV with the column path (relative to it) and, as they are known, "
        "label or label_NAME, group, split, mask, attr_NAME; images.csv for the configs 64, 224, …, NAME.csv for "
        "NAME_64, NAME_224, …"
    )

    OPTIONS = ImageBuilder.OPTIONS | {"keep_splits"}

    def __init__(self, *, config: str | TableConfig | None = None, keep_splits: bool = False, **kwargs: Any):
        if isinstance(config, str) and config not in self.builder_configs:
            config = find_config(config)
        self._found: Columns | None = None
        super().__init__(config=config, **kwargs)
        self.keep_splits = keep_splits

    @property
    def info(self) -> tfds.core.DatasetInfo:
        """Of a data set that is prepared now, with the features of its table, which TFDS asks for before it is read."""
        return super().info if self._found is None else self._info_of_table

    @property
    def CHANNELS(self) -> int:  # noqa: N802 (a constant of other builders)
        return self.builder_config.channels

    @classmethod
    def check_config(cls, config: str) -> None:
        find_config(config)

    def check_prepared(self, manual_dir: Path) -> None:
        """Raises ValueError if the data set was made from another table of the same name."""
        table = self._table(manual_dir)
        if not table.is_file():
            return
        made_from = json.loads((Path(self.data_dir) / REPORT).read_text())["inputs"].get(table.name)
        if made_from != file_fingerprint(table):
            raise ValueError(
                f"{self.data_dir} was made from another {table.name} than the one in {manual_dir}. For a data set "
                f"beside it, rename the table (NAME.csv gives {self.name}/NAME_64, …) or take another data_dir; to "
                "replace it, delete its folder first"
            )

    def metadata(self) -> dict[str, Any]:
        findings = self._found.findings if self._found else ()
        return {"label_names": list(findings)} if findings else {}

    def more_features(self) -> dict[str, Any]:
        return (self._found or Columns()).make_features()

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        path = self._table(folder := self.folder(dl_manager))
        required(
            folder, {path.name: path}, f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
        rows, header = read_rows(path)
        if self.builder_config.masks and "mask" not in header:
            raise ValueError(f"{path} has no column mask, which {self.name}/{self.builder_config.name} needs")
        self._found = Columns.find(rows, header)
        self._rows, self._info_of_table = rows, self._info()
        self._info_of_table.set_file_format(super().info.file_format)
        super()._download_and_prepare(dl_manager, download_config)

    def find_table(self, folder: Path) -> Table:
        path, rows, masks = self._table(folder), self._rows, self.builder_config.masks
        files = Files(folder, [name for row in rows for name in (row.path, row.mask) if name])
        damaged = {row.path: missing(row, files, masks) for row in rows}
        return Table(
            records=[make_record(row, self._found) for row in rows if not damaged[row.path]],
            archives={FILES: files},
            inputs={path.name: path, FILES: folder},
            classes=[*self._found.classes, *self._found.findings],
            notes={
                "unlabelled": sum(not is_known(self._found.make_values(row)) for row in rows),
                "rows_without_group": sum(not row.group for row in rows),
            },
            damaged=[Damaged(f"{path}, line {row.line}", damaged[row.path]) for row in rows if damaged[row.path]],
        )

    def left_out(
        self, records: Sequence[Record], groups: Sequence[str], digests: Sequence[Hashable]
    ) -> tuple[set[int], dict[str, Any]]:
        """Nothing: the split of a row is that of its whole group.

        Raises ValueError, which lists the images, if identical images tie groups that the table gives several splits,
        unless these are kept.
        """
        ties = find_ties(records, groups, digests)
        if ties and not self.keep_splits:
            named = [[f"{records[row].image_id} ({records[row].split or 'no split'})" for row in rows] for rows in ties]
            self._raise_ties(named)
        return set(), {"keep_splits": True} if ties else {}

    def _raise_ties(self, ties: Sequence[Sequence[str]]) -> None:
        listing = self.listing("repeated")
        listing.write(ties)
        raise ValueError(
            f"{len(ties)} images are there several times, in groups for which the table gives different splits: "
            f"{describe_images(ties, SHOWN)}. All are listed in {listing.path}. Give such groups one split, take one "
            "of the images out, or keep a published split as it is with --keep_splits (in Python keep_splits=True)"
        )

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        """The table's split for the whole group if it has one; train for a group without a label; else drawn.

        If identical images tie groups of several splits, a row follows its own group, and without a split for that one
        goes where it is trained on least.

        Raises ValueError if the draw leaves a split empty.
        """
        own, joined = given_splits(records, [record.group for record in records]), given_splits(records, groups)
        known = [row for row, record in enumerate(records) if is_known(record.features)]
        labelled = {groups[row] for row in known}
        drawn = {group: split_of(group, self.SEED) for group in labelled - joined.keys()}
        splits = [
            own.get(record.group) or joined.get(group) or drawn.get(group, "train")
            for record, group in zip(records, groups, strict=True)
        ]
        present = {splits[row] for row in known}
        absent = [split for split in SPLITS if split not in present]
        if drawn and absent:
            raise ValueError(
                f"drawn by group (70, 10, 20 %), the {len(drawn)} labelled groups leave no labelled image for "
                f"{', '.join(absent)}: give each row its split in the column split (train, validation, test)"
            )
        return splits

    def _table(self, folder: Path) -> Path:
        return folder / f"{self.builder_config.table}.csv"


def given_splits(records: Sequence[Record], groups: Sequence[str]) -> dict[str, str]:
    """The table's split of each group that has one; of several the last in the order of `SPLITS`."""
    given: dict[str, str] = {}
    for record, group in zip(records, groups, strict=True):
        if record.split:
            given[group] = max(given.get(group, record.split), record.split, key=SPLITS.index)
    return given


def find_config(name: str) -> TableConfig:
    """The config of that name: `224` is one of `BUILDER_CONFIGS`, `clinic_a_224` the same for `clinic_a.csv`.

    Raises ValueError for another name.
    """
    known = {config.name: config for config in Builder.BUILDER_CONFIGS}
    if name in known:
        return known[name]
    table, config = next(
        ((name.removesuffix(f"_{end}"), known[end]) for end in known if name.endswith(f"_{end}")), ("", None)
    )
    # What TFDS takes for the name of a config.
    if not re.fullmatch(r"[\w+.-]+", table):
        raise ValueError(
            f"image_table has no config {name!r}: it has {', '.join(known)} for {TABLE}.csv and, for another table "
            "NAME.csv, NAME_64, NAME_224 and so on; NAME is of letters, digits, '_', '-', '.' and '+'"
        )
    return dataclasses.replace(config, name=name, table=table)


def missing(row: Row, files: Files, masks: bool) -> str:
    """Why the row cannot be used, or ''."""
    for kind, name in (("file", row.path), ("mask", row.mask if masks else "")):
        if name and name not in files:
            return f"there is no {kind} {name} in {files.path}{files.describe_others(name)}"
    return ""


def make_record(row: Row, columns: Columns) -> Record:
    present = tuple(name for name, state in row.findings.items() if state == 1)
    return Record(
        image_id=row.path,
        group=row.group or row.path,
        image=Place(FILES, row.path),
        features=columns.make_values(row),
        kinds=((row.label,) if row.label else ()) + present,
        split=row.split,
        mask=Place(FILES, row.mask) if row.mask else None,
    )
