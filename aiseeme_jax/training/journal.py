"""metrics.jsonl: what a training has logged, one JSON object a line.

A line is {"step": int, name: number or null, …} or {"step": int, "warning": text}. null stands for a value that is not
finite.
"""

import json
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import files, records

METRICS = "metrics.jsonl"


class Journal:
    """Appends lines to a file and flushes each. A kill costs at most the line that is being written.

    Args:
      path: of the file.
      start_step: lines of later steps are removed, since these steps are run again; at 0 all of them.
    """

    def __init__(self, path: Path, start_step: int):
        if path.exists():
            lines = [line for line in path.read_bytes().splitlines() if _is_before(line, start_step)]
            with files.write_whole(path) as shorter:
                shorter.write_bytes(b"".join(line + b"\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, without its warnings. Without a file there are none.

    Raises UserError for a damaged line. A kill may leave the last one half-written; then it is left out.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_parse(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}, line {number} is damaged ({error}): delete that line") from None
    return [record for record in found if "warning" not in record]


def _parse(line: bytes) -> dict[str, Any]:
    """The object in a line. Raises ValueError if it is not as the top of this module says."""
    record = records.parse_object(line)
    if type(record.get("step")) is not int:
        raise ValueError("a line has a whole number as its step")
    numbers = {name: value for name, value in record.items() if name != "warning" and value is not None}
    wrong = [name for name, value in numbers.items() if type(value) not in (int, float)]
    if wrong:
        raise ValueError(f"{wrong[0]} is not a number")
    return record


def _is_before(line: bytes, start_step: int) -> bool:
    """Whether a line is whole and from a step that is not run again."""
    try:
        return 0 < start_step and _parse(line)["step"] <= start_step
    except ValueError:
        return False
