"""What the report is made from: what the present config of a workdir asks for, as far as the store holds it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiseeme_jax.curriculum.arms import CURRICULUM, SCRATCH, SINGLE
from aiseeme_jax.curriculum.costs import Cost, cost_of_stage, cost_of_work, fill_columns, sum_costs
from aiseeme_jax.errors import MissingFile
from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.scores import score_measurement
from aiseeme_jax.report.names import describe_target
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.keys import shorten
from aiseeme_jax.store.runs import read_runs
from aiseeme_jax.training.journal import METRICS, read_journal


@dataclass(frozen=True)
class Stage:
    """One stage of one arm.

    Attributes:
      record: what it left when it was finished, or None while it is not.
      metrics: the objects of metrics.jsonl, in order of the steps.
      views: sample views as PNG, or None.
      made_from: what its key is made of: fields, data, seed, start; empty if it was not begun.
    """

    arm: str
    task: str
    record: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    views: bytes | None
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        if self.arm == CURRICULUM:
            return self.task
        return self.arm if self.arm.startswith(f"{SINGLE}:") else f"{self.arm}: {self.task}"

    @property
    def cost(self) -> Cost:
        """With the search of its learning rate and batch size."""
        return cost_of_stage(self.record, self.made_from)


@dataclass(frozen=True)
class Run:
    """One finished measurement of an arm.

    Attributes:
      directory: holds its predictions.
      record: what it left.
      needed: the records of the measurements that had to be made first, by their keys.
    """

    arm: str
    target: str
    fraction: float
    seed: int
    directory: Path
    record: dict[str, Any]
    key: str
    needed: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        """With the training of a fine-tuning, and with what had to be measured first. Images are not counted."""
        return sum_measuring([self])


def sum_measuring(runs: Iterable[Run]) -> Cost:
    """What measurements cost, and those that had to be made first: each once, although several may need it."""
    records = {key: record for run in runs for key, record in {run.key: run.record, **run.needed}.items()}
    return sum_costs(map(cost_of_work, records.values()))


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
      stages_of: the stages of each arm, those included that other arms share.
      missing: sentences about what is not there yet.
      data_warnings: what the preparations of the data sets warned of.
      made: the entries of run.json.
      runs_shown: of a page of several runs, the contents of each by its name; else empty.
    """

    config: dict[str, Any]
    arms: list[str]
    targets: list[str]
    rows: list[results.Row]
    runs: list[Run]
    stages: list[Stage]
    stages_of: dict[str, list[Stage]]
    missing: list[str]
    data_warnings: list[str]
    made: list[dict[str, Any]] = field(default_factory=list)
    runs_shown: dict[str, "Contents"] = field(default_factory=dict)

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

    def reference_of(self, arm: str) -> str:
        """The arm without pretraining that belongs to an arm: of its run, and in a study of its variant and seed.

        It need not have been measured.
        """
        run = next((name for name in self.runs_shown if arm.startswith(name_in_run(name, ""))), None)
        config = self.config if run is None else self.runs_shown[run].config
        # The arms of a study are called 'curriculum, seed 1'.
        _, comma, which = arm.partition(", ") if config["job"] == "study" else ("", "", "")
        name = f"{SCRATCH}{comma}{which}"
        return name if run is None else name_in_run(run, name)

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

    def pretraining_cost(self, arm: str) -> Cost:
        """What the stages of an arm cost. Those that several arms share count in each of them."""
        return sum_costs(stage.cost for stage in self.stages_of[arm])

    def measuring_cost(self, arm: str) -> Cost:
        """What all finished measurements of an arm cost."""
        return sum_measuring(run for run in self.runs if run.arm == arm)

    def describe_cost(self, arm: str) -> tuple[str, ...]:
        """What the pretraining and the measurements of an arm cost, under `costs.HEADS` and `costs.MEASURING`."""
        return (*self.pretraining_cost(arm).words, self.measuring_cost(arm).time)

    def measured_targets(self) -> list[str]:
        """Targets with which some arm was measured, in the order of the config."""
        measured = {run.target for run in self.runs}
        return [target for target in self.targets if target in measured]

    def measured_arms(self) -> list[str]:
        """Arms that were measured with some target."""
        measured = {run.arm for run in self.runs}
        return [arm for arm in self.arms if arm in measured]


def name_in_run(run: str, arm: str) -> str:
    """The name of an arm on a page of several runs."""
    return f"{run}: {arm}"


def read_contents(workdir: Path, *, scored: bool = True, statistics: Mapping[str, int] | None = None) -> Contents:
    """Reads what the present config of a workdir asks for, as far as it is there.

    Args:
      scored: with the metrics of all measurements. Without, `rows` is empty.
      statistics: samples and seed of the bootstrap; by default those of the config.

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
    stages = _read_stages(store, arms)
    stages_of = {arm.name: [stages[entry.key] for entry in arm.stages] for arm in arms}
    if statistics is not None:
        config = {**config, "statistics": dict(statistics)}
    return Contents(
        config=config,
        arms=[arm.name for arm in arms],
        targets=[_name_target(config, fields) for fields in config["targets"]],
        rows=[row for run in runs for row in _score_run(run, stages_of[run.arm], config["statistics"])]
        if scored
        else [],
        runs=runs,
        stages=list(stages.values()),
        stages_of=stages_of,
        missing=[*_describe_missing_stages(stages.values()), *_describe_missing_runs(arms, runs)],
        data_warnings=_list_data_warnings(stages.values(), runs),
        made=read_runs(workdir),
    )


def _list_data_warnings(stages: Iterable[Stage], runs: list[Run]) -> list[str]:
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
            named = (arm.name, entry.target, entry.fraction, entry.seed)
            yield Run(*named, directory, record, entry.key, _read_needed(store, entry))


def _read_needed(store: artifacts.Store, entry: workdirs.MeasurementEntry) -> dict[str, dict[str, Any]]:
    """The records of the measurements that had to be made first; one that was deleted since has an empty one."""
    folders = {key: store.find(artifacts.MEASUREMENTS, shorten(key)) for key in entry.needed}
    return {key: (folder and artifacts.read_record(folder)) or {} for key, folder in folders.items()}


def _score_run(run: Run, stages: Iterable[Stage], statistics: dict[str, int]) -> Iterator[results.Row]:
    """The rows of a measurement, with what the stages of its arm and the measurement cost."""
    cost = fill_columns(sum_costs(stage.cost for stage in stages), run.cost)
    for found in score_measurement(run.directory, statistics):
        yield results.Row(run.arm, run.target, run.fraction, run.seed, **found, **cost)


def _read_stages(store: artifacts.Store, arms: list[workdirs.ArmEntry]) -> dict[str, Stage]:
    """The stages of all arms by their keys; one that several arms share has the name of the first."""
    found: dict[str, Stage] = {}
    for arm in arms:
        for entry in arm.stages:
            if entry.key not in found:
                directory = store.find(artifacts.STAGES, shorten(entry.key))
                found[entry.key] = _read_stage(arm.name, entry.task, directory)
    return found


def _read_stage(arm: str, task: str, directory: Path | None) -> Stage:
    if directory is None:
        return Stage(arm, task, None, [], None)
    views = directory / "views.png"
    return Stage(
        arm,
        task,
        record=artifacts.read_record(directory),
        metrics=read_journal(directory / METRICS),
        views=views.read_bytes() if views.exists() else None,
        made_from=artifacts.read_key(directory),
    )


def _describe_missing_stages(stages: Iterable[Stage]) -> Iterator[str]:
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
