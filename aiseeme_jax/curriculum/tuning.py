"""The search of a stage's learning rate and batch size, as it is planned: what it may try, its key, and its trials.

How it searches is said in `search/hparams.py`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import data
from aiseeme_jax.curriculum.budgets import scale_stage
from aiseeme_jax.curriculum.checks import check_at_least, check_stage, name_in_errors
from aiseeme_jax.curriculum.datasets import DataSets, find_set, list_sets
from aiseeme_jax.curriculum.pieces import PlannedStage
from aiseeme_jax.curriculum.scores import check_proxy, describe_proxy
from aiseeme_jax.curriculum.trials import Candidate, PlannedProbe, PlannedTrial, PlannedTuning
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import artifacts, keys
from aiseeme_jax.store.artifacts import Artifact
from aiseeme_jax.training import optimizers

# Increase it when a change of the code changes what is tried, found or measured.
VERSION = 1
RATE, BATCH = AUTO = ("learning_rate", "batch_size")
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("halving", "hyperband", "none")
# Parts of a stage's config that its learning rate, batch size and length are in.
SET_FIELDS = ("optimizer", "batch_size", "duration", "schedule")


def fit_batches(config: ConfigDict, datasets: DataSets) -> ConfigDict:
    """The config of a run in which every stage whose batch size is searched has one that the search may try.

    It is the nearest of `tuning.batches` to its own that its images can fill. The learning rate is scaled.

    Raises UserError if none of them can be filled.
    """
    named = {"stages": config.stages, **{f"curricula.{name}": stages for name, stages in config.curricula.items()}}
    if config.job == "evaluate" or not any(BATCH in one.tuning.auto for found in named.values() for one in found):
        return config
    fitted = {field: _fit_stages(field, stages, config, datasets) for field, stages in named.items()}
    made = config.copy_and_resolve_references()
    with made.unlocked():
        made.stages = fitted.pop("stages")
        for field, stages in fitted.items():
            made.curricula[field.removeprefix("curricula.")] = stages
    return made


def _fit_stages(
    field: str, stages: Sequence[ConfigDict], config: ConfigDict, datasets: DataSets
) -> tuple[ConfigDict, ...]:
    made = []
    for position, stage in enumerate(stages):
        with name_in_errors(f"{field}[{position}] ({stage.task})"):
            made.append(_fit_batch(stage, config, datasets) if BATCH in stage.tuning.auto else stage)
    return tuple(made)


def _fit_batch(stage: ConfigDict, config: ConfigDict, datasets: DataSets) -> ConfigDict:
    search, images = stage.tuning, len(datasets.pretraining(list_sets(config, stage)))
    faults = {size: _find_fault_of_size(size, images) for size in search.batches}
    usable = [size for size, fault in faults.items() if fault is None]
    if not usable:
        reasons = "; ".join(faults.values()) or "it is empty"
        raise UserError(f"tuning.batches has no size that can be: {reasons}")
    if stage.batch_size in usable:
        return stage
    nearest = min(usable, key=lambda size: abs(math.log(size / stage.batch_size)))
    _check_name("scaling", search.scaling, optimizers.SCALINGS)
    rate, ratio = stage.optimizer.learning_rate, nearest / stage.batch_size
    return _with_batch(stage, optimizers.scale_rate(rate, ratio, search.scaling, stage.optimizer.name), nearest)


def _find_fault_of_size(size: int, images: int) -> str | None:
    """Why a split cannot be cut into batches of a size; None if it can."""
    try:
        check_at_least(1, "a batch size", size)
        data.steps_per_epoch(images, size)
    except UserError as error:
        return str(error)
    return None


def _with_batch(stage: ConfigDict, rate: float, batch: int) -> ConfigDict:
    """A stage with another learning rate and batch size that shows as many images."""
    made = stage.copy_and_resolve_references()
    for length in (made.duration, made.schedule.warmup):
        if length.steps is not None:
            length.steps = max(round(length.steps * stage.batch_size / batch), min(length.steps, 1))
    made.optimizer.learning_rate, made.batch_size = rate, batch
    return made


def attach_tuning(stage: PlannedStage, config: ConfigDict, datasets: DataSets) -> PlannedStage:
    """A stage whose learning rate and batch size are chosen by the search that its config asks for.

    Args:
      stage: with the values around which is searched.
      config: of the run.

    Raises UserError that names the field.
    """
    search = stage.fields.tuning
    check_fields(search, stage.fields.optimizer.learning_rate)
    with name_in_errors("tuning"):
        check_proxy(config, search.proxy, datasets, "proxy")
    batches, skipped = list_batches(stage, config, datasets)
    judge = describe_proxy(config, search.proxy, datasets)
    content = {
        "version": VERSION,
        "stage": stage.artifact.content,
        "search": {name: value for name, value in search.items() if name not in ("proxy", "batches")},
        "batches": batches,
        **judge,
    }
    tuning = PlannedTuning(
        artifact=Artifact(artifacts.TUNING, stage.artifact.label, keys.to_json(content)),
        stage=stage,
        fields=search,
        batches=batches,
        skipped=skipped,
        judge=judge,
        set=find_set(config, search.proxy),
    )
    content = {**stage.artifact.content, "tuning": tuning.artifact.key}
    return dataclasses.replace(stage, artifact=Artifact(artifacts.STAGES, stage.artifact.label, content), tuning=tuning)


def check_fields(search: FrozenConfigDict, published: float) -> None:
    """Raises UserError for fields of a search that cannot be.

    Args:
      published: the learning rate around which is searched.
    """
    for name in search.auto:
        _check_name("auto", name, AUTO)
    if not search.proxy:
        raise UserError("tuning.proxy is empty, and trials are scored by it: write tuning=tuning(proxy('knn', …))")
    _check_name("sampler", search.sampler, SAMPLERS)
    _check_name("pruner", search.pruner, PRUNERS)
    _check_name("scaling", search.scaling, optimizers.SCALINGS)
    for name in ("points", "trials", "round", "rungs", "patience", "noise_batches"):
        check_at_least(1, f"tuning.{name}", search[name])
    for name, least in (("keep", 2), ("memory_limit", 0), ("range_steps", 30)):
        check_at_least(least, f"tuning.{name}", search[name])
    if not 0 < search.share <= 1:
        raise UserError(f"tuning.share is {search.share}; it must lie in (0, 1]")
    if RATE in search.auto and not 1 < search.spread < math.inf:
        raise UserError(f"tuning.spread is {search.spread}; it must be above 1 and finite")
    if RATE in search.auto and not 0 < published < math.inf:
        raise UserError(f"optimizer.learning_rate is {published}; a search around it needs one above 0")


def _check_name(field: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise UserError(f"tuning.{field}: '{name}' is unknown; known are {', '.join(known)}")


def list_batches(
    stage: PlannedStage, config: ConfigDict, datasets: DataSets
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The batch sizes that a search may try, and why it may not try the others.

    Raises UserError if none is left, or if there is nothing to choose.
    """
    search = stage.fields.tuning
    sizes = dict.fromkeys(search.batches if BATCH in search.auto else (stage.fields.batch_size,))
    faults = {size: _find_fault(stage, size, config, datasets) for size in sizes}
    batches = tuple(size for size, fault in faults.items() if fault is None)
    skipped = tuple(fault for fault in faults.values() if fault is not None)
    if not batches:
        raise UserError(f"tuning has no batch size that it may try: {'; '.join(skipped)}")
    if RATE not in search.auto and len(batches) == 1:
        raise UserError("; ".join([f"tuning has nothing to choose: the only batch size is {batches[0]}", *skipped]))
    return batches, skipped


