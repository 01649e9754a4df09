"""What a preparation leaves beside the data: `prepare_report.json`, tables of the rows, and the builder base class that
writes them.
"""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common import disks, leftovers, locking, opening, sorting
from tfds_builders.common.damage import MAX_SHARE, Damaged, Report, check_share, stored
from tfds_builders.common.opening import REPORT
from tfds_builders.common.row_tables import load_tables, table_features, table_path, write_tables
from tfds_builders.common.splits import WARNINGS

log = logging.getLogger(__name__)


class ReportingBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A generator-based builder that writes array_record files and, with them, the dict `self.report`.

    A subclass adds to `damaged` what it leaves out, and counts what it was given in `inputs`.

    Args (besides those of TFDS):
      max_damaged: share of the inputs that may be damaged; with more the preparation fails at its end.

    Attributes:
      CAN_DOWNLOAD: whether the builder takes `download=True`.
      OPTIONS: the arguments of its own that `prepare` may give it.
      REPAIR: what to do about damaged inputs.
      report: what `prepare_report.json` will hold: `splits`, as `split_counts` gives them, and whatever else.
      damaged, inputs: see above.
      wanted_bytes: what the preparation takes of the disk in all; None as long as that is not known.
    """

    CAN_DOWNLOAD = False
    OPTIONS = frozenset(("max_damaged",))
    REPAIR = "Replace them by the official files, take their rows out of the tables"

    def __init__(self, *, max_damaged: float = MAX_SHARE, file_format: Any = "array_record", **kwargs: Any):
        if not 0 <= max_damaged <= 1:
            raise ValueError(f"max_damaged is {max_damaged:g}: a share from 0 to 1 is wanted, such as 0.01 for 1 %")
        # array_record gives random access, which the training code relies on.
        super().__init__(file_format=file_format, **kwargs)
        self.max_damaged = max_damaged
        self.report: dict[str, Any] = {}
        self.damaged: list[Damaged] = []
        self.inputs = 0
        self.wanted_bytes: Callable[[], int | None] = lambda: None
        self._folders: list[Path] = []

    @classmethod
    def check_config(cls, config: str) -> None:
        """Raises ValueError, with the known ones, if there is no such config."""
        if config not in cls.builder_configs:
            known = ", ".join(f"{cls.name}/{known}" for known in cls.builder_configs)
            raise ValueError(f"{cls.name} has no config {config!r}: the known ones are {known}")

    def check_whole(self) -> None:
        """Raises DamagedDataSet, or DamagedTable, if a file of what is prepared is missing or damaged.

        Records are counted, and not read.
        """
        folder = Path(self.data_dir)
        stored = opening.open_prepared(folder)
        names = table_features(stored.info.features)
        for split, info in stored.info.splits.items():
            opening.find_shards(stored, split)
            with contextlib.suppress(FileNotFoundError):
                load_tables(table_path(folder, split), info.num_examples, names)

    def check_prepared(self, manual_dir: Path) -> None:
        """Raises ValueError if what is prepared is seen to be made from another input than lies in `manual_dir`."""

    def dataset_info_from_configs(self, **arguments: Any) -> tfds.core.DatasetInfo:
        info = super().dataset_info_from_configs(**{"metadata": tfds.core.MetadataDict(), **arguments})
        # TFDS would look for what it knows of its own data sets, and leave an empty temporary folder.
        info.initialize_from_bucket = _do_nothing
        return info

    def download_and_prepare(self, *, download_config: Any = None, **arguments: Any) -> None:
        """As of TFDS, but one process at a time prepares a data set, and what an interrupted one left does not stay.

        Raises ValueError if the data set is there, and is damaged or was made from another input; DiskError if the disk
        of data_dir is full or not writable.
        """
        if self._is_there(download_config):
            return
        root = Path(self._data_dir_root)
        config = self.builder_config.name if self.builder_config else ""
        lock = root / self.name / f".preparing-{config}"
        with disks.explained(root), locking.hold(lock, f"{self.name}/{config}"):
            # Another process may have prepared it meanwhile.
            if not self._is_there(download_config):
                try:
                    with leftovers.ended_by_exception(), contextlib.ExitStack() as self._until_done:
                        super().download_and_prepare(download_config=download_config, **arguments)
                        if self._folders:
                            # The last of the descriptions is written by TFDS itself, at the end.
                            opening.write_sums(Path(self.data_dir))
                    return
                except FileExistsError:
                    # So it has, on a disk without locks.
                    if not self._is_there(download_config):
                        raise
            self.info.read_from_directory(self.data_dir)

    def _is_there(self, download_config: Any) -> bool:
        """Whether the data set is prepared. Raises ValueError if it is damaged, or was made from another input."""
        if download_config and download_config.download_mode != tfds.GenerateMode.REUSE_DATASET_IF_EXISTS:
            return False
        if not Path(self.data_dir).is_dir():
            return False
        self.check_whole()
        if download_config and download_config.manual_dir:
            self.check_prepared(Path(download_config.manual_dir))
        return True

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        self._folders = input_folders(dl_manager)
        # Here the folder is the temporary one.
        self._until_done.enter_context(leftovers.claimed(Path(self.data_dir)))
        leftovers.remove(Path(self.data_dir).parent)
        # Here what was written is still there to be measured.
        with disks.explained(Path(self._data_dir_root), lambda: self.wanted_bytes()):
            with sorting.within_little_memory():
                super()._download_and_prepare(dl_manager, download_config)
            self.check_damage(self.damaged, self.inputs)
            for item in self.damaged:
                if item.stored:
                    log.warning("left out: %s: %s", item.path, item.reason)
            self._finish()

    def _finish(self) -> None:
        """Writes tables and report into the folder, which is still the temporary one, so data, tables and report appear
        together or not at all.
        """
        warnings = [*self.report.get("warnings", []), *absent_classes(self.report["splits"])]
        self.report["warnings"] = warnings
        self.info.metadata[WARNINGS] = warnings
        write_tables(self)
        report = Report(Path(self.data_dir) / REPORT, self._folders)
        damage = {"inputs_read": self.inputs, "damaged": stored(self.damaged)}
        report.write({"dataset": self.info.full_name, **self.report, **damage})

    def check_damage(self, damaged: Sequence[Damaged], inputs: int) -> None:
        """Raises TooMuchDamage if more of the inputs are damaged than is allowed, and lists them in a file."""
        check_share(damaged, inputs, self.max_damaged, self.listing("damaged"), self.REPAIR)

    def listing(self, kind: str) -> Report:
        """A file beside the data sets for what makes the preparation fail, since nothing else is left of it."""
        name = "_".join(filter(None, (self.name, self.builder_config and self.builder_config.name, kind)))
        return Report(Path(self._data_dir_root) / f"{name}.json", self._folders)


def _do_nothing() -> None:
    """A function of a module, so that what holds it pickles."""


def input_folders(dl_manager: Any) -> list[Path]:
    """Where a preparation's inputs lie: manual_dir, if there is one, and where downloads go."""
    try:
        return [Path(dl_manager.manual_dir), Path(dl_manager.download_dir)]
    except (AssertionError, ValueError):  # of TFDS: there is no manual_dir, or the builder wants none
        return [Path(dl_manager.download_dir)]


