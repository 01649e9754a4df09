"""The builder of patches of CT series: a data set says which series there are and what to cut out of one.

Two passes. The first reads each series once, one at a time, and keeps its patches in a file beside the data; so damage
and identical volumes are known before the splits are made. The second writes those files to the splits. On a Beam
runner a series is the unit of work of both.
"""

import abc
import dataclasses
import hashlib
import json
import pickle
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders.common.damage import SHOWN, Damaged, DamagedInput
from tfds_builders.common.features import volume_feature
from tfds_builders.common.plausibility import doubts
from tfds_builders.common.reporting import ReportingBuilder, file_fingerprint, listing_fingerprint, split_counts
from tfds_builders.common.series import Series
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

SPLITS = ("train", "validation", "test")
SCRATCH = "extracted"


@dataclasses.dataclass(eq=False)
class PatchConfig(tfds.core.BuilderConfig):
    """Attributes: voxels along each side of a patch, mm between them."""

    size: int = 64
    spacing: float = 1.0


@dataclasses.dataclass(frozen=True)
class Unit:
    """One series.

    Attributes:
      name: its UID.
      path: where it lies, for messages.
      group: what splits must not tear apart: the patient.
      source: what `Work.extract` needs to read it; pickles.
      split: the official one, or '' for the one its group draws.
    """

    name: str
    path: str
    group: str
    source: Any
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Example:
    """A patch: its key, its features as they are stored, what the report counts it under."""

    key: str
    features: dict[str, Any]
    kinds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Extracted:
    """What came out of a series: its patches, single patches that are damaged, and `facts` for the report."""

    examples: Sequence[Example]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    damaged: Sequence[Damaged] = ()


@dataclasses.dataclass
class Work:
    """All there is to do.

    Attributes:
      units: the series.
      extract: makes the patches of one; raises DamagedInput if it cannot be used; pickles.
      tables: files besides the series, for their fingerprints.
      classes: everything that `Example.kinds` may name.
      notes: what else the report says.
      damaged: what had to be left out already.
      inputs: of which it had to; the series not counted.
    """

    units: list[Unit]
    extract: Callable[[Unit], Extracted]
    tables: dict[str, Path] = dataclasses.field(default_factory=dict)
    classes: Sequence[str] = ()
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    damaged: list[Damaged] = dataclasses.field(default_factory=list)
    inputs: int = 0


