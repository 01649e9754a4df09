"""CSV tables with a header; what is missing, doubled, shifted or ill quoted is an error that names the place."""

import contextlib
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TextIO

from tfds_builders.common.archives import UNREADABLE, is_resource_fork, open_zip, safe_names
from tfds_builders.common.locations import Files, Location
from tfds_builders.common.spelling import plain

# A file, or a member of a zip file.
TablePath = Path | Location
NO_TABLE = (UnicodeDecodeError, csv.Error, *UNREADABLE)


def table_in(container: Path, name: str) -> TablePath | None:
    """The table `name` in a folder, or in a zip file: at its top or in the folder of its name; else None."""
    if container.is_dir():
        return container / name if (container / name).is_file() else None
    if container.suffix.lower() != ".zip":
        return None
    with open_zip(container) as archive:
        members = {name, f"{container.stem}/{name}"}.intersection(archive.namelist())
    return Location(container, min(members)) if members else None


def locate_table(folder: Path, whole: Path | None, name: str) -> TablePath | None:
    """A table of a Kaggle competition: in the folder, as it is or zipped as single files are given, else with the
    archive or folder `whole` of the competition.
    """
    zipped = folder / f"{name}.zip"
    return table_in(folder, name) or (zipped if zipped.is_file() else None) or (whole and table_in(whole, name))


@contextlib.contextmanager
def open_table(path: TablePath) -> Iterator[TextIO]:
    """The CSV file, or the only CSV file in a zip file. Raises ValueError if that has none, several, or is damaged."""
    try:
        with Files() as files, files.open(csv_in(path)) as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    except NO_TABLE as error:
        raise ValueError(f"{path} is no table of UTF-8 text ({error}): download it again") from error


def csv_in(path: TablePath) -> Location:
    """The file, or the only CSV file in a zip file."""
    if isinstance(path, Location) or path.suffix.lower() != ".zip":
        return path if isinstance(path, Location) else Location(path)
    with open_zip(path) as archive:
        found = (name for name in safe_names(path, archive) if not is_resource_fork(PurePosixPath(name)))
        names = [name for name in found if name.endswith(".csv")]
    if len(names) != 1:
        raise ValueError(f"{path} holds {len(names)} CSV files, not one: use the archive as published")
    return Location(path, names[0])


def read_rows(path: TablePath, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, values) of each row, in file order; `place` names file and line, the values are `plain`.

    Blank lines before the header do not count.

    Raises ValueError if a column of `columns` is missing or doubled, a row has fewer values than the header or more
    (blank ones do not count), a quotation mark is astray, or there is no row.
    """
    empty = True
    with open_table(path) as file:
        lines, skipped = skip_blank_lines(file)
        reader = csv.DictReader(lines, strict=True)
        reader.fieldnames = header = [plain(name) for name in reader.fieldnames or []]
        check_header(path, header, columns)
        for place, row in placed_rows(path, reader, skipped):
            empty = False
            if any(row[name] is None for name in header if name):
                raise ValueError(f"{place}: the row has fewer values than the header: use the table as published")
            if any(value.strip() for value in row.get(None, ())):
                raise ValueError(f"{place}: the row has more values than the header: use the table as published")
            yield place, {name: plain(row[name]) for name in columns}
    if empty:
        raise ValueError(f"{path} has a header but no rows: use the table as published")


def skip_blank_lines(file: TextIO) -> tuple[Iterator[str], int]:
    """The lines from the first that holds anything on, and how many were before it."""
    for skipped, line in enumerate(file):
        if plain(line).strip(',;\t "'):
            return itertools.chain([line], file), skipped
    return iter(()), 0


def read_header(path: TablePath) -> list[str]:
    """The names of the columns; ValueError as `open_table`."""
    with open_table(path) as file:
        lines, _ = skip_blank_lines(file)
        return [plain(name) for name in next(csv.reader(lines), ())]


def check_header(path: TablePath, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)} (its columns: {', '.join(header) or 'none'}): "
            "use the table as published"
        )
    doubled = [name for name in columns if header.count(name) > 1]
    if doubled:
        raise ValueError(f"{path} has two columns {', '.join(doubled)}: use the table as published")


def placed_rows(path: TablePath, reader: csv.DictReader, skipped: int) -> Iterator[tuple[str, dict]]:
    """Each row and its place, `skipped` lines after that of the reader. An open quotation mark swallows the rows after
    it, so its error names the first.
    """
    while True:
        line = skipped + reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, from line {line} on: {error}: check the quotation marks") from error
        if row is None:
            return
        yield f"{path}, line {skipped + reader.line_num}", row


def read_table(path: TablePath, key: str, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Rows by their `key` column, in file order, with values stripped; see `open_table` for what `path` may be.

    Raises ValueError as `read_rows`, and for a key that is blank or occurs twice.
    """
    rows: dict[str, dict[str, str]] = {}
    for place, row in read_rows(path, (key, *columns)):
        name = row[key]
        if not name:
            raise ValueError(f"{place}: the column {key} is blank: use the table as published")
        if name in rows:
            raise ValueError(f"{place}: {key} {name} occurs twice: keep one of the rows")
        rows[name] = {column: row[column] for column in columns}
    return rows


def read_patients(path: Path | None) -> dict[str, str]:
    """Patient of each series UID, from LIDC-IDRI's list (two columns, patient first; a header does no harm).

    Empty without the list; ValueError, with the line, if a row has not two values.
    """
    if path is None or not path.is_file():
        return {}
    with open_table(path) as file:
        rows = [[plain(value) for value in row] for row in csv.reader(file, strict=True) if row]
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != 2 or not all(row)]
    if wrong or not rows:
        place = f"line {wrong[0]}" if wrong else "empty"
        raise ValueError(
            f"{path}, {place}: two columns, patient and series UID, are wanted: use the table as published"
        )
    return {uid: patient for patient, uid in rows}


# A spreadsheet takes a cell that begins with one of them for a formula, and runs it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def as_cell(text: str) -> str:
    """The text for a cell of a CSV file that people open in spreadsheets: what would be a formula gets an apostrophe
    before it, and so does what has one already. Numbers stay as they are.
    """
    return f"'{text}" if text.lstrip("'").startswith(FORMULA_STARTS) and not is_number(text) else text


def from_cell(cell: str) -> str:
    """What `as_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and as_cell(cell[1:]) == cell else cell


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
