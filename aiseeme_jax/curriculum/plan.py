"""The plan of a run: every piece of work, what it needs, how long it takes, and its key.

`make_plan` reads the whole config once, before anything runs. It also checks all that can be checked, so that the plan
can be carried out.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import data, distill, models, pretext, seeds, weights
from aiseeme_jax.curriculum import budgets, checks, teachers
from aiseeme_jax.curriculum.arms import SCRATCH, Arm, count_images, list_arms, take_member
from aiseeme_jax.curriculum.datasets import DataSets, Sets, find_set, list_sets
from aiseeme_jax.curriculum.pieces import (
    Plan,
    PlannedArm,
    PlannedFisher,
    PlannedStage,
    RandomWeights,
    Start,
    WeightsFile,
)
from aiseeme_jax.curriculum.scores import check_proxy, describe_proxy
from aiseeme_jax.curriculum.targets import TargetPlanner
from aiseeme_jax.curriculum.tuning import attach_tuning, fit_batches
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import artifacts, keys
from aiseeme_jax.store.artifacts import Artifact
from aiseeme_jax.training import optimizers
from aiseeme_jax.training.samples import ALL, MEASURED

# Increase one of these when a change of the code changes the results of such pieces of work.
STAGE_VERSION, FISHER_VERSION = 2, 1
# Fisher information is estimated on at most so many batches, unless the stage sets their number.
FISHER_BATCHES = 100
# Fields of a stage that are not in its key as they are. What they mean is there, under names of its own.
RESOLVED_FIELDS = ("seed", "data", "distill", "fisher_batches", "made_for", "stop", "samples", "tuning")


def make_plan(config: ConfigDict, datasets: DataSets, *, checked: set[str] | None = None) -> Plan:
    """Makes the plan of a config, and checks all of it.

    Args:
      datasets: the data sets of the run. They are opened here.
      checked: stages and labels that an earlier plan of the same model has checked. Those of this plan are added.

    Raises UserError that names the wrong part of the config, MissingFile for missing weights or a missing data set.
    """
    return _Planner(config, datasets, set() if checked is None else checked).make()


class _Planner:
    """Makes the plan of one config."""

    def __init__(self, config: ConfigDict, datasets: DataSets, checked: set[str]):
        checks.check_run(config)
        self.config, self.datasets, self.checked = fit_batches(config, datasets), datasets, checked
        self.model = keys.to_json(models.describe_model(config.model))
        self.targets = TargetPlanner(config, datasets, checked)

    def make(self) -> Plan:
        arms = [self.fit_budget(arm) for arm in list_arms(self.config)]
        starts = {arm.init: self.open_start(arm.init) for arm in arms}
        stages = [self.plan_stages(arm, starts[arm.init]) for arm in arms]
        self.targets.check()
        self.targets.warn_of_shared_groups(dict.fromkeys(stage.sets for found in stages for stage in found.values()))
        if not self.config.targets and not any(stages):
            raise UserError("no stages and no targets: there is nothing to do")
        return Plan(tuple(self.plan_arm(arm, starts[arm.init], found) for arm, found in zip(arms, stages, strict=True)))

    def open_start(self, init: str) -> RandomWeights | WeightsFile:
        if init == SCRATCH:
            return RandomWeights(self.config.seed)
        # Loaded once to check that it fits.
        weights.starting_backbone(self.config.model, init, self.config.seed)
        return _describe_file(init)

    def plan_arm(self, arm: Arm, start: RandomWeights | WeightsFile, stages: Mapping[int, PlannedStage]) -> PlannedArm:
        found = tuple(stages.values())
        backbone = found[-1] if found else start
        fishers = tuple(_plan_fisher(stage) for stage in found if stage.fields.fisher_batches and not arm.single)
        return PlannedArm(arm.name, found, fishers, backbone, tuple(self.targets.plan_measurements(arm.name, backbone)))

    def fit_budget(self, arm: Arm) -> Arm:
        """The arm with stages whose lengths fit the budget. A single task has the length of its stage."""
        if not arm.single:
            stages = self.fit_stages(tuple(fields for _, fields in arm.stages))
            return dataclasses.replace(arm, stages=tuple(enumerate(stages)))
        whole = self.fit_stages(self.config.stages)
        found = [(position, whole[position]) for position, _ in arm.stages]
        if arm.member:
            found = [(position, take_member(stage, arm.member)) for position, stage in found]
        return dataclasses.replace(arm, stages=tuple(found))

    def fit_stages(self, stages: Sequence[ConfigDict]) -> tuple[ConfigDict, ...]:
        with checks.name_in_errors("budget"):
            return budgets.fit_stages(stages, self.config.budget, self.count_length)

    def plan_stages(self, arm: Arm, start: RandomWeights | WeightsFile) -> dict[int, PlannedStage]:
        """The stages of an arm by their position in its curriculum."""
        stages: dict[int, PlannedStage] = {}
        before: Start = start
        for position, fields in arm.stages:
            place = teachers.StagePosition(position, arm.tasks, arm.init, arm.single)
            with checks.name_in_errors(f"{arm.field}[{position}] ({fields.task})"):
                before = stages[position] = self.plan_stage(arm, place, fields, before, stages, start)
        return stages

    def plan_stage(
        self,
        arm: Arm,
        place: teachers.StagePosition,
        fields: ConfigDict,
        before: Start,
        earlier: Mapping[int, PlannedStage],
        start: RandomWeights | WeightsFile,
    ) -> PlannedStage:
        sets = list_sets(self.config, fields)
        split = self.datasets.pretraining(sets)
        checks.check_share(self.config, fields, split)
        steps = self.count_steps(arm, fields, len(split))
        self.check_stage_once(arm, place, fields, split, sets, steps)
        terms, named = teachers.resolve_terms(fields, place)
        found = {label: self.find_teacher(teacher, earlier, start) for label, teacher in named.items()}
        fishers = {
            label: _find_fisher(teacher) for label, teacher in found.items() if teachers.needs_fisher(terms, label)
        }
        seed = seeds.of_stage(self.config.seed, place.position, fields.seed)
        seconds = self.find_seconds(arm, fields, steps)
        content = {
            "version": STAGE_VERSION,
            "model": self.model,
            "fields": {name: value for name, value in fields.items() if name not in RESOLVED_FIELDS},
            "seed": seed,
            "steps": steps,
            "patience": self.config.patience,
            "data": self.describe_sets(sets),
            "start": before.content(),
            "distill": [_term_content(term, found) for term in terms],
            "fishers": [_fisher_content(fisher) for fisher in fishers.values()],
            **self.describe_stop(fields, seconds),
            **_describe_samples(fields.samples),
            **_describe_own_tasks(fields),
        }
        artifact = Artifact(artifacts.STAGES, teachers.label_stage(place.position, fields.task), keys.to_json(content))
        planned = PlannedStage(
            artifact=artifact,
            arm=arm.name,
            place=place,
            fields=FrozenConfigDict(fields),
            seed=seed,
            sets=sets,
            images=len(split),
            total_steps=steps,
            seconds=seconds,
            stop_set=find_set(self.config, fields.stop.proxy) if fields.stop.proxy else "",
            steps_per_epoch=data.steps_per_epoch(len(split), fields.batch_size),
            start=before,
            terms=terms,
            teachers=found,
            fishers=fishers,
        )
        return attach_tuning(planned, self.config, self.datasets) if fields.tuning.auto else planned

    def check_stage_once(
        self,
        arm: Arm,
        place: teachers.StagePosition,
        fields: ConfigDict,
        split: data.Split,
        sets: Sets,
        steps: int,
    ) -> None:
        """Checks a stage, unless another arm has the same stage. If it is distilled, what comes before counts too."""
        before = {**dataclasses.asdict(place), "tasks": place.tasks[: place.position]}
        distilled = bool(distill.read_terms(fields.distill))
        content = {"fields": fields, "before": before if distilled else None, "sets": sets, "images": len(split)}
        alike = keys.make_key(content)
        if alike not in self.checked:
            checks.check_stage(self.config, fields, place, split, steps)
            if fields.stop.proxy:
                check_proxy(self.config, fields.stop.proxy, self.datasets, "stop.proxy")
            self.checked.add(alike)

    def find_teacher(
        self, teacher: int | str, earlier: Mapping[int, PlannedStage], start: RandomWeights | WeightsFile
    ) -> Start:
        if isinstance(teacher, int):
            return earlier[teacher]
        if teacher == teachers.INIT:
            return start
        return _describe_file(teacher)

    def count_steps(self, arm: Arm, fields: ConfigDict, images: int) -> int:
        """Number of steps of a stage: its own, or so many that it shows as many images as the whole curriculum."""
        if not arm.total_budget:
            return _count_steps(fields, images)
        shown = sum(self.count_length(stage)[1] for stage in self.fit_stages(self.config.stages))
        return round(shown / count_images(fields))

    def count_length(self, fields: ConfigDict) -> tuple[int, int]:
        """The steps of a stage, and the images that they show."""
        steps = _count_steps(fields, len(self.datasets.pretraining(list_sets(self.config, fields))))
        return steps, steps * count_images(fields)

    def describe_stop(self, fields: ConfigDict, seconds: float | None) -> dict[str, Any]:
        """The part of a stage's key for what may end it early; nothing if nothing does."""
        found: dict[str, Any] = {} if seconds is None else {"seconds": seconds}
        if fields.stop.proxy:
            found |= {name: value for name, value in fields.stop.items() if name not in ("proxy", "seconds")}
            found |= describe_proxy(self.config, fields.stop.proxy, self.datasets)
        return {"stop": found} if found else {}

    def find_seconds(self, arm: Arm, fields: ConfigDict, steps: int) -> float | None:
        """The seconds that a stage may take: its own, or its share of the budget, by the images that it shows."""
        budget = self.config.budget.seconds
        if budget is None or fields.stop.seconds is not None:
            return fields.stop.seconds
        if arm.total_budget:
            return budget
        whole = self.fit_stages(self.config.stages) if arm.single else [stage for _, stage in arm.stages]
        return budget * steps * count_images(fields) / sum(self.count_length(stage)[1] for stage in whole)

    @functools.cache  # noqa: B019 - one object makes one plan
    def describe_sets(self, sets: Sets) -> list[dict[str, Any]]:
        """Identifies the images of a stage. Pixels are identified by the name and the version of their data set."""
        if len(sets) == 1:
            return [{"name": sets[0][0], **self.datasets.pretraining(sets).fingerprint()}]
        return [{"share": share, **self.describe_sets(((name, 1.0),))[0]} for name, share in sets]