def split_counts(
    splits: Mapping[str, Sequence[int]],
    labels: Sequence[str | Sequence[str]],
    groups: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Images, groups and images per class of each split, for the report; an image has a label, several, or none."""
    counts = {}
    for split, rows in splits.items():
        named = ((labels[row],) if isinstance(labels[row], str) else labels[row] for row in rows)
        by_class = Counter(label for several in named for label in several)
        counts[split] = {
            "images": len(rows),
            "groups": len({groups[row] for row in rows}),
            "classes": {name: by_class[name] for name in classes},
        }
    return counts


def absent_classes(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A warning for each split, counted by `split_counts`, that has labels but no image of some of the classes."""
    warnings = []
    for split, counts in splits.items():
        absent = [name for name, number in counts["classes"].items() if not number]
        if absent and len(absent) < len(counts["classes"]):
            warnings.append(f"{split} has no image of {', '.join(absent)}")
    return warnings


def compared(found: Mapping[str, int], published: Mapping[str, int]) -> dict[str, Any]:
    """What the report says of counts: those found, those published, and where they differ."""
    differs = [
        f"{name}: {found.get(name, 0)}, published {number}"
        for name, number in published.items()
        if found.get(name, 0) != number
    ]
    return {"counts": dict(found), "published_counts": dict(published), "differs_from_published": differs}


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of an input file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def listing_fingerprint(digests: Mapping[str, str]) -> str:
    """SHA-256 of the sorted lines 'name sha256': the same for a folder and for the zip file it came from."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
