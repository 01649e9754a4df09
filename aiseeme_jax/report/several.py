"""One page for several runs: their arms side by side, each named by its workdir."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import results
from aiseeme_jax.report.contents import Contents, Run, Stage, name_in_run, read_contents
from aiseeme_jax.report.names import describe_target
from aiseeme_jax.store.records import describe_differences

# Jobs whose workdirs hold measurements of arms.
MEASURED = ("curriculum", "evaluate", "study")
# Fields of a target that say how often it is measured, and not how; what it was made for says nothing.
COUNTS = ("fractions", "seeds", "made_for")


def read_several(workdirs: Sequence[Path]) -> Contents:
    """Reads several workdirs as if they were one run; all intervals are bootstrapped as the first config says.

    A target that is measured on the run's own data set is named by it, if the runs have several.

    Raises MissingFile for a folder in which no run was begun. Raises UserError for one folder named twice, for the
    workdir of a search, and if a target has other test images in another workdir.
    """
    statistics = None
    found: dict[str, Contents] = {}
    for name, workdir in zip(name_workdirs(workdirs), workdirs, strict=True):
        contents = read_contents(workdir, statistics=statistics)
        if contents.config["job"] not in MEASURED:
            raise UserError(f"'{workdir}' is the workdir of a {contents.config['job']}, which measures no test images")
        statistics = contents.statistics
        found[name] = contents
    merged = _merge({name: _rename(name, one, _name_data(found)) for name, one in found.items()})
    _check_test_images(merged)
    return merged


def name_workdirs(workdirs: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell workdirs apart. Raises UserError if one is named twice."""
    paths = [path.resolve() for path in workdirs]
    if len(set(paths)) < len(paths):
        raise UserError("a workdir is named twice: name each once")
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _name_data(runs: Mapping[str, Contents]) -> str:
    """The data set of all runs, which the names of targets leave out; '' if there are several."""
    names = {one.data for one in runs.values()}
    return names.pop() if len(names) == 1 else ""


def _rename(run: str, contents: Contents, data: str) -> Contents:
    """The contents of a run with its name before those of its arms, and targets named as on the page."""
    fields = {target: contents.fields_of(target) for target in contents.targets}
    targets = [{**one, "data": one["data"] or contents.data} for one in fields.values()]
    name_of = dict(zip(fields, [results.name_target(one, data) for one in targets], strict=True))

    def rename_run(one: Run) -> Run:
        return replace(one, arm=name_in_run(run, one.arm), target=name_of.get(one.target, one.target))

    def rename_row(one: results.Row) -> results.Row:
        return replace(one, arm=name_in_run(run, one.arm), target=name_of.get(one.target, one.target))

    def rename_stage(one: Stage) -> Stage:
        return replace(one, arm=name_in_run(run, one.arm))

    return replace(
        contents,
        config={**contents.config, "targets": targets},
        arms=[name_in_run(run, arm) for arm in contents.arms],
        targets=list(name_of.values()),
        rows=[rename_row(row) for row in contents.rows],
        runs=[rename_run(one) for one in contents.runs],
        stages=[rename_stage(stage) for stage in contents.stages],
        stages_of={
            name_in_run(run, arm): [rename_stage(stage) for stage in stages]
            for arm, stages in contents.stages_of.items()
        },
        missing=[f"{run}: {sentence}" for sentence in contents.missing],
    )


def _merge(runs: Mapping[str, Contents]) -> Contents:
    first, *_ = runs.values()
    targets: dict[str, dict[str, Any]] = {}
    for one in runs.values():
        for name, fields in zip(one.targets, one.config["targets"], strict=True):
            targets.setdefault(name, fields)
    data = {**first.config["data"], "synthetic": any(one.synthetic for one in runs.values())}
    return Contents(
        config={
            **first.config,
            "title": f"{len(runs)} runs: {', '.join(runs)}",
            "data": {**data, "name": _name_data(runs)},
            "targets": list(targets.values()),
        },
        arms=[arm for one in runs.values() for arm in one.arms],
        targets=list(targets),
        rows=[row for one in runs.values() for row in one.rows],
        runs=[run for one in runs.values() for run in one.runs],
        stages=[stage for one in runs.values() for stage in one.stages],
        stages_of={arm: stages for one in runs.values() for arm, stages in one.stages_of.items()},
        missing=[sentence for one in runs.values() for sentence in one.missing],
        data_warnings=list(dict.fromkeys(warning for one in runs.values() for warning in one.data_warnings)),
        runs_shown=dict(runs),
    )


def describe_differing_targets(contents: Contents) -> list[str]:
    """Sentences about targets of one name that two of the runs measured with other fields."""
    found = []
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, one in contents.runs_shown.items():
        for target, fields in zip(one.targets, one.config["targets"], strict=True):
            other, known = first.setdefault(target, (name, fields))
            # A config of an earlier version lacks fields.
            common = [field for field in known if field in fields and field not in COUNTS]
            old, new = ({field: which[field] for field in common} for which in (known, fields))
            if differing := describe_differences(old, new):
                found.append(f"{describe_target(target)} is not the same in {other} and in {name}: {differing}.")
    return found


def _check_test_images(contents: Contents) -> None:
    """Raises UserError if arms were measured by one target on different test images, or with other labels of them."""
    first: dict[str, tuple[Run, results.Predictions]] = {}
    for run in contents.runs:
        found = results.load_predictions(run.directory).by_id()
        known, other = first.setdefault(run.target, (run, found))
        if table := found.differing_table(other):
            raise UserError(
                f"{known.arm} and {run.arm} were measured by {run.target} on test images with different "
                f"{table.replace('_', ' ')}: they have no place on one page"
            )
