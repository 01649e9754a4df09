"""Trains a stage, and estimates the Fisher information of its backbone."""

import dataclasses
import functools
import itertools
import logging
import math
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from ml_collections import FrozenConfigDict

from aiseeme_jax import data, distill, pretext, seeds, weights
from aiseeme_jax.curriculum import teachers
from aiseeme_jax.curriculum.checks import make_stage_task
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.pictures import save_views
from aiseeme_jax.curriculum.pieces import PlannedFisher, PlannedStage, Start, WeightsFile
from aiseeme_jax.curriculum.tuning import SET_FIELDS
from aiseeme_jax.evaluate import features, proxies
from aiseeme_jax.store import keys
from aiseeme_jax.training import loop, samples, step
from aiseeme_jax.training.environment import describe_environment
from aiseeme_jax.training.watch import Watch

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PreparedStage:
    """A stage before its first step: the task with its distillation, the teachers, the batches, and what chooses their
    images, if not all are shown in every epoch.
    """

    task: pretext.Task
    teachers: teachers.LoadedTeachers
    frozen: nnx.Module | None
    split: data.Split
    batches: data.Batches
    samples: samples.Samples | None


@step.transient_programs()
def train_stage(stage: PlannedStage, context: Context, directory: Path) -> dict[str, Any]:
    """Trains a stage to its end, from its newest checkpoint if there is one, and saves its backbone.

    Returns the record.
    """
    chosen = describe_tuning(stage, context)
    stage = context.settle(stage)
    prepared = prepare_stage(stage, context)
    split = prepared.split
    log.info("%s: %d steps of %d images", stage.title, stage.total_steps, stage.fields.batch_size)
    picture = save_views(directory, prepared.task, data.first_images(split, 6), stage.seed)
    callbacks = loop.Callbacks(
        gather_features=lambda backbone: features.extract_from_batches(
            backbone, prepared.batches.in_order(), len(split), views=prepared.task.spec
        ),
        pictures={"views": picture},
        watch=make_watch(stage, context, directory),
        samples=prepared.samples,
    )
    result = loop.fit(
        prepared.task,
        prepared.batches,
        make_recipe(stage, context),
        make_folder(stage, context, directory, split),
        frozen=prepared.frozen,
        callbacks=callbacks,
    )
    left = load_best(directory) if result.record.get("best") else result.task.handed_over()
    backbone, averaged = prepared.teachers.average_with(left)
    info = {"task": stage.fields.task}
    info["preprocessing"] = weights.describe_preprocessing(prepared.task.spec, backbone.channels, split.storage)
    written = weights.save_backbone(directory, backbone, info)
    counts = {"images": len(split), "excluded": split.excluded, "data_warnings": list(split.warnings)}
    counts |= {"devices": jax.device_count(), "made_with": describe_environment()}
    if len(stage.sets) > 1:
        counts["images_shown"] = samples.count_sets(
            split, result.record["steps"], stage.fields.batch_size, find_pace(stage)
        )
    record = {"task": stage.fields.task, "backbone_hash": written, "speed_of": stage.speed_of}
    return {**record, **counts, **result.record, **averaged, **result.task.summary(), **chosen}


def describe_tuning(stage: PlannedStage, context: Context) -> dict[str, Any]:
    """What the record of a stage says about the search of its learning rate and batch size; nothing without one.

    `fields` are those parts of its config that the search has changed.
    """
    if stage.tuning is None:
        return {}
    found = context.store.record(stage.tuning.artifact)
    fields = context.settle(stage).fields
    settled = {name: keys.to_json(fields[name]) for name in SET_FIELDS}
    told = ("learning_rate", "batch_size", "score", "sentences", "trials", "images", "device_seconds", "joules")
    return {"tuning": {**{name: found.get(name) for name in told}, "fields": settled}}


def prepare_stage(stage: PlannedStage, context: Context) -> PreparedStage:
    """Makes the task of a stage around the backbone that it starts from, and loads its teachers."""
    split = context.datasets.pretraining(stage.sets)
    dtype = context.model.dtype
    start = context.load_start(stage.start)
    task = make_stage_task(stage.fields, start, len(split), stage.total_steps, dtype=dtype, seed=stage.seed)
    loaded = load_teachers(stage, context)
    frozen = distill.attach_distillation(
        task, loaded.terms, loaded.backbones, loaded.fishers, dtype=dtype, seed=stage.seed
    )
    batches, pace = make_batches(stage, context, split), find_pace(stage)
    chosen = None if pace is None else samples.Samples(pace, batches, stage.seed)
    if chosen is not None:
        chosen.attach(task)
    return PreparedStage(task, loaded, frozen, split, batches, chosen)


