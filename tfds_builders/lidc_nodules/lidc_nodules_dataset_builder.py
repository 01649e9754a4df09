"""TFDS builder of nodules of LIDC-IDRI that were cut out beforehand, three axial planes each. See README.md."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.features import volume_feature
from tfds_builders.common.records import required
from tfds_builders.common.reporting import ReportingBuilder, file_fingerprint, split_counts
from tfds_builders.common.splits import (
    FRACTIONS,
    JOINED,
    SPELLED_ALIKE,
    join_alike,
    join_groups,
    joined_names,
    renamed,
    spelled_alike,
    split_of,
)  # fmt: skip

from .crops import ARRAYS, BENIGN, MALIGNANT, PLANES, SIDE, STATISTICS, TABLE, Crops, Nodule, read_arrays, read_nodules

CLASSES = (BENIGN, MALIGNANT)
# That of `lidc_idri`.
SEED = 2011
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Which nodules are stored.

    Attributes:
      statistic: of the readers' malignancy, 'median' or 'mean': below 3 benign, above 3 malignant.
      undecided: keep nodules of exactly 3, with the label -1, instead of leaving them out.
      min_readers: that outlined the nodule.
    """

    statistic: str = "median"
    undecided: bool = False
    min_readers: int = 1

    def keeps(self, nodule: Nodule) -> bool:
        return nodule.readers >= self.min_readers and (self.undecided or nodule.label(self.statistic) is not None)


def make_configs() -> list[Config]:
    """`64`, and each combination of `_mean`, `_3readers` and `_all`."""
    rules = {"mean": dict(statistic="mean"), "3readers": dict(min_readers=3), "all": dict(undecided=True)}
    configs = []
    for chosen in itertools.chain.from_iterable(itertools.combinations(rules, n) for n in range(len(rules) + 1)):
        fields = {key: value for rule in chosen for key, value in rules[rule].items()}
        description = "three axial planes of 64x64" + "".join(f", {rule}" for rule in chosen)
        configs.append(Config(name="_".join(("64", *chosen)), description=description, **fields))
    return configs


class Builder(ReportingBuilder):
    """Nodules of LIDC-IDRI as three neighbouring axial planes, with what up to four readers marked and rated."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "64"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {ARRAYS} and {TABLE} into manual_dir; their form stands in README.md."

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (len(PLANES), SIDE, SIDE, 1)
        config = self.builder_config
        features = {
            "views": volume_feature(shape, np.uint8, "grey values, rescaled for each image"),
            "mask": volume_feature(shape, np.uint8, "1: at least half of the readers' nodule"),
            "has_mask": tfds.features.Scalar(np.bool_, doc="False: no pixel has half of the readers"),
            "label": tfds.features.ClassLabel(names=CLASSES, doc="-1: malignancy exactly 3"),
            "image_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(doc="splits keep its nodules together"),
            "malignancy_median": tfds.features.Scalar(np.float32, doc="1 highly unlikely to 5 highly suspicious"),
            "malignancy_mean": tfds.features.Scalar(np.float32),
            "readers": tfds.features.Scalar(np.int32, doc="that outlined the nodule"),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("views", "label"),
            homepage="https://www.cancerimagingarchive.net/collection/lidc-idri/",
            license="CC BY 3.0",
            metadata=tfds.core.MetadataDict(
                group="patient_id",
                plane_names=list(PLANES),
                label_rule=f"{config.statistic} malignancy below 3 benign, above malignant",
                min_readers=config.min_readers,
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        try:
            folder = Path(dl_manager.manual_dir)
        except AssertionError as error:
            raise FileNotFoundError(str(error)) from error
        paths = required(folder, {name: folder / name for name in (ARRAYS, TABLE)}, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        images, votes = read_arrays(paths[ARRAYS])
        nodules, self.damaged = read_nodules(paths[TABLE], len(images))
        self.inputs = len(nodules) + len(self.damaged)
        self.check_damage(self.damaged, self.inputs)
        kept = [nodule for nodule in nodules if self.builder_config.keeps(nodule)]
        groups = join(kept, images)
        self.info.metadata[JOINED] = renamed([nodule.patient for nodule in kept], groups)
        names = [split_of(group, SEED, FRACTIONS) for group in groups]
        drawn = {split: [row for row, name in enumerate(names) if name == split] for split in SPLITS}
        splits = {split: rows for split, rows in drawn.items() if rows}
        self._fill_report(paths, nodules, kept, groups, splits)
        return {
            split: self._generate_examples([kept[row] for row in rows], images, votes) for split, rows in splits.items()
        }

    def _generate_examples(
        self, nodules: Sequence[Nodule], images: Crops, votes: Crops
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for nodule in nodules:
            mask = nodule.mask(votes[nodule.place])
            yield (
                nodule.name,
                {
                    "views": images[nodule.place][..., None],
                    "mask": mask[..., None],
                    "has_mask": bool(mask.any()),
                    "label": nodule.label(self.builder_config.statistic) or -1,
                    "image_id": nodule.name,
                    "patient_id": nodule.patient,
                    "malignancy_median": nodule.malignancy("median"),
                    "malignancy_mean": nodule.malignancy("mean"),
                    "readers": nodule.readers,
                },
            )

    def _fill_report(self, paths, nodules: Sequence[Nodule], kept: Sequence[Nodule], groups, splits) -> None:
        labels = [nodule.label(self.builder_config.statistic) for nodule in kept]
        self.report = {
            "splits": split_counts(splits, [(label,) if label else () for label in labels], groups, CLASSES),
            "split_seed": SEED,
            "split_fractions": FRACTIONS,
            "nodules_in_the_table": len(nodules),
            "kept": len(kept),
            "labels_by_rule": {
                f"{statistic}, {least} or more readers": count_labels(nodules, statistic, least)
                for statistic in STATISTICS
                for least in (1, 3)
            },
            JOINED: joined_names(self.info.metadata[JOINED]),
            SPELLED_ALIKE: spelled_alike([nodule.patient for nodule in kept]),
            "inputs": {name: file_fingerprint(path) for name, path in paths.items()},
        }


def join(nodules: Sequence[Nodule], images: Crops) -> list[str]:
    """The group of each nodule: its patient. Patients whose names look alike, or who share an image, are one."""
    digests = [hashlib.sha256(images[nodule.place].tobytes()).digest() for nodule in nodules]
    return join_groups(join_alike([nodule.patient for nodule in nodules]), digests)


def count_labels(nodules: Sequence[Nodule], statistic: str, least: int) -> dict[str, int]:
    found = [nodule.label(statistic) for nodule in nodules if nodule.readers >= least]
    return {BENIGN: found.count(BENIGN), MALIGNANT: found.count(MALIGNANT), "undecided": found.count(None)}
