"""The search of a stage's learning rate and batch size, as it is planned: what it may try, its key, and its trials.

How it searches is said in `search/hparams.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import data
from aiseeme_jax.curriculum.budgets import scale_stage
from aiseeme_jax.curriculum.checks import check_at_least, name_in_errors
from aiseeme_jax.curriculum.datasets import DataSets, find_set
from aiseeme_jax.curriculum.pieces import Candidate, PlannedProbe, PlannedStage, PlannedTrial, PlannedTuning
from aiseeme_jax.curriculum.scores import check_proxy, describe_proxy
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


def switch_off(fields: ConfigDict) -> ConfigDict:
    """The config of a stage without its search."""
    made = fields.copy_and_resolve_references()
    with made.unlocked():
        made.tuning = ConfigDict({"auto": ()}).lock()
    return made


def fit_published(fields: ConfigDict, images: int) -> ConfigDict:
    """A stage whose batch size is searched, with one that its split can fill: the largest that may be tried.

    The learning rate is scaled. Any other stage stays as it is.

    Raises UserError if none of the batch sizes can be filled.
    """
    if BATCH not in fields.tuning.auto:
        return fields
    faults = {size: _find_fault_of_size(size, images) for size in (fields.batch_size, *fields.tuning.batches)}
    usable = [size for size in fields.tuning.batches if faults[size] is None]
    if not usable:
        reasons = "; ".join(faults[size] for size in fields.tuning.batches) or "it is empty"
        raise UserError(f"tuning.batches has no size that can be: {reasons}")
    if faults[fields.batch_size] is None:
        return fields
    made = fields.copy_and_resolve_references()
    rate, ratio = fields.optimizer.learning_rate, max(usable) / fields.batch_size
    made.optimizer.learning_rate = optimizers.scale_rate(fields.optimizer.name, rate, ratio)
    made.batch_size = max(usable)
    return made


def _find_fault_of_size(size: int, images: int) -> str | None:
    """Why a split cannot be cut into batches of a size; None if it can."""
    try:
        check_at_least(1, "a batch size", size)
        data.steps_per_epoch(images, size)
    except UserError as error:
        return str(error)
    return None


def attach_tuning(
    stage: PlannedStage,
    config: ConfigDict,
    fields: ConfigDict,
    datasets: DataSets,
    check: Callable[[PlannedStage], None],
) -> PlannedStage:
    """A stage whose learning rate and batch size are chosen by the search that its config asks for.

    Args:
      stage: with the values around which is searched.
      config: of the run.
      fields: of the stage in the config.
      check: raises UserError for a stage that cannot be trained.

    Raises UserError that names the field.
    """
    search = fields.tuning
    check_fields(search, stage.fields.optimizer.learning_rate)
    with name_in_errors("tuning"):
        check_proxy(config, search.proxy, datasets, "proxy")
    batches, skipped = list_batches(stage, search, check)
    judge = describe_proxy(config, search.proxy, datasets)
    content = {
        "version": VERSION,
        "stage": stage.artifact.content,
        "search": {name: value for name, value in search.items() if name not in ("proxy", "batches")},
        "batches": batches,
        **judge,
    }
    tuning = PlannedTuning(
        artifact=Artifact(artifacts.TUNING, f"{stage.artifact.label}-search", keys.to_json(content)),
        stage=stage,
        fields=FrozenConfigDict(search),
        batches=batches,
        skipped=skipped,
        judge=judge,
        set=find_set(config, search.proxy),
    )
    artifact = Artifact(
        artifacts.STAGES, stage.artifact.label, {**stage.artifact.content, "tuning": tuning.artifact.key}
    )
    return dataclasses.replace(stage, artifact=artifact, tuning=tuning)


def check_fields(search: ConfigDict, published: float) -> None:
    """Raises UserError for fields of a search that cannot be."""
    unknown = [name for name in search.auto if name not in AUTO]
    if unknown:
        raise UserError(f"tuning.auto has '{unknown[0]}'; known are {', '.join(AUTO)}")
    if not search.proxy:
        raise UserError(
            "tuning.proxy is empty, and trials are scored by it: write tuning=base.tuning(base.proxy('knn', …))"
        )
    for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if search[name] not in known:
            raise UserError(f"tuning.{name} is '{search[name]}'; known are {', '.join(known)}")
    for name in ("points", "trials", "round", "rungs", "patience", "noise_batches"):
        check_at_least(1, f"tuning.{name}", search[name])
    for name, least in (("keep", 2), ("memory_limit", 0), ("range_steps", 10)):
        check_at_least(least, f"tuning.{name}", search[name])
    if not 0 < search.share <= 1:
        raise UserError(f"tuning.share is {search.share}; it must lie in (0, 1]")
    if RATE in search.auto and not 1 < search.spread < math.inf:
        raise UserError(f"tuning.spread is {search.spread}; it must be above 1 and finite")
    if RATE in search.auto and not published > 0:
        raise UserError(f"optimizer.learning_rate is {published}; a search around it needs one above 0")


def list_batches(
    stage: PlannedStage, search: ConfigDict, check: Callable[[PlannedStage], None]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The batch sizes that a search may try, and why it may not try the others.

    Args:
      check: raises UserError for a stage that cannot be trained.

    Raises UserError if none is left, or if there is nothing to choose.
    """
    sizes = dict.fromkeys(search.batches if BATCH in search.auto else (stage.fields.batch_size,))
    faults = {size: _find_fault(stage, size, search, check) for size in sizes}
    batches = tuple(size for size, fault in faults.items() if fault is None)
    skipped = tuple(fault for fault in faults.values() if fault is not None)
    if not batches:
        raise UserError(f"tuning has no batch size that it may try: {'; '.join(skipped)}")
    if RATE not in search.auto and len(batches) == 1:
        raise UserError("; ".join([f"tuning has nothing to choose: the only batch size is {batches[0]}", *skipped]))
    return batches, skipped


