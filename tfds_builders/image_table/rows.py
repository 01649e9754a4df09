"""The user's CSV as rows. Everything that is wrong with it is an error at once, with line and reason: it is the
user's own file, and mended in a minute.
"""

import csv
import io
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("path", "label", "group", "split", "mask")
SPLITS = ("train", "validation", "test")
DELIMITERS = (",", ";", "\t")
# What programs write for an empty cell; taken at its word, it would be one class, or one patient, of all such rows.
NO_VALUES = frozenset(("nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none"))
BYTE_ORDER_MARKS_16 = (b"\xff\xfe", b"\xfe\xff")
SHOWN = 10
WANTED = "wanted are path and, as they are known, label, group, split, mask"


@dataclass(frozen=True)
class Row:
    """One image; '' where the table is blank or lacks the column. Paths are below the table's folder, with '/'."""

    line: int
    path: str
    label: str
    group: str
    split: str
    mask: str


def read_rows(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Rows in the order of the table, and its columns.

    The table is UTF-8, with or without byte order mark, with commas, semicolons or tabs, as Excel and pandas write it.

    Raises ValueError that lists what is wrong, with lines: columns that are not known or missing, a blank or doubled
    path or one that leads out of the folder, an unknown split, a word for 'missing' where blank is wanted, labels that
    differ in case only, two splits in one group.
    """
    header, records = split_table(path, decode(path))
    problems: list[str] = []
    rows = []
    for line, values in records:
        try:
            rows.append(make_row(line, dict(zip(header, values, strict=True)), path.parent))
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    problems += doubled(rows) + alike(rows) + torn(rows)
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"{path}: {'; '.join(problems[:SHOWN])}{more}")
    if not rows:
        raise ValueError(f"{path} has a header but no rows: write one row per image")
    return rows, header


def decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        if data.startswith(BYTE_ORDER_MARKS_16) or b"\0" in data:
            raise ValueError
        return data.decode("utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as 'CSV UTF-8' (Excel: File, Save As)") from error


def split_table(path: Path, text: str) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """The columns, and (line, values) of each row that is not blank throughout."""
    # Excel's own way to name the delimiter.
    named = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    text = text[named.end() :] if named else text
    start = 1 if named else 0
    delimiter = named[1] if named else find_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = tuple(name.strip() for name in next(reader, ()))
        check_header(path, header)
        records = [(reader.line_num + start, [value.strip() for value in values]) for values in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + start}: {error}: check the quotation marks") from error
    records = [(line, values) for line, values in records if any(values)]
    for line, values in records:
        if len(values) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(values)} values for {len(header)} columns: a value that holds "
                f"{delimiter!r} wants quotation marks"
            )
    return header, records


def find_delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(DELIMITERS, key=first.count)


def check_header(path: Path, header: Sequence[str]) -> None:
    # A column that is passed over might be the patients' under another name, and the splits would tear them.
    strange = [name for name in header if name not in COLUMNS]
    twice = sorted({name for name in header if header.count(name) > 1})
    if strange or twice or "path" not in header:
        reasons = [f"has no use for the column {', '.join(map(repr, strange))}"] if strange else []
        reasons += [f"has the column {', '.join(twice)} twice"] if twice else []
        reasons += [] if "path" in header else ["has no column path"]
        found = ", ".join(header) or "none"
        raise ValueError(f"{path} {' and '.join(reasons)}. Its columns are {found}; {WANTED}. Rename or take out")


def make_row(line: int, values: Mapping[str, str], folder: Path) -> Row:
    """Raises ValueError that says what is wrong with the row."""
    for column, value in values.items():
        if value.lower() in NO_VALUES:
            raise ValueError(f"{column} is {value!r}: leave the cell blank, or use another name if it is meant")
        if "\n" in value or "\r" in value:
            raise ValueError(f"{column} {value!r} holds a line break")
    split = values.get("split", "").lower()
    if split and split not in SPLITS:
        raise ValueError(f"split is {values['split']!r}: {', '.join(SPLITS)} or blank are wanted")
    if not values["path"]:
        raise ValueError("path is blank")
    mask = values.get("mask", "")
    return Row(
        line=line,
        path=below(values["path"], folder),
        label=values.get("label", ""),
        group=values.get("group", ""),
        split=split,
        mask=mask and below(mask, folder),
    )


def below(value: str, folder: Path) -> str:
    """The path relative to the table's folder, with '/'. Raises ValueError for one that leads out of it."""
    name = value.replace("\\", "/")
    if re.match(r"[A-Za-z]:", name):
        raise ValueError(f"{value} names a drive: write paths relative to the table")
    if name.startswith("/"):
        homes = [home for home in (folder.absolute(), folder.resolve()) if Path(name).is_relative_to(home)]
        if not homes:
            raise ValueError(f"{value} lies outside the table's folder {folder}: move the images there")
        name = Path(name).relative_to(homes[0]).as_posix()
    if ".." in name.split("/"):
        raise ValueError(f"{value} leads out of the table's folder with '..': move the images there")
    return posixpath.normpath(name)


def doubled(rows: Sequence[Row]) -> list[str]:
    first: dict[str, int] = {}
    found = []
    for row in rows:
        if row.path in first:
            found.append(f"line {row.line}: {row.path} is in line {first[row.path]} already: keep one of the rows")
        first.setdefault(row.path, row.line)
    return found


def alike(rows: Sequence[Row]) -> list[str]:
    """Labels that differ in upper and lower case only, such as a typing error makes."""
    spellings: dict[str, set[str]] = {}
    for row in rows:
        spellings.setdefault(row.label.lower(), set()).add(row.label)
    return [
        f"the labels {', '.join(sorted(several))} differ in upper and lower case only: choose one"
        for several in spellings.values()
        if len(several) > 1
    ]


def torn(rows: Sequence[Row]) -> list[str]:
    given: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.group and row.split:
            given.setdefault(row.group, {}).setdefault(row.split, row.line)
    return [
        f"group {group} is in {' and '.join(f'{split} (line {line})' for split, line in splits.items())}: "
        "a group must be in one split"
        for group, splits in given.items()
        if len(splits) > 1
    ]


def class_names(labels: Sequence[str]) -> list[str]:
    """The labels there are, in order: of their numbers if all are whole numbers, else of the alphabet."""
    names = {label for label in labels if label}
    numbers = all(re.fullmatch(r"\d+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)
