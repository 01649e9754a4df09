"""TFDS builder of COVIDx 8, 9 and CXR-3, from the official lists and folders in `manual_dir` (see README.md)."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.image_builder import ImageBuilder, ImageConfig, sizes
from tfds_builders.common.parts import carve, cross_counts, torn_groups, warn_of_torn_groups
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.reporting import compared
from tfds_builders.common.spelling import fold
from tfds_builders.common.variants import variants

from .lists import LABELS, PARTS, UNKNOWN, Row, read_lists

SUFFIXES = (".png", ".jpg", ".jpeg")
# The numbers of images of each label, in the order of `LABELS`, in the train and the test list.
PUBLISHED = {
    "8A": ((7966, 5475, 2158), (100, 100, 200)),
    "8B": ((13794, 2158), (200, 200)),
    "9A": ((8085, 5555, 16490), (100, 100, 200)),
    "9B": ((13992, 16490), (200, 200)),
    "CXR-3A": ((8085, 5555, 15994), (100, 100, 200)),
    "CXR-3B": ((13992, 15994), (200, 200)),
}
# The sources that gave many images of either label, by the list 9B.
BOTH_LABELS = ("actmed", "cohen")
OFFICIAL, CROSS, REVERSED = "", "cross", "cross_reversed"
ADVICE = "The numbers of the test are too good by as much as the model knows these patients."


@dataclasses.dataclass(eq=False)
class CovidxConfig(ImageConfig):
    """Size and encoding of the stored images, and which lists split how.

    Attributes:
      edition: of the lists: 8A is train_COVIDx8A.txt and test_COVIDx8A.txt.
      split: '' the official one; 'cross' tests on the sources of `BOTH_LABELS` and trains on the others;
        'cross_reversed' the other way round.
    """

    edition: str = "9B"
    split: str = OFFICIAL

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS[self.edition[-1]]


def make_configs() -> list[CovidxConfig]:
    splits = {
        OFFICIAL: "official split",
        CROSS: f"tested on {' and '.join(BOTH_LABELS)}, trained on the other sources",
        REVERSED: f"trained on {' and '.join(BOTH_LABELS)}, tested on the other sources",
    }
    configs = []
    for edition, (split, text) in itertools.product(PUBLISHED, splits.items()):
        # No source is known to have all three labels of the lists A.
        if split == OFFICIAL or edition.endswith("B"):
            name = "_".join(filter(None, ("{}", edition, split)))
            configs += variants(sizes(CovidxConfig), name, f"COVIDx {edition}, {text}", edition=edition, split=split)
    return configs


class Builder(ImageBuilder):
    """COVIDx, chest X-rays of many sources, COVID-19 or not."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "1.0.0": "First version.",
        "2.0.0": "An EXIF orientation is applied; outliers of 16 bits are clipped before stretching; patients whose "
        "names look alike are in one split.",
    }
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224_9B"
    CHANNELS, SEED = 1, 2021
    HOMEPAGE = "https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md"
    LICENSE = "of each source its own"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put into manual_dir the folders train/ and test/ (or train.zip and test.zip) of images, and the two lists "
        f"train_COVIDx….txt and test_COVIDx….txt of one version; see {HOMEPAGE}."
    )

    def more_features(self) -> dict[str, Any]:
        return {
            "label": tfds.features.ClassLabel(names=self.builder_config.labels),
            "source": tfds.features.Text(doc="the set the image was taken from, or unknown"),
        }

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        return carve(groups, self.SEED)

    def find_table(self, folder: Path) -> Table:
        config = self.builder_config
        names = {part: list_name(part, config.edition) for part in PARTS}
        found = {name: folder / name for name in names.values()} | {part: find_archive(folder, part) for part in PARTS}
        inputs = required(folder, found, f"{self.name}/{config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        lists = read_lists({part: inputs[name] for part, name in names.items()}, config.labels)
        archives = {part: Archive(inputs[part], SUFFIXES, by_path=True) for part in PARTS}
        splits = split_rows(lists.rows, config.split)
        kept = [row for row in lists.rows if splits[row.filename] is not None]
        notes = {
            "left_out": {"train image of a patient of the test": len(lists.rows) - len(kept)},
            "repeated_lines": lists.repeated,
            "misspelt_sources": lists.corrected,
            "images_not_in_the_lists": {
                part: len(archive.members) - sum(row.part == part for row in lists.rows)
                for part, archive in archives.items()
            },
            **self._notes(lists.rows),
        }
        return Table(
            records=[make_record(row, splits[row.filename]) for row in kept],
            archives=archives,
            inputs=inputs,
            classes=config.labels,
            notes=notes,
            damaged=lists.damaged,
        )

    def _notes(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Counts; and a warning if the official split is used and tears patients apart."""
        config = self.builder_config
        torn = torn_groups([fold(row.patient_id) for row in rows], [row.part for row in rows])
        if config.split == OFFICIAL:
            warn_of_torn_groups(f"{self.name}/{config.name}", torn, ADVICE)
        numbers = zip(PARTS, PUBLISHED[config.edition], strict=True)
        published = {
            f"{part}, {label}": n for part, all_n in numbers for label, n in zip(config.labels, all_n, strict=True)
        }
        return {
            "patients": len({row.patient_id for row in rows}),
            "patients_torn_by_the_official_split": torn,
            "label_by_source": {
                part: cross_counts((row.source, row.label) for row in rows if row.part == part) for part in PARTS
            },
            **compared(Counter(f"{row.part}, {row.label}" for row in rows), published),
        }


def list_name(part: str, edition: str) -> str:
    return f"{part}_COVIDx{'_' if edition.startswith('CXR') else ''}{edition}.txt"


def split_rows(rows: Sequence[Row], split: str) -> dict[str, str | None]:
    """By file name: 'test', '' for an image of which train and validation are drawn, None for one that is left out.

    Raises ValueError if a split by source is wanted of lists without sources.
    """
    if split == OFFICIAL:
        return {row.filename: "test" if row.part == "test" else "" for row in rows}
    unknown = sum(row.source == UNKNOWN for row in rows)
    if unknown:
        raise ValueError(
            f"the lists give no source for {unknown} of {len(rows)} images, which a split by source needs: use lists "
            "with four columns, or a config without cross"
        )
    tested = {row.filename for row in rows if (row.source in BOTH_LABELS) == (split == CROSS)}
    patients = {fold(row.patient_id) for row in rows if row.filename in tested}
    return {
        row.filename: "test" if row.filename in tested else None if fold(row.patient_id) in patients else ""
        for row in rows
    }


def make_record(row: Row, split: str) -> Record:
    return Record(
        image_id=row.filename,
        group=row.patient_id,
        image=Place(row.part, row.filename),
        features={"label": row.label, "source": row.source},
        kinds=(row.label,),
        split=split,
    )
