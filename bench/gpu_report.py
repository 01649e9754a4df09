"""The report of `bench.gpu`: tables that grow as they are measured, in one Markdown file, and the time that is left."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from bench import measure

SKIPPED = "not measured: no time left"


@dataclasses.dataclass
class Table:
    """One part of the report: what is measured, a table of it, and what follows from it."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"## {self.title}", measure.table([self.head, *self.rows]) if self.rows else "", "\n".join(self.notes)]
        return "\n\n".join(part for part in parts if part)


class Report:
    """What was measured so far. Each row is printed when it is known, and the file is written anew.

    Args:
      path: of the Markdown file.
      head: its first lines.
      minutes: nothing begins that is not expected to end within so many minutes from now.
    """

    def __init__(self, path: Path, head: str, minutes: float):
        self.path, self.head = path, head
        self.tables: list[Table] = []
        self.skipped: list[str] = []
        self._begun, self._allowed = time.monotonic(), 60 * minutes
        # Seconds of the longest piece of work of each kind so far.
        self._longest: dict[str, float] = {}
        print(head, flush=True)

    @property
    def seconds(self) -> float:
        """Since the report was begun."""
        return time.monotonic() - self._begun

    def begin(self, title: str, *head: str) -> Table:
        self.tables.append(Table(title, head))
        print(f"\n## {title}  [{self.seconds:.0f} s]\n{' | '.join(head)}", flush=True)
        return self.tables[-1]

    def add(self, table: Table, *cells: str) -> None:
        """Adds a row. Cells that are missing are empty."""
        row = (*cells, *[""] * (len(table.head) - len(cells)))
        table.rows.append(row)
        self._show(" | ".join(row))

    def note(self, table: Table, text: str) -> None:
        table.notes.append(text)
        self._show(text)

    def attempt(self, name: str, work: Callable, *, kind: str):
        """Does a piece of work; returns its result, and what went wrong ('' if nothing did).

        Args:
          name: of what is left out if there is no time for it.
          kind: pieces of one kind take about as long as each other. One begins only if the time that is left is as long
            as the longest of its kind took.
        """
        if self.seconds + self._longest.get(kind, 0.0) >= self._allowed:
            self.skipped.append(name)
            return None, SKIPPED
        begun = time.monotonic()
        try:
            return work(), ""
        # The rest of the report is wanted, whatever failed.
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            return None, f"failed: {type(error).__name__}: {first[:160]}".replace("|", "\\|")
        finally:
            self._longest[kind] = max(self._longest.get(kind, 0.0), time.monotonic() - begun)

    def write(self) -> None:
        parts = [self.head, *map(str, self.tables)]
        if self.skipped:
            parts.append(f"Not measured, since the time was up: {', '.join(self.skipped)}.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n\n".join(parts) + "\n")

    def _show(self, line: str) -> None:
        print(line, flush=True)
        self.write()