def _find_fault(
    stage: PlannedStage, size: int, search: ConfigDict, check: Callable[[PlannedStage], None]
) -> str | None:
    """Why a stage cannot be trained on batches of a size, or the shortest trial cannot; None if both can."""
    try:
        with name_in_errors(f"a batch of {size} is left out"):
            check_at_least(1, "a batch size", size)
            check(set_candidate(stage, Candidate(stage.fields.optimizer.learning_rate, size)))
            with name_in_errors("in the shortest trial"):
                made = set_candidate(
                    stage, Candidate(stage.fields.optimizer.learning_rate, size), min(list_shares(search))
                )
                optimizers.make_schedule(made.fields.schedule, 1.0, made.total_steps, made.steps_per_epoch, size)
    except UserError as error:
        return str(error)
    return None


def list_shares(search: Mapping[str, Any]) -> list[float]:
    """The shares of a stage's length that trials have, the shortest first."""
    rungs = 1 if search.pruner == "none" else search.rungs
    return [search.share * search.keep ** (rung + 1 - rungs) for rung in range(rungs)]


def set_candidate(stage: PlannedStage, candidate: Candidate, share: float = 1.0) -> PlannedStage:
    """A stage that is trained with a candidate, for a share of its images, with a schedule of its own."""
    ratio = stage.fields.batch_size / candidate.batch_size
    fields = ConfigDict(stage.fields).copy_and_resolve_references()
    for length in (fields.duration, fields.schedule.warmup):
        if length.steps is not None:
            length.steps = max(round(length.steps * ratio), min(length.steps, 1))
    fields = scale_stage(fields, share)
    fields.optimizer.learning_rate, fields.batch_size = candidate.learning_rate, candidate.batch_size
    steps = max(1, round(stage.total_steps * ratio * share))
    content = {
        **stage.artifact.content,
        "fields": {**stage.artifact.content["fields"], **{name: fields[name] for name in SET_FIELDS}},
        "steps": steps,
    }
    return dataclasses.replace(
        stage,
        artifact=Artifact(artifacts.STAGES, stage.artifact.label, keys.to_json(content)),
        fields=FrozenConfigDict(fields),
        total_steps=steps,
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
    content = {
        "version": VERSION,
        "stage": tuning.stage.artifact.key,
        "probe": {name: search[name] for name in names},
    }
    artifact = Artifact(artifacts.TRIALS, f"{tuning.stage.artifact.label}-probe", keys.to_json(content))
    return PlannedProbe(artifact, tuning.stage, search, tuning.artifact.key)
