"""metrics.jsonl: what a training has logged, one JSON object a line.

A line is {"step": int, name: number or null, …} or {"step": int, "warning": text}. null stands for a value that is not
finite.
"""

import json
from pathlib import Path
from typing import Any

from aiseeme_jax.store import files

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


def _is_before(line: bytes, start_step: int) -> bool:
    """Whether a line is whole and from a step that is not run again."""
    try:
        return 0 < start_step and json.loads(line)["step"] <= start_step
    except (ValueError, KeyError, TypeError):
        return False
