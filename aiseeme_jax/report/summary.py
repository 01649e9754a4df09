"""The report in one paragraph: facts that were measured, no opinion."""

from collections.abc import Sequence

from aiseeme_jax.curriculum.arms import CURRICULUM
from aiseeme_jax.evaluate import results
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.measured import Cell, Measured
from aiseeme_jax.report.tables import Table, target_name

# Beyond so many, arms are counted: the table below names them.
NAMED = 8


def sentences(measured: Measured, differences: Table | None) -> list[str]:
    """What was compared, then for each target the best arm and what the curriculum gained."""
    contents = measured.contents
    if not contents.rows:
        return ["Nothing has been measured yet."]
    found = [_compared(contents)]
    gains = _curriculum_gains(contents, differences)
    for target in contents.targets:
        best = _best(measured, target)
        if best:
            arm, cell = best
            sentence = f"{target_name(target)}: best is {arm} with a balanced accuracy of {_figure(cell)}"
            if target in gains:
                sentence += f"; the curriculum minus scratch is {_gain(gains[target])}"
            found.append(sentence + ".")
    return found


def facts(contents: Contents) -> list[str]:
    """The line under the title: data set, model, test set."""
    lines = [contents.data]
    model = contents.config["model"]
    volumes = "3-D " if model["dimensions"] == 3 else ""
    width = "" if model["width"] == 1 else f" × {model['width']:g}"
    lines.append(f"{volumes}{model['name']}{width}, {model['dtype']}")
    excluded = max((stage.record.get("excluded", 0) for stage in contents.stages if stage.record), default=0)
    if excluded:
        lines.append(f"{excluded:,} images kept out of pretraining")
    if contents.runs:
        test = results.load_predictions(contents.runs[0].directory)
        lines.append(f"{len(test.labels):,} test images{_grouped(test.groups)}, {len(test.class_names)} classes")
        present = len(set(test.labels.tolist()))
        if present < len(test.class_names):
            lines.append(f"{present} of {len(test.class_names)} classes occur in the test images: means are over these")
    return lines


def _grouped(groups: Sequence[str]) -> str:
    count = len(set(groups))
    if count == 1:
        return " of one lesion or patient (no intervals)"
    return "" if count == len(groups) else f" of {count:,} lesions or patients"


def _compared(contents: Contents) -> str:
    measured = {row.arm for row in contents.rows}
    arms = [arm for arm in contents.arms if arm in measured]
    tasks = " → ".join(stage["task"] for stage in contents.config["stages"])
    if CURRICULUM not in arms or not tasks:
        return f"Measured: {_listed(arms)}."
    others = f" beside {_listed(arms[1:])}" if arms[1:] else ""
    return f"A backbone trained by the curriculum {tasks} was measured{others}."


def _listed(arms: list[str]) -> str:
    return ", ".join(arms) if len(arms) <= NAMED else f"{len(arms)} arms"


def _best(measured: Measured, target: str) -> tuple[str, Cell] | None:
    contents, fraction = measured.contents, measured.contents.fraction_of(target)
    cells = [(arm, measured.over_seeds(arm, target, fraction, "balanced_accuracy")) for arm in contents.arms]
    return max((pair for pair in cells if pair[1]), key=lambda pair: pair[1].value, default=None)


def _curriculum_gains(contents: Contents, differences: Table | None) -> dict[str, Cell]:
    rows = dict(differences.sections[0].rows) if differences else {}
    cells = rows.get(CURRICULUM, [])
    return {target: cell for target, cell in zip(differences.columns, cells, strict=True) if cell} if cells else {}


def _gain(cell: Cell) -> str:
    includes = ", an interval that includes 0" if cell.low <= 0 <= cell.high else ""
    return f"{_figure(cell)}{includes}"


def _figure(cell: Cell) -> str:
    """Value and interval, not to be torn apart at the end of a line: no-break spaces, a word joiner."""
    return f"{cell.text} {cell.interval}".strip().replace(" ", "\u00a0").replace("–", "–\u2060")
