"""Folders and file names of the two releases, which say all that is known of an image: its class and its patient.

Kaggle: `person<ID>_bacteria_<n>`, `person<ID>_virus_<n>`, `IM-<n>-<n>[-<n>]`, `NORMAL2-IM-<n>-<n>[-<n>]`.
Mendeley Data, version 3: `<CLASS>-<accession>-<n>`; an accession number is one patient's, whatever the class.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from tfds_builders.common.damage import Damaged, DamagedInput

CLASSES = ("normal", "bacterial", "viral")
FOLDERS = ("train", "val", "test")
# What the name may say in a folder of that name.
LABELS = {"NORMAL": ("normal",), "PNEUMONIA": ("bacterial", "viral")}
WORDS = {"NORMAL": "normal", "BACTERIA": "bacterial", "VIRUS": "viral"}
PERSON = re.compile(r"(?P<patient>person\d+)_(?P<word>bacteria|virus)_\d+(_\d+)?")
IM = re.compile(r"(?P<patient>(NORMAL\d*-)?IM-\d+)-\d+(-\d+)?")
ACCESSION = re.compile(r"(?P<word>NORMAL|BACTERIA|VIRUS)-(?P<patient>\d+)-\d+")
# The archive of Mendeley Data holds optical coherence tomography beside the radiographs, with names of the same form.
OTHER_IMAGES = "OCT"


@dataclass(frozen=True)
class File:
    """One image: its path in the archive, its id (the stem of its name), and what folder and name say of it."""

    path: str
    image_id: str
    patient_id: str
    label: str
    folder: str


@dataclass(frozen=True)
class Listing:
    """All images of an archive.

    Attributes:
      files: those that can be used, by path.
      damaged: those whose folder or name fits no rule.
      copies: second copies of the whole tree, which one Kaggle archive has, that were passed over.
      others: images of another kind, passed over.
    """

    files: list[File]
    damaged: list[Damaged]
    copies: int
    others: int


def read_names(paths: Iterable[str]) -> Listing:
    """What the paths say, whatever their order; of two copies the one with the shorter path counts."""
    files: dict[str, File] = {}
    damaged: list[Damaged] = []
    seen: set[tuple[str, ...]] = set()
    copies = others = 0
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        parts = PurePosixPath(path).parts
        if OTHER_IMAGES in parts:
            others += 1
        elif parts[-3:] in seen:
            copies += 1
        else:
            seen.add(parts[-3:])
            try:
                add(files, read_name(path))
            except DamagedInput as error:
                damaged.append(Damaged(path, str(error)))
    return Listing(sorted(files.values(), key=lambda file: file.path), damaged, copies, others)


def add(files: dict[str, File], file: File) -> None:
    if file.image_id in files:
        raise DamagedInput(f"there is another {file.image_id}, {files[file.image_id].path}: keep one of the two")
    files[file.image_id] = file


def read_name(path: str) -> File:
    """Raises DamagedInput if folder or name fit no rule, or contradict each other."""
    pure = PurePosixPath(path)
    folder, kind = ("", "", *pure.parts)[-3:-1]
    if folder not in FOLDERS or kind not in LABELS:
        raise DamagedInput(f"it does not lie in {{{','.join(FOLDERS)}}}/{{{','.join(LABELS)}}}/, which give its label")
    found = PERSON.fullmatch(pure.stem) or IM.fullmatch(pure.stem) or ACCESSION.fullmatch(pure.stem)
    if found is None:
        raise DamagedInput(
            "its name is none of person<ID>_bacteria_<n>, person<ID>_virus_<n>, [NORMAL2-]IM-<n>-<n>[-<n>] and "
            "<CLASS>-<accession>-<n>, so its patient is not known"
        )
    label = WORDS[found.groupdict().get("word", "NORMAL").upper()]
    if label not in LABELS[kind]:
        raise DamagedInput(f"its name says {label}, its folder {kind}")
    return File(path, pure.stem, found["patient"], label, folder)