def _term_content(term: distill.Term, found: Mapping[str, Start]) -> dict[str, Any]:
    """The part of a key for a term. Its teachers are identified by their content; names do not matter."""
    fields = {name: value for name, value in dataclasses.asdict(term).items() if name != "name"}
    return {**fields, "teachers": [found[label].content() for label in term.teachers]}


def _describe_samples(samples: ConfigDict) -> dict[str, Any]:
    """The part of a stage's key for the images that it shows; nothing if it shows all."""
    if samples.order == ALL:
        return {}
    unread = () if samples.order in MEASURED else ("every", "passes")
    return {"samples": {name: value for name, value in samples.items() if name not in unread}}


def _describe_own_tasks(fields: ConfigDict) -> dict[str, Any]:
    """The part of a stage's key for tasks of the user's own, whose code has no version here; nothing without one."""
    members = fields.fields.get("members", {})
    names = [fields.task, *(members[name].task for name in members)]
    found = {name: pretext.REGISTERED[name] for name in names if name in pretext.REGISTERED}
    return {"own_tasks": found} if found else {}


def _count_steps(fields: ConfigDict, images: int) -> int:
    per_epoch = data.steps_per_epoch(images, fields.batch_size)
    return optimizers.steps_of(fields.duration, steps_per_epoch=per_epoch, batch_size=fields.batch_size)


def _find_fisher(teacher: Start) -> "PlannedFisher | WeightsFile":
    return _plan_fisher(teacher) if isinstance(teacher, PlannedStage) else teacher


def _plan_fisher(stage: PlannedStage) -> PlannedFisher:
    """Plans the Fisher information of a stage, on its `fisher_batches`, or on an epoch of at most FISHER_BATCHES."""
    batches = stage.fields.fisher_batches or min(FISHER_BATCHES, stage.steps_per_epoch)
    content = {"version": FISHER_VERSION, "stage": stage.artifact.key, "batches": batches}
    return PlannedFisher(Artifact(artifacts.FISHER, stage.artifact.label, content), stage, batches)


def _describe_file(path: str) -> WeightsFile:
    """The file of weights that a path means now; a workdir may mean another one later."""
    file = weights.find_backbone(Path(path))
    return WeightsFile(str(file), keys.hash_file(file))


def _fisher_content(fisher: "PlannedFisher | WeightsFile") -> dict[str, Any]:
    """The part of a key for Fisher information. In a file it lies beside the weights, and its own content counts."""
    if isinstance(fisher, PlannedFisher):
        return {"fisher": fisher.artifact.key}
    return {"file": keys.hash_file(weights.find_fisher(Path(fisher.path)))}