def _find_fault(stage: PlannedStage, size: int, config: ConfigDict, datasets: DataSets) -> str | None:
    """Why a stage cannot be trained on batches of a size, or the shortest trial cannot; None if both can."""
    lengths = {1.0: "in the whole stage", min(list_shares(stage.fields.tuning)): "in the shortest trial"}
    try:
        with name_in_errors(f"a batch of {size} is left out"):
            check_at_least(1, "a batch size", size)
            data.steps_per_epoch(stage.images, size)
            for share, words in lengths.items():
                with name_in_errors(words):
                    made = set_candidate(stage, Candidate(stage.fields.optimizer.learning_rate, size), share)
                    fields = ConfigDict(made.fields)
                    # A single task may be trained for longer than its fields say.
                    fields.duration.update({"epochs": None, "steps": made.total_steps, "examples": None})
                    check_stage(config, fields, stage.place, datasets.pretraining(stage.sets), made.total_steps)
    except UserError as error:
        return str(error)
    return None


def list_shares(search: FrozenConfigDict) -> list[float]:
    """The shares of a stage's length that trials have, the shortest first."""
    rungs = 1 if search.pruner == "none" else search.rungs
    return [search.share * search.keep ** (rung + 1 - rungs) for rung in range(rungs)]


def set_candidate(stage: PlannedStage, candidate: Candidate, share: float = 1.0) -> PlannedStage:
    """A stage that is trained with a candidate, for a share of its images, with a schedule of its own."""
    fields = _with_batch(ConfigDict(stage.fields), candidate.learning_rate, candidate.batch_size)
    fields = scale_stage(fields, share)
    steps = max(1, round(stage.total_steps * share * stage.fields.batch_size / candidate.batch_size))
    seconds = None if stage.seconds is None else stage.seconds * share
    content = {
        **stage.artifact.content,
        "fields": {**stage.artifact.content["fields"], **{name: fields[name] for name in SET_FIELDS}},
        "steps": steps,
    }
    if seconds is not None:
        content["stop"] = {**content["stop"], "seconds": seconds}
    return dataclasses.replace(
        stage,
        artifact=Artifact(artifacts.STAGES, stage.artifact.label, keys.to_json(content)),
        fields=FrozenConfigDict(fields),
        total_steps=steps,
        seconds=seconds,
        steps_per_epoch=data.steps_per_epoch(stage.images, candidate.batch_size),
        tuning=None,
    )


def plan_trial(tuning: PlannedTuning, candidate: Candidate, share: float) -> PlannedTrial:
    """A candidate that is trained for a share of the stage's length. Other searches find the same trial."""
    stage = set_candidate(tuning.stage, candidate, share)
    limit = tuning.fields.memory_limit
    content = {"version": VERSION, "stage": stage.artifact.key, "memory_limit": limit, **tuning.judge}
    label = f"{stage.artifact.label}-{candidate.learning_rate:g}-of-{candidate.batch_size}-{100 * share:.3g}pct"
    artifact = Artifact(artifacts.TRIALS, label, keys.to_json(content))
    return PlannedTrial(artifact, stage, share, tuning.fields.proxy, tuning.set, limit, tuning.artifact.key)


def plan_probe(tuning: PlannedTuning) -> PlannedProbe | None:
    """What is measured before the first trial; None if nothing is."""
    search = tuning.fields
    if not (search.noise_scale or (search.range_test and RATE in search.auto)):
        return None
    names = ("auto", "spread", "range_test", "range_steps", "noise_scale", "noise_batches")
    content: dict[str, Any] = {
        "version": VERSION,
        "stage": tuning.stage.artifact.key,
        "probe": {name: search[name] for name in names},
    }
    artifact = Artifact(artifacts.TRIALS, f"{tuning.stage.artifact.label}-probe", keys.to_json(content))
    return PlannedProbe(artifact, tuning.stage, search, tuning.artifact.key)
