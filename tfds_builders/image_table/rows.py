"""The user's CSV as rows. Everything that is wrong with it is an error at once, with line and reason: it is the
user's own file, and mended in a minute.
"""

import csv
import io
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfds_builders.common.spelling import (
    describe_alike,
    find_alike,
    plain,
    sort_names,
    tidy,
    tidy_column,
)

COLUMNS = ("path", "label", "group", "split", "mask")
# Columns of a finding, and of another attribute, end with its name.
FINDING, ATTRIBUTE = "label_", "attr_"
# What a cell of a finding may be: there, or not.
STATES = {"1": 1.0, "0": 0.0, "yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
# Names of features that a data set has of itself.
TAKEN = frozenset(
    ("image", "image_id", "group", "label", "labels", "mask", "has_mask", "series_uid", "volume", "views")
)
TAKEN |= {"patches"}
SPLITS = ("train", "validation", "test")
DELIMITERS = (",", ";", "\t")
# What programs write for an empty cell; taken at its word, it would be one class, or one patient, of all such rows.
NO_VALUES = frozenset(("nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none"))
BYTE_ORDER_MARKS_16 = (b"\xff\xfe", b"\xfe\xff")
# Faults that are described, and lines that are listed of one fault.
SHOWN = 10
LINES = 5
WANTED = "wanted are path and, as they are known, label or label_NAME, group, split, mask, attr_NAME"


class WrongRow(ValueError):
    """What is wrong with a row, and what to do, which is the same for all rows with this fault."""

    def __init__(self, found: str, advice: str):
        super().__init__(f"{found}: {advice}")
        self.found, self.advice = found, advice


@dataclass(frozen=True)
class Row:
    """One image; '' where the table is blank or lacks the column. Paths are below the table's folder, with '/'.

    Attributes:
      findings: 1 (there), 0 (not there) or NaN (not known), by their names, in the order of the columns.
      attributes: the text of each, by its name.
    """

    line: int
    path: str
    label: str
    group: str
    split: str
    mask: str
    findings: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


def read_rows(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Rows in the order of the table, and its columns.

    The table is UTF-8, with or without byte order mark, with commas, semicolons or tabs, as Excel and pandas write it.
    Labels and groups are tidied: Unicode's form NFC, single plain spaces, whole numbers without pandas' `.0`.

    Raises ValueError that lists what is wrong, with lines: columns that are not known or missing, a blank or doubled
    path or one that leads out of the folder, an unknown split, a word for 'missing' where blank is wanted, labels or
    groups that look alike, two splits in one group.
    """
    header, records = split_table(path, decode(path))
    wrong: list[tuple[int, WrongRow]] = []
    rows: list[Row] = []
    for line, values in records:
        try:
            rows.append(make_row(line, dict(zip(header, values, strict=True)), path.parent))
        except WrongRow as error:
            wrong.append((line, error))
    wrong += doubled(rows)
    problems = [*describe_wrong(wrong), *alike(rows), *torn(rows)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"{path}: {'; '.join(problems[:SHOWN])}{more}")
    if not rows:
        raise ValueError(f"{path} has a header but no rows: write one row per image")
    return tidied(rows), header


def describe_wrong(wrong: Iterable[tuple[int, WrongRow]]) -> list[str]:
    """One sentence for each kind of fault, with the lines that have it."""
    by_advice: dict[str, list[tuple[int, WrongRow]]] = {}
    for line, error in wrong:
        by_advice.setdefault(error.advice, []).append((line, error))
    return [
        f"line {several[0][0]}: {several[0][1].found}{likewise([line for line, _ in several[1:]])}: {advice}"
        for advice, several in by_advice.items()
    ]


def likewise(lines: Sequence[int]) -> str:
    if not lines:
        return ""
    more = f" and {len(lines) - LINES} more" if len(lines) > LINES else ""
    return f" (likewise line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines[:LINES]))}{more})"


def tidied(rows: Sequence[Row]) -> list[Row]:
    labels, groups = tidy_column(row.label for row in rows), tidy_column(row.group for row in rows)
    names = list(rows[0].attributes)
    columns = {name: tidy_column(row.attributes[name] for row in rows) for name in names}
    return [
        replace(
            row,
            label=labels[row.label],
            group=groups[row.group],
            attributes={name: columns[name][row.attributes[name]] for name in names},
        )
        for row in rows
    ]


def decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        if data.startswith(BYTE_ORDER_MARKS_16) or b"\0" in data:
            raise ValueError
        return data.decode("utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as 'CSV UTF-8' (Excel: File, Save As)") from error


def split_table(path: Path, text: str) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """The columns, and (line, values) of each row. Blank lines, and blank columns without a name, hold nothing."""
    # Excel's own way to name the delimiter.
    named = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    delimiter = named[1] if named else find_delimiter(text)
    reader = csv.reader(
        io.StringIO(text[named.end() :] if named else text, newline=""), delimiter=delimiter, strict=True
    )
    start, records = 1 if named else 0, []
    try:
        for values in reader:
            if any(map(plain, values)):
                records.append((reader.line_num + start, values))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + start}: {error}: check the quotation marks") from error
    header = [plain(name) for name in records[0][1]] if records else []
    del records[:1]
    check_lengths(path, header, records, delimiter)
    check_nameless(path, header, records)
    check_header(path, header)
    places = [place for place, name in enumerate(header) if name]
    return tuple(filter(None, header)), [(line, [values[place] for place in places]) for line, values in records]


def find_delimiter(text: str) -> str:
    """The one that the first line with anything in it has most of."""
    first = next((line for line in text.splitlines() if plain(line).strip("".join(DELIMITERS))), "")
    return max(DELIMITERS, key=first.count)


def check_lengths(path: Path, header: Sequence[str], records: Iterable[tuple[int, list[str]]], delimiter: str) -> None:
    """ValueError for a row that lacks values, or has some for which there is no column."""
    named = max((place for place, name in enumerate(header, 1) if name), default=0)
    for line, values in records:
        if len(values) < named or any(map(plain, values[len(header) :])):
            raise ValueError(
                f"{path}, line {line}: {len(values)} values for {len(header)} columns: a value that holds "
                f"{delimiter!r} wants quotation marks"
            )


def check_nameless(path: Path, header: Sequence[str], records: Sequence[tuple[int, list[str]]]) -> None:
    """ValueError for a column without a name that holds anything."""
    for place in (place for place, name in enumerate(header) if not name):
        found = ((line, cell) for line, values in records for cell in values[place : place + 1] if plain(cell))
        line, value = next(found, (0, ""))
        if value and place == 0:
            raise ValueError(
                f"{path}: its first column has no name and may be the number of the row ({value!r} in line {line}): "
                f"take the column out (pandas: to_csv(…, index=False)), or name it; {WANTED}"
            )
        if value:
            raise ValueError(
                f"{path}: its column {place + 1} has no name, and holds {value!r} in line {line}: name the column, or "
                f"take it out; {WANTED}"
            )


def check_header(path: Path, header: Sequence[str]) -> None:
    # A column that is passed over might be the patients' under another name, and the splits would tear them.
    names = list(filter(None, header))
    strange = [name for name in names if name not in COLUMNS and not is_named(name)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if strange or twice or "path" not in names:
        reasons = [f"has no use for the column {', '.join(map(repr, strange))}"] if strange else []
        reasons += [f"has the column {', '.join(twice)} twice"] if twice else []
        reasons += [] if "path" in names else ["has no column path"]
        found = ", ".join(names) or "none"
        raise ValueError(f"{path} {' and '.join(reasons)}. Its columns are {found}; {WANTED}. Rename or take out")


def is_named(column: str) -> bool:
    """Whether it is the column of a finding, or of an attribute of a name that a feature can have."""
    if column.startswith(FINDING):
        return bool(tidy(column.removeprefix(FINDING)))
    name = column.removeprefix(ATTRIBUTE)
    return column != name and re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) is not None and name not in TAKEN


def read_state(column: str, value: str) -> float:
    """1, 0, or NaN of a blank cell. Raises WrongRow for another one."""
    state = tidy(value).lower()
    if state and state not in STATES:
        raise WrongRow(f"{column} is {value!r}", f"{', '.join(STATES)} or blank (not known) are wanted")
    return STATES[state] if state else float("nan")


def make_row(line: int, values: Mapping[str, str], folder: Path) -> Row:
    """Raises WrongRow. Labels and groups keep their spelling, so that those that look alike are found."""
    for column, value in values.items():
        if tidy(value).lower() in NO_VALUES:
            raise WrongRow(f"{column} is {value!r}", "leave the cell blank, or use another name if it is meant")
        if "\n" in value.strip() or "\r" in value.strip():
            raise WrongRow(f"{column} {value!r} holds a line break", "write it in one line")
    split = tidy(values.get("split", "")).lower()
    if split and split not in SPLITS:
        raise WrongRow(f"split is {values['split']!r}", f"{', '.join(SPLITS)} or blank are wanted")
    path, mask, label, group = (values.get(column, "").strip() for column in ("path", "mask", "label", "group"))
    if not path:
        raise WrongRow("path is blank", "name the file of the image")
    return Row(
        line=line,
        path=below(path, folder),
        # A cell of characters without width is blank.
        label=label if tidy(label) else "",
        group=group if tidy(group) else "",
        split=split,
        mask=mask and below(mask, folder),
        findings={
            tidy(column.removeprefix(FINDING)): read_state(column, value)
            for column, value in values.items()
            if column.startswith(FINDING)
        },
        attributes={
            column.removeprefix(ATTRIBUTE): value.strip()
            for column, value in values.items()
            if column.startswith(ATTRIBUTE)
        },
    )


def below(value: str, folder: Path) -> str:
    """The path relative to the table's folder, with '/', in Unicode's form NFC. Raises WrongRow for one that leads out
    of it.
    """
    name = value.replace("\\", "/")
    if re.match(r"[A-Za-z]:", name):
        raise WrongRow(f"{value} names a drive", "write paths relative to the table")
    if name.startswith("/"):
        homes = [home for home in (folder.absolute(), folder.resolve()) if Path(name).is_relative_to(home)]
        if not homes:
            raise WrongRow(
                f"{value} lies outside the table's folder {folder}", "move the images there, or the table to the images"
            )
        name = Path(name).relative_to(homes[0]).as_posix()
    if ".." in name.split("/"):
        raise WrongRow(f"{value} leads out of the table's folder with '..'", "move the images there")
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def doubled(rows: Sequence[Row]) -> list[tuple[int, WrongRow]]:
    first: dict[str, int] = {}
    found = []
    for row in rows:
        if row.path in first:
            found.append(
                (row.line, WrongRow(f"{row.path} is in line {first[row.path]} already", "keep one of the rows"))
            )
        first.setdefault(row.path, row.line)
    return found


def alike(rows: Sequence[Row]) -> list[str]:
    """Labels, and groups, that look alike: a typing error, or what a program made of a name."""
    columns = {"label": [(row.label, row.line) for row in rows], "group": [(row.group, row.line) for row in rows]}
    return [
        f"the {column}s {describe_alike(spellings)} look alike: give them one spelling, or others if they differ"
        for column, places in columns.items()
        for spellings in find_alike(places)
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


def class_names(labels: Iterable[str]) -> list[str]:
    """The labels there are, in order: of their numbers if all are numbers, else of the alphabet."""
    return sort_names({label for label in labels if label})
