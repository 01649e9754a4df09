"""The tables of a study as CSV files."""

from dataclasses import dataclass
from pathlib import Path

from aiseeme_jax.evaluate.results import write_table
from aiseeme_jax.study.certainty import Difference, Outcomes, Summary, Value, compare, list_values, summarise

VALUES, SUMMARY, DIFFERENCES = "study.csv", "summary.csv", "differences.csv"


@dataclass(frozen=True)
class StudyTables:
    """The rows of the three tables."""

    values: list[Value]
    summaries: list[Summary]
    differences: list[Difference]


def write_tables(workdir: Path, outcomes: Outcomes) -> StudyTables:
    """Writes study.csv, summary.csv and differences.csv, each whole or not at all, and returns their rows."""
    found = StudyTables(list_values(outcomes), summarise(outcomes), compare(outcomes))
    write_table(workdir / VALUES, Value, found.values, measured=("value",))
    numbers = ("x", "value", "low", "high", "images", "device_seconds", "joules")
    write_table(workdir / SUMMARY, Summary, found.summaries, measured=numbers)
    numbers = ("x", "difference", "low", "high", "p", "p_adjusted")
    write_table(workdir / DIFFERENCES, Difference, found.differences, measured=numbers)
    return found
