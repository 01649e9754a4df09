"""The lists of COVIDx: a line is `patient file label [source]`, separated by spaces that file names have too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.spelling import plain

LABELS = {"A": ("normal", "pneumonia", "COVID-19"), "B": ("negative", "positive")}
PARTS = ("train", "test")
UNKNOWN = "unknown"
# As some lines write it.
CORRECTED = {"rnsa": "rsna"}


@dataclass(frozen=True)
class Row:
    """One line of a list; `source` 'unknown' where the list has no fourth column."""

    filename: str
    patient_id: str
    label: str
    source: str
    part: str


@dataclass
class Lists:
    """Both lists of a version.

    Attributes:
      rows: one per image.
      damaged: lines that cannot be used.
      repeated: how many lines say again what another says.
      corrected: how many sources were misspelt.
    """

    rows: list[Row]
    damaged: list[Damaged]
    repeated: int
    corrected: int


def read_lists(paths: Mapping[str, Path], labels: Sequence[str]) -> Lists:
    """The rows of both parts.

    Raises ValueError for a list that is not UTF-8 text or without any line that can be used.
    """
    lists, seen = Lists([], [], 0, 0), {}
    for part, path in paths.items():
        for number, line in enumerate(read_lines(path), start=1):
            try:
                if line.strip():
                    add_row(lists, seen, read_line(line, labels, part), line)
            except DamagedInput as error:
                lists.damaged.append(Damaged(f"{path}, line {number}", str(error)))
        if not any(row.part == part for row in lists.rows):
            raise ValueError(f"{path} has no line 'patient file label source' with a label of {', '.join(labels)}")
    return lists


def add_row(lists: Lists, seen: dict[str, Row], row: Row, line: str) -> None:
    other = seen.setdefault(row.filename, row)
    if other is row:
        lists.rows.append(row)
        lists.corrected += line.split()[-1] in CORRECTED
    elif other == row:
        lists.repeated += 1
    else:
        raise DamagedInput(
            f"{row.filename} ({row.label}, patient {row.patient_id}) is also in the list {other.part} "
            f"({other.label}, patient {other.patient_id}): keep one of the lines"
        )


def read_lines(path: Path) -> list[str]:
    try:
        return [plain(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}): use the list as published") from error


def read_line(line: str, labels: Sequence[str], part: str) -> Row:
    """Read from the right, since file names may contain spaces. Raises DamagedInput if there is no label."""
    start, *end = line.rsplit(maxsplit=1)
    source = UNKNOWN
    if end and end[0] not in labels:
        source = CORRECTED.get(end[0], end[0])
        start, *end = start.rsplit(maxsplit=1)
    # What is left between patient and label is the name, with its own spaces.
    words = start.split(maxsplit=1)
    if len(words) < 2 or not end or end[0] not in labels:
        raise DamagedInput(f"{line.strip()!r} is not 'patient file label source' with a label of {', '.join(labels)}")
    return Row(words[1], words[0], end[0], source, part)
