"""CSV tables with a header; a missing column or a doubled row is an error that names it."""

import csv
from collections.abc import Sequence
from pathlib import Path


def read_table(path: Path, key: str, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Rows by their `key` column, in file order, with values stripped.

    Raises:
      ValueError: a column of `columns` (or the key) is missing, a key is blank or occurs twice, a row is too
      short, or
        there is no row.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        missing = [name for name in (key, *columns) if name not in header]
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(missing)} (its columns: {', '.join(header) or 'none'}): "
                "use the table as published"
            )
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            add_row(rows, row, key, columns, f"{path}, line {reader.line_num}")
    if not rows:
        raise ValueError(f"{path} has a header but no rows: use the table as published")
    return rows


def add_row(
    rows: dict[str, dict[str, str]], row: dict[str, str | None], key: str, columns: Sequence[str], place: str
) -> None:
    if any(row[name] is None for name in (key, *columns)):
        raise ValueError(f"{place}: the row has fewer values than the header: use the table as published")
    name = row[key].strip()
    if not name:
        raise ValueError(f"{place}: the column {key} is blank: use the table as published")
    if name in rows:
        raise ValueError(f"{place}: {key} {name} occurs twice: keep one of the rows")
    rows[name] = {column: row[column].strip() for column in columns}
