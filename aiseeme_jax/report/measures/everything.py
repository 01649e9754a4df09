"""All tables of the arms that the command `metrics` was asked for, and their files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate.results import write_table
from aiseeme_jax.evidence.subgroups import DEALS
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.measures import differences, groups, tables
from aiseeme_jax.report.measures.arms import AS_STORED, MeasuredArm, collect_arms, join_runs

# The folder in a workdir, and in it a file for each kind of row.
FOLDER = "metrics"
# A Holm's p that can never be below it is worth a note.
LEVEL = 0.05
FILES: Mapping[str, type] = {
    "metrics.csv": tables.MetricRow,
    "areas.csv": tables.AreaRow,
    "operating_points.csv": tables.PointRow,
    "calibration.csv": tables.CalibrationRow,
    "decision_curves.csv": tables.CurveRow,
    "official_isic.csv": tables.OfficialRow,
    "subgroups.csv": groups.GroupRow,
    "gaps.csv": groups.GapRow,
    "differences.csv": differences.DifferenceRow,
}


@dataclass(frozen=True)
class Request:
    """What the command was asked for.

    Attributes:
      arms: patterns of names; `targets`: names, all by default.
      against: the arm that others are compared with; '' if none.
      by: attributes of subgroups, by default those that the data set has.
      classes: names of those that subgroups are measured for, all by default.
      least: sensitivity, and specificity, of the thresholds that are chosen on validation.
      thresholds: of the decision curves.
      data_dir: of the prepared data sets; by default that of the run.
      deals: of each attribute among the patients, for the gaps by chance.
      ensemble: whether the mean over the runs of an arm is measured beside it.
    """

    arms: Sequence[str] = ("*",)
    targets: Sequence[str] = ()
    fraction: float | None = None
    against: str = ""
    by: Sequence[str] = ()
    classes: Sequence[str] = ()
    least: float = 0.9
    thresholds: tuple[float, float] = tables.THRESHOLDS
    data_dir: str = ""
    deals: int = DEALS
    ensemble: bool = False


@dataclass
class Measures:
    """Every row, by the name of its file, with the arms that they are of.

    Attributes:
      notes: sentences about what is left out, and why.
    """

    arms: list[MeasuredArm]
    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in FILES})
    notes: list[str] = field(default_factory=list)

    def of(self, file: str, arm: MeasuredArm) -> list[Any]:
        """The rows of one arm on one target."""
        place = arm.arm, arm.target, arm.fraction
        return [row for row in self.rows[file] if (row.arm, row.target, row.fraction) == place]


def measure_everything(
    contents: Contents, asked: Request, tell: Callable[[str], None] = lambda title: None
) -> Measures:
    """Computes all tables.

    Args:
      tell: is given the title of each arm before it is measured, which may take minutes.

    Raises UserError for arms, targets, classes or attributes that are not there, and for thresholds that cannot be.
    """
    _check(asked)
    patterns = list(dict.fromkeys([*asked.arms, *([asked.against] if asked.against else [])]))
    found = Measures(collect_arms(contents, patterns, asked.targets, asked.fraction))
    if asked.ensemble:
        found.arms += _join_all(found.arms)
    known = {name for arm in found.arms for name in arm.class_names}
    if unknown := [name for name in asked.classes if name not in known]:
        raise UserError(f"there is no class or finding '{unknown[0]}': there are {', '.join(sorted(known))}")
    grouped = {}
    for arm in found.arms:
        tell(arm.title)
        _fill(found, arm, asked)
        if made := _measure_groups(found, contents, arm, asked):
            grouped[arm.arm, arm.target, arm.fraction] = made
    if asked.against:
        found.rows["differences.csv"] = _subtract_all(found, asked.against, grouped)
    return found


def _join_all(arms: Sequence[MeasuredArm]) -> list[MeasuredArm]:
    """The ensembles of all arms that were measured more than once. Raises UserError if there are none."""
    several = [arm for arm in arms if len(arm.tests) > 1]
    if not several:
        raise UserError("--ensemble: every arm was measured once only; give the target or the study several seeds")
    return [join_runs(arm) for arm in several]


def write_tables(folder: Path, found: Measures) -> list[Path]:
    """Writes each table that has rows, and deletes what an earlier command left of the others. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in FILES.items():
        if found.rows[name]:
            numbers = [column.name for column in fields(kind) if column.type in (float, "float")]
            write_table(folder / name, kind, found.rows[name], measured=numbers)
        else:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in FILES if found.rows[name]]