def find_pace(stage: PlannedStage) -> samples.Pace | None:
    """Says which share of its images a stage shows when; None if it shows all of them throughout."""
    return samples.read_pace(stage.fields.samples, stage.steps_per_epoch, stage.total_steps)


def load_teachers(stage: PlannedStage, context: Context) -> teachers.LoadedTeachers:
    """Loads the teachers of a stage, and their Fisher information if a term needs it."""
    backbones = {label: _load_teacher(label, teacher, context) for label, teacher in stage.teachers.items()}
    fishers = {}
    for label, fisher in stage.fishers.items():
        if isinstance(fisher, PlannedFisher):
            fishers[label] = weights.load_fisher(context.store.directory(fisher.artifact), backbones[label])
        else:
            fishers[label] = weights.load_fisher(Path(fisher.path), backbones[label])
    return teachers.LoadedTeachers(stage.terms, backbones, fishers)


def _load_teacher(label: str, teacher: Start, context: Context) -> nnx.Module:
    if isinstance(teacher, WeightsFile):
        return teachers.load_file(context.model, Path(teacher.path), is_init=label == teachers.INIT)
    return context.load_start(teacher)


def make_recipe(stage: PlannedStage, context: Context) -> loop.Recipe:
    """Says how a stage is trained."""
    return loop.Recipe(
        FrozenConfigDict(stage.fields),
        total_steps=stage.total_steps,
        steps_per_epoch=stage.steps_per_epoch,
        seed=stage.seed,
        patience=context.patience,
    )


def make_folder(stage: PlannedStage, context: Context, directory: Path, split: data.Split) -> loop.Folder:
    """Says where a stage is trained, and how often it logs and saves."""
    runtime = context.runtime
    return loop.Folder(
        directory,
        title=stage.title,
        log_every=runtime.log_every,
        checkpoint_every=runtime.checkpoint_every,
        identity={"data": split.fingerprint()},
    )


def make_watch(stage: PlannedStage, context: Context, directory: Path) -> Watch:
    """Says what may end a stage before its last step. The best backbone so far is kept in a file of the stage."""
    stop, seconds = stage.fields.stop, math.inf if stage.seconds is None else stage.seconds
    if not stop.proxy:
        return Watch(seconds=seconds)
    proxy = proxies.find_proxy(stop.proxy.proxy)
    splits = proxies.select_images(stop.proxy, functools.partial(context.datasets.searched, stage.stop_set))
    batch = context.runtime.evaluation_batch
    return Watch(
        value=lambda task: proxy.score(stop.proxy, task.handed_over(), splits, batch).value,
        keep=lambda task: weights.save_backbone(directory, task.handed_over(), {}, file=weights.BEST),
        every=stop.every,
        patience=stop.patience,
        least=stop.least,
        seconds=seconds,
    )


def read_steps(stage: PlannedStage, context: Context) -> int:
    """The steps that a finished stage was trained for."""
    return context.store.record(stage.artifact)["steps"]


def load_best(directory: Path) -> nnx.Module:
    """Loads the backbone of a stage that scored best. Raises UserError if it is missing or damaged."""
    return weights.load_backbone(directory / weights.BEST)[0]


def make_batches(stage: PlannedStage, context: Context, split: data.Split) -> data.Batches:
    """Makes the batches of a stage, in its order."""
    return data.Batches(
        split,
        batch_size=stage.fields.batch_size,
        seed=stage.seed,
        loading=context.loading,
    )


@step.transient_programs()
def estimate_fisher(fisher: PlannedFisher, context: Context, directory: Path) -> dict[str, Any]:
    """Estimates the Fisher information of a finished stage, on the batches that would follow its last step.

    Heads and state come from the stage's last checkpoint. The backbone is the one that the stage left.

    Returns the record. Raises UserError if that checkpoint does not exist any more.
    """
    stage = context.settle(fisher.stage)
    prepared = prepare_stage(stage, context)
    trained = context.store.directory(fisher.stage.artifact)
    recipe, folder = make_recipe(stage, context), make_folder(stage, context, trained, prepared.split)
    task = loop.restore_trained(prepared.task, recipe, folder, frozen=prepared.frozen)
    nnx.update(task.backbone, nnx.state(context.load_stage(fisher.stage)))
    batches = itertools.islice(prepared.batches(read_steps(fisher.stage, context)), fisher.batches)
    found = distill.estimate_fisher(task, batches, jax.random.key(seeds.derive(stage.seed, "fisher")))
    written = weights.save_fisher(directory, found, task.backbone)
    of = context.read_hash(fisher.stage)
    return {"task": stage.fields.task, "batches": fisher.batches, "fisher_of": of, "fisher_hash": written}
