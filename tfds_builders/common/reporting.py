"""What a preparation leaves beside the data: `prepare_report.json`, tables of the rows, and the builder base class that
writes them.
"""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common import leftovers, sorting
from tfds_builders.common.damage import MAX_SHARE, Damaged, Report, check_share, stored
from tfds_builders.common.row_tables import write_tables

log = logging.getLogger(__name__)

REPORT = "prepare_report.json"


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
    """

    CAN_DOWNLOAD = False
    OPTIONS = frozenset(("max_damaged",))
    REPAIR = "Replace them by the official files, take their rows out of the tables"

    def __init__(self, *, max_damaged: float = MAX_SHARE, file_format: Any = "array_record", **kwargs: Any):
        # array_record gives random access, which the training code relies on.
        super().__init__(file_format=file_format, **kwargs)
        self.max_damaged = max_damaged
        self.report: dict[str, Any] = {}
        self.damaged: list[Damaged] = []
        self.inputs = 0
        self._folders: list[Path] = []

    @classmethod
    def check_config(cls, config: str) -> None:
        """Raises ValueError, with the known ones, if there is no such config."""
        if config not in cls.builder_configs:
            known = ", ".join(f"{cls.name}/{known}" for known in cls.builder_configs)
            raise ValueError(f"{cls.name} has no config {config!r}: the known ones are {known}")

    def check_prepared(self, manual_dir: Path) -> None:
        """Raises ValueError if what is prepared is seen to be made from another input than lies in `manual_dir`."""

    def download_and_prepare(self, **arguments: Any) -> None:
        """As of TFDS, and what an interrupted preparation left does not stay."""
        with leftovers.ended_by_exception(), contextlib.ExitStack() as self._until_done:
            super().download_and_prepare(**arguments)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        self._folders = input_folders(dl_manager)
        # Here the folder is the temporary one.
        self._until_done.enter_context(leftovers.claimed(Path(self.data_dir)))
        leftovers.remove(Path(self.data_dir).parent)
        with sorting.within_little_memory():
            super()._download_and_prepare(dl_manager, download_config)
        self.check_damage(self.damaged, self.inputs)
        for item in self.damaged:
            if item.stored:
                log.warning("left out: %s: %s", item.path, item.reason)
        self.report["warnings"] = [*self.report.get("warnings", []), *absent_classes(self.report["splits"])]
        # The folder is still the temporary one, so data, tables and report appear together or not at all.
        write_tables(self)
        report = Report(Path(self.data_dir) / REPORT, self._folders)
        damage = {"inputs_read": self.inputs, "damaged": stored(self.damaged)}
        report.write({"dataset": self.info.full_name, **self.report, **damage})

    def check_damage(self, damaged: Sequence[Damaged], inputs: int) -> None:
        """Raises TooMuchDamage if more of the inputs are damaged than is allowed, and lists them in a file."""
        name = "_".join(filter(None, (self.name, self.builder_config and self.builder_config.name)))
        listing = Report(Path(self._data_dir_root) / f"{name}_damaged.json", self._folders)
        check_share(damaged, inputs, self.max_damaged, listing, self.REPAIR)


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