def _check(asked: Request) -> None:
    low, high = asked.thresholds
    if not 0 < low < high < 1:
        raise UserError(f"thresholds reach from {low:g} to {high:g}: they must grow, and lie between 0 and 1")
    if asked.deals < 1:
        raise UserError(f"deals are {asked.deals}; there must be at least 1")
    if not 0 < asked.least <= 1:
        raise UserError(f"the least sensitivity is {asked.least:g}; it must lie above 0 and not above 1")


def _fill(found: Measures, arm: MeasuredArm, asked: Request) -> None:
    """The tables of one arm, without subgroups."""
    made: dict[str, Iterable[Any]] = {
        "metrics.csv": tables.tabulate_metrics(arm),
        "areas.csv": tables.tabulate_areas(arm),
        "operating_points.csv": tables.tabulate_points(arm, asked.least),
        "calibration.csv": tables.tabulate_calibration(arm),
        "decision_curves.csv": tables.tabulate_curves(arm, tables.spread_thresholds(*asked.thresholds)),
        "official_isic.csv": tables.tabulate_official(arm),
    }
    for name, rows in made.items():
        found.rows[name] += rows
    if not arm.has_validation:
        fitted = "" if arm.calibrated == AS_STORED else ", but the temperature that was fitted when it was made"
        _note(
            found,
            f"{arm.measured}: no thresholds from validation, and no calibration by it{fitted}. It was measured before "
            "predictions for validation images were kept: measure it again, in another workdir, to have them",
        )
    for one in arm.recalibrations.get("temperature", []):
        if one.note:
            _note(found, f"{arm.title}: the temperature is {one.note}")


def _measure_groups(found: Measures, contents: Contents, arm: MeasuredArm, asked: Request) -> groups.GroupTables | None:
    name = contents.data_of(arm.target)
    data_dir = asked.data_dir or contents.config["runtime"]["data_dir"]
    try:
        attributes = groups.read_attributes(arm, name, data_dir, asked.by)
    except (MissingFile, UserError) as error:
        if asked.by or asked.data_dir:
            raise
        _note(found, f"{arm.measured}: no subgroups, since {error}")
        return None
    if not attributes:
        _note(found, f"{arm.measured}: no subgroups, since {name} tells no test images apart by sex, age, site or view")
        return None
    made = groups.tabulate_groups(arm, attributes, asked.least, asked.classes, asked.deals)
    found.rows["subgroups.csv"] += made.groups
    found.rows["gaps.csv"] += made.gaps
    tested = sum(row.p == row.p for row in made.gaps)
    if tested > LEVEL * (asked.deals + 1):
        _note(
            found,
            f"{arm.measured}: {tested} gaps were tested with {asked.deals} deals, so that no Holm's p can be below "
            f"{min(1.0, tested / (asked.deals + 1)):.2f}: name fewer (--classes, --by) or raise --deals",
        )
    return made


def _subtract_all(
    found: Measures, against: str, grouped: Mapping[tuple[str, str, float], groups.GroupTables]
) -> list[differences.DifferenceRow]:
    rows = []
    others = {(arm.target, arm.fraction): arm for arm in found.arms if arm.arm == against}
    for arm in found.arms:
        other = others.get((arm.target, arm.fraction))
        if other is None or arm is other:
            continue
        places = [(one.arm, one.target, one.fraction) for one in (arm, other)]
        rows += differences.subtract(arm, other, [grouped[p] for p in places if p in grouped])
    if not rows:
        raise UserError(f"no other arm was measured as '{against}' was: there is nothing to compare it with")
    return differences.adjust(rows)


def _note(found: Measures, sentence: str) -> None:
    if sentence not in found.notes:
        found.notes.append(sentence)
