"""What the report is made from: what the present config of a workdir asks for, as far as the store holds it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiseeme_jax.curriculum.arms import CURRICULUM, SINGLE
from aiseeme_jax.errors import MissingFile
from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.scores import score_measurement
from aiseeme_jax.report.names import describe_target
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.keys import shorten
from aiseeme_jax.training.journal import METRICS, read_journal


@dataclass(frozen=True)
class Stage:
    """One stage of one arm.

    Attributes:
      record: what it left when it was finished, or None while it is not.
      metrics: the objects of metrics.jsonl, in order of the steps.
      views: sample views as PNG, or None.
    """

    arm: str
    task: str
    record: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    views: bytes | None

    @property
    def title(self) -> str:
        if self.arm == CURRICULUM:
            return self.task
        return self.arm if self.arm.startswith(f"{SINGLE}:") else f"{self.arm}: {self.task}"


@dataclass(frozen=True)
class Run:
    """One finished measurement of an arm.

    Attributes:
      directory: holds its predictions.
      record: what it left.
    """

    arm: str
    target: str
    fraction: float
    seed: int
    directory: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """Everything that the report shows.

    Attributes:
      config: of the newest run in the workdir.
      arms: names; the curriculum first, then in the order of the plan.
      targets: names, in the order of the config.
      rows: all metrics of the finished measurements.
      runs: the finished measurements, by arm and then in the order of the plan.
      stages: of all arms. A stage that several arms share is listed once, under the first of them.
      missing: sentences about what is not there yet.
      data_warnings: what the preparations of the data sets warned of.
    """

    config: dict[str, Any]
    arms: list[str]
    targets: list[str]
    rows: list[results.Row]
    runs: list[Run]
    stages: list[Stage]
    missing: list[str]
    data_warnings: list[str]

    @property
    def data(self) -> str:
        return self.config["data"]["name"]

    @property
    def title(self) -> str:
        return self.config["title"] or self.data

    @property
    def statistics(self) -> dict[str, int]:
        return self.config["statistics"]

    @property
    def synthetic(self) -> bool:
        return bool(self.config["data"]["synthetic"])

    def fields_of(self, target: str) -> dict[str, Any]:
        """The fields of a target in the config."""
        found = (fields for fields in self.config["targets"] if _name_target(self.config, fields) == target)
        # A run that was killed between its two files leaves the config of another plan.
        return next(found, {"data": ""})

    def data_of(self, target: str) -> str:
        """The data set on whose test images a target is measured."""
        fields = self.fields_of(target)
        return fields.get("test_data") or fields["data"] or self.data

    def fractions_of(self, target: str) -> list[float]:
        """The shares of the labels that a target was measured with, the smallest first."""
        return sorted({run.fraction for run in self.runs if run.target == target})

    def largest_fraction_of(self, target: str) -> float | None:
        """The largest share of the labels that a target was measured with; None if it was not measured."""
        return max(self.fractions_of(target), default=None)

    def runs_of(self, arm: str, target: str, fraction: float | None = None) -> list[Run]:
        """The measurements of an arm on a share of the labels, by default the largest, one for each seed."""
        fraction = self.largest_fraction_of(target) if fraction is None else fraction
        return [run for run in self.runs if (run.arm, run.target, run.fraction) == (arm, target, fraction)]

    def measured_targets(self) -> list[str]:
        """Targets with which some arm was measured, in the order of the config."""
        measured = {run.target for run in self.runs}
        return [target for target in self.targets if target in measured]

    def measured_arms(self) -> list[str]:
        """Arms that were measured with some target."""
        measured = {run.arm for run in self.runs}
        return [arm for arm in self.arms if arm in measured]


def read_contents(workdir: Path, *, scored: bool = True) -> Contents:
    """Reads what the present config of a workdir asks for, as far as it is there.

    Args:
      scored: with the metrics of all measurements. Without, `rows` is empty.

    Raises MissingFile for a folder in which no run was begun, and UserError that names what is damaged.
    """
    if not workdir.is_dir():
        raise MissingFile(f"there is no workdir at '{workdir}'")
    plan, config = workdirs.read_plan(workdir), workdirs.read_config(workdir)
    if plan is None or not config:
        raise MissingFile(f"no run was begun in '{workdir}': it lacks {workdirs.PLAN} or {workdirs.CONFIG}")
    store = workdirs.open_store(workdir, plan)
    arms = sorted(plan.arms, key=lambda arm: arm.name != CURRICULUM)
    runs = [run for arm in arms for run in _read_runs(store, arm)]
    stages = list(_read_stages(store, arms))
    return Contents(
        config=config,
        arms=[arm.name for arm in arms],
        targets=[_name_target(config, fields) for fields in config["targets"]],
        rows=[row for run in runs for row in _score_run(run, config["statistics"])] if scored else [],
        runs=runs,
        stages=stages,
        missing=[*_describe_missing_stages(stages), *_describe_missing_runs(arms, runs)],
        data_warnings=_list_data_warnings(stages, runs),
    )


def _list_data_warnings(stages: list[Stage], runs: list[Run]) -> list[str]:
    found = [*(stage.record for stage in stages if stage.record), *(run.record for run in runs)]
    return list(dict.fromkeys(warning for record in found for warning in record.get("data_warnings", ())))


def _name_target(config: dict[str, Any], fields: dict[str, Any]) -> str:
    return results.name_target(fields, config["data"]["name"])


def _read_runs(store: artifacts.Store, arm: workdirs.ArmEntry) -> Iterator[Run]:
    """The finished measurements of an arm."""
    for entry in arm.measurements:
        directory = workdirs.find_measurement_folder(store, entry)
        record = directory and artifacts.read_record(directory)
        if record:
            yield Run(arm.name, entry.target, entry.fraction, entry.seed, directory, record)


def _score_run(run: Run, statistics: dict[str, int]) -> Iterator[results.Row]:
    for found in score_measurement(run.directory, statistics):
        yield results.Row(run.arm, run.target, run.fraction, run.seed, **found)


def _read_stages(store: artifacts.Store, arms: list[workdirs.ArmEntry]) -> Iterator[Stage]:
    """The stages of all arms; one that several arms share is shown where it comes first."""
    shown = set()
    for arm in arms:
        for entry in arm.stages:
            if entry.key not in shown:
                shown.add(entry.key)
                yield _read_stage(arm.name, entry.task, store.find(artifacts.STAGES, shorten(entry.key)))


def _read_stage(arm: str, task: str, directory: Path | None) -> Stage:
    if directory is None:
        return Stage(arm, task, None, [], None)
    views = directory / "views.png"
    record = artifacts.read_record(directory)
    metrics = read_journal(directory / METRICS)
    return Stage(arm, task, record, metrics, views.read_bytes() if views.exists() else None)


def _describe_missing_stages(stages: list[Stage]) -> Iterator[str]:
    for stage in stages:
        if stage.record is None:
            at = f"at step {stage.metrics[-1]['step']}" if stage.metrics else "not begun"
            yield f"Stage {stage.title} is not finished ({at})."


def _describe_missing_runs(arms: list[workdirs.ArmEntry], runs: list[Run]) -> Iterator[str]:
    """For each target and share of the labels, a sentence about the arms that lack the same seeds."""
    measured = {(run.arm, run.target, run.fraction, run.seed) for run in runs}
    wanted: dict[tuple[str, float], dict[str, list[int]]] = {}
    for arm in arms:
        for entry in arm.measurements:
            wanted.setdefault((entry.target, entry.fraction), {}).setdefault(arm.name, []).append(entry.seed)
    for (target, fraction), seeds_of in wanted.items():
        lacking: dict[tuple[int, ...], list[str]] = {}
        for arm, seeds in seeds_of.items():
            absent = tuple(seed for seed in seeds if (arm, target, fraction, seed) not in measured)
            lacking.setdefault(absent, []).append(arm)
        lacking.pop((), None)
        for absent, names in lacking.items():
            which = "" if list(absent) == seeds_of[names[0]] else f" with seed {' or '.join(map(str, absent))}"
            whom = "any arm" if names == list(seeds_of) else ", ".join(names)
            yield f"No results of {describe_target(target)} on {in_words(fraction)}{which} for {whom}."