class VolumeBuilder(ReportingBuilder, skip_registration=True):
    """Base of the builders of CT patches; a subclass gives `find_work` and `more_features`."""

    SEED: ClassVar[int] = 0
    LICENSE: ClassVar[str] = ""
    HOMEPAGE: ClassVar[str] = ""

    @abc.abstractmethod
    def find_work(self, folder: Path) -> Work:
        """The series that lie in `folder`; FileNotFoundError or ValueError if it is not as it should be."""

    @abc.abstractmethod
    def more_features(self) -> dict[str, Any]:
        """Features besides volume, image_id, patient_id, series_uid, centre and original spacing."""

    def pixel_features(self) -> dict[str, Any]:
        """The patch; a data set that also stores something else of it, such as planes, says so here."""
        shape = (self.builder_config.size,) * 3 + (1,)
        return {"volume": volume_feature(shape, np.int16, "Hounsfield units, axes z, y, x")}

    def metadata(self) -> dict[str, Any]:
        """What readers of the data set need beside its features."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        pixels = self.pixel_features()
        features = {
            **pixels,
            "image_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(doc="splits keep its patches together"),
            "series_uid": tfds.features.Text(),
            "centre": tfds.features.Tensor(shape=(3,), dtype=np.float32, doc="x, y, z in the patient's frame, mm"),
            "original_spacing": tfds.features.Tensor(shape=(3,), dtype=np.float32, doc="of the series, z, y, x, mm"),
            **self.more_features(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=(next(iter(pixels)), "label") if "label" in features else None,
            homepage=self.HOMEPAGE or None,
            license=self.LICENSE or None,
            metadata=tfds.core.MetadataDict({"group": "patient_id", "spacing_mm": config.spacing, **self.metadata()}),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        self._beam = download_config.beam_runner, download_config.beam_options
        super()._download_and_prepare(dl_manager, download_config)
        shutil.rmtree(self._scratch)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        try:
            folder = Path(dl_manager.manual_dir)
        except AssertionError as error:
            raise FileNotFoundError(str(error)) from error
        work = self.find_work(folder)
        self.inputs = work.inputs + len(work.units)
        # What is known to be damaged by now is too much after minutes, not after the series were read.
        self.check_damage(work.damaged, self.inputs)
        self._scratch = Path(self.data_dir) / SCRATCH
        self._scratch.mkdir(parents=True)
        self.wanted_bytes = lambda: estimate_bytes(self._scratch, len(work.units))
        extractor = Extractor(work.extract, self._scratch)
        found = self._with_beam(extractor, work.units) if any(self._beam) else here(extractor, work.units)
        self.damaged = work.damaged + [Damaged(**item) for one in found for item in one["damaged"]]
        good = [i for i, one in enumerate(found) if one["keys"]]
        if not good:
            self.check_damage(self.damaged, self.inputs)
            reasons = f"{last_notes(found)}{list_reasons(self.damaged)}"
            raise ValueError(
                f"no patch could be cut from the {len(work.units)} series of {folder}{reasons}. {work.notes}"
            )
        patients = [work.units[i].group for i in good]
        groups = join_groups(join_alike(patients), [found[i]["facts"]["voxels_sha256"] for i in good])
        self.info.metadata[JOINED] = renamed(patients, groups)
        splits = self._splits([work.units[i] for i in good], groups)
        self._fill_report(work, found, good, groups, splits)
        return {split: self._generate_examples([good[row] for row in rows]) for split, rows in splits.items()}

    def _splits(self, units: Sequence[Unit], groups: Sequence[str]) -> dict[str, list[int]]:
        """Rows of each split that has any, since TFDS cannot write an empty one. Training goes first: series of
        which the draw leaves none to it all go to it.
        """
        names = [unit.split or split_of(group, self.SEED) for unit, group in zip(units, groups, strict=True)]
        if "train" not in names and not any(unit.split for unit in units):
            names = ["train"] * len(units)
        return {split: rows for split in SPLITS if (rows := [i for i, name in enumerate(names) if name == split])}

    def _generate_examples(self, positions: Sequence[int]) -> Any:
        paths = [self._scratch / f"{position}.pickle" for position in positions]
        if not any(self._beam):
            return (example for path in paths for example in stored_examples(path))
        import apache_beam as beam

        return beam.Create(paths) | beam.Reshuffle() | beam.FlatMap(stored_examples)

    def _with_beam(self, extractor: "Extractor", units: Sequence[Unit]) -> list[dict[str, Any]]:
        import apache_beam as beam

        runner, options = self._beam
        listing = self._scratch / "found"
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            lines = pipeline | beam.Create(list(enumerate(units))) | beam.Reshuffle() | beam.Map(extractor)
            _ = lines | beam.Map(json.dumps) | beam.io.WriteToText(str(listing))
        lines = [line for path in self._scratch.glob("found*") for line in path.read_text().splitlines()]
        return sorted(map(json.loads, lines), key=lambda one: one["position"])

    def _fill_report(self, work: Work, found: Sequence[dict], good: Sequence[int], groups, splits) -> None:
        names = {row: split for split, rows in splits.items() for row in rows}
        examples = [(row, kinds) for row, i in enumerate(good) for kinds in found[i]["kinds"]]
        rows = {split: [i for i, (row, _) in enumerate(examples) if names[row] == split] for split in splits}
        same = defaultdict(list)
        for i in good:
            same[found[i]["facts"]["voxels_sha256"]].append(work.units[i].name)
        digests = {work.units[i].name: found[i]["facts"]["voxels_sha256"] for i in good}
        official = all(unit.split for unit in work.units)
        drawn = {} if official else {"split_seed": self.SEED, "split_fractions": FRACTIONS}
        self.report = {
            "splits": split_counts(rows, [kinds for _, kinds in examples], [groups[row] for row, _ in examples],
                                   work.classes),
            **drawn,
            "empty_splits": [split for split in SPLITS if split not in splits],
            **work.notes,
            JOINED: joined_names(self.info.metadata[JOINED]),
            SPELLED_ALIKE: spelled_alike([work.units[i].group for i in good]),
            "identical_series": [names for names in same.values() if len(names) > 1],
            "series": [
                {"series_uid": work.units[i].name, "split": names[row], "patches": len(found[i]["keys"]),
                 **found[i]["facts"]}
                for row, i in enumerate(good)
            ],
            "series_without_patches": [
                {"series_uid": unit.name, **one["facts"]}
                for unit, one in zip(work.units, found, strict=True) if not one["keys"] and not one["damaged"]
            ],
            "inputs": {
                **{name: file_fingerprint(path) for name, path in work.tables.items()},
                "series": {"listing_sha256": listing_fingerprint(digests)},
            },
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Runs `extract` on a series, keeps the patches in a file, and returns what the builder must know. Pickles."""

    extract: Callable[[Unit], Extracted]
    scratch: Path

    def __call__(self, numbered: tuple[int, Unit]) -> dict[str, Any]:
        position, unit = numbered
        try:
            found = self.extract(unit)
        except DamagedInput as error:
            found = Extracted((), damaged=[Damaged(unit.path, str(error))])
        with open(self.scratch / f"{position}.pickle", "wb") as file:
            for example in found.examples:
                pickle.dump((example.key, example.features), file)
        return {
            "position": position,
            "keys": [example.key for example in found.examples],
            "kinds": [list(example.kinds) for example in found.examples],
            "facts": found.facts,
            "damaged": [dataclasses.asdict(item) for item in found.damaged],
        }


