"""What a preparation leaves beside the data: `prepare_report.json` and the builder base class that writes
it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

REPORT = "prepare_report.json"


class ReportingBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A generator-based builder that writes array_record files and, with them, the dict `self.report`.

    Attributes:
      CAN_DOWNLOAD: whether the builder takes `download=True`.
    """

    CAN_DOWNLOAD = False

    def __init__(self, *, file_format: Any = "array_record", **kwargs: Any):
        # array_record gives random access, which the training code relies on.
        super().__init__(file_format=file_format, **kwargs)
        self.report: dict[str, Any] = {}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # Here the folder is still the temporary one, so data and report appear together or not at all.
        path = Path(self.data_dir) / REPORT
        path.write_text(json.dumps({"dataset": self.info.full_name, **self.report}, indent=2) + "\n")


def split_counts(
    splits: Mapping[str, Sequence[int]], labels: Sequence[str], groups: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """Images, groups and images per class of each split, for the report."""
    counts = {}
    for split, rows in splits.items():
        by_class = Counter(labels[row] for row in rows)
        counts[split] = {
            "images": len(rows),
            "groups": len({groups[row] for row in rows}),
            "classes": {name: by_class[name] for name in classes},
        }
    return counts


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of an input file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def listing_fingerprint(digests: Mapping[str, str]) -> str:
    """SHA-256 of the sorted lines 'name sha256': the same for a folder and for the zip file it came from."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