def last_notes(found: Sequence[dict[str, Any]]) -> str:
    """The last notes of the series, and of how many each is the last: why a series has no patch is noted last."""
    counts = Counter(note for one in found for note in one["facts"].get("notes", ())[-1:])
    shown = "; ".join(f"{note} ({count} series)" for note, count in counts.most_common(SHOWN))
    return f", whose notes are: {shown}{' …' if len(counts) > SHOWN else ''}" if shown else ""


def list_reasons(damaged: Sequence[Damaged]) -> str:
    """Why inputs are damaged, each reason once."""
    reasons = list(dict.fromkeys(item.reason for item in damaged))
    shown = "; ".join(reasons[:SHOWN])
    return f"; damaged: {shown}{' …' if len(reasons) > SHOWN else ''}" if shown else ""


def estimate_bytes(scratch: Path, series: int) -> int:
    """What the patches of so many series take, by those that are there: each is also written to the data set."""
    found = [path.stat().st_size for path in scratch.glob("*.pickle")]
    return 2 * sum(found) * series // max(len(found), 1)


def here(extractor: Extractor, units: Sequence[Unit]) -> list[dict[str, Any]]:
    return [extractor(item) for item in tqdm(list(enumerate(units)), desc="reading series", mininterval=1)]


def stored_examples(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, "rb") as file:
        while file.peek(1):
            yield pickle.load(file)


def facts(series: Series, more: Iterable[str] = ()) -> dict[str, Any]:
    """What the report says of a series; the SHA-256 is equal for equal voxels, whatever the headers say."""
    voxels = hashlib.sha256(repr(series.voxels.shape).encode())
    for plane in series.voxels:
        voxels.update(np.ascontiguousarray(plane).data)
    return {
        "slices": series.voxels.shape[0],
        "rows_columns": list(series.voxels.shape[1:]),
        "spacing_mm": list(series.spacing),
        "hu_range": [int(series.voxels.min()), int(series.voxels.max())],
        "positions_mm": [float(series.positions[0]), float(series.positions[-1])],
        "voxels_sha256": voxels.hexdigest(),
        "notes": [*series.notes, *doubts(series.voxels), *more],
    }
