"""Checks the parts of a config before anything is trained, so that a mistake in the last stage costs only seconds."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data, models, pretext, seeds, weights
from aiseeme_jax.curriculum import teachers
from aiseeme_jax.curriculum.arms import list_members
from aiseeme_jax.curriculum.budgets import check_budget
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune
from aiseeme_jax.evaluate.features import DEFAULT_ENDPOINT
from aiseeme_jax.training import samples
from aiseeme_jax.training.checks import check_training
from aiseeme_jax.training.writers import check_writers

# Groups of fewer images are tried out: no loss, norm or distillation needs more rows than so many.
SMALL_BATCH = 3


@contextlib.contextmanager
def name_in_errors(part: str) -> Iterator[None]:
    """Puts the part of the config before the message of a UserError.

    A ValueError becomes one: while a config is checked, the value that a library refuses comes from it. Any other error
    is a fault of the program. It keeps its traceback, and a note says which part was checked.
    """
    try:
        yield
    except UserError as error:
        raise type(error)(f"{part}: {error}") from error
    except ValueError as error:
        raise UserError(f"{part}: {error}") from error
    except Exception as error:
        error.add_note(f"while {part} of the config was checked")
        raise


def check_at_least(least: float, name: str, value: float) -> None:
    """Raises UserError, with the name of the field, if a value is below the least that is allowed."""
    # Written so that NaN is refused.
    if not value >= least:
        raise UserError(f"{name} is {value}; it must be at least {least}")


def check_runtime(runtime: ConfigDict) -> None:
    """Checks the fields that say how and where the work is done. Raises UserError that names the field."""
    for name, least in (("log_every", 1), ("checkpoint_every", 1), ("evaluation_batch", 1), ("workers", 0)):
        check_at_least(least, f"runtime.{name}", runtime[name])
    data.Loading(runtime.residence, runtime.workers)
    check_writers(runtime.writers)


def check_run(config: ConfigDict) -> None:
    """Checks the fields that belong to no single stage or target. Raises UserError that names the field."""
    check_runtime(config.runtime)
    check_at_least(1, "patience", config.patience)
    if not 0 < config.data.share <= 1:
        raise UserError(f"data.share is {config.data.share}; it must lie in (0, 1]")
    check_at_least(-1, "data.share_seed", config.data.share_seed)
    check_at_least(1, "statistics.samples", config.statistics.samples)
    check_at_least(0, "statistics.seed", config.statistics.seed)
    check_budget(config.budget)
    if config.job != "evaluate" and config.init == weights.SCRATCH and not config.stages and not config.curricula:
        raise UserError(
            "no stages: there is nothing to pretrain. Set `stages` or `curricula`; or, to measure a backbone as it is, "
            "set `init` and --config.job=evaluate"
        )


def check_made_for(part: ConfigDict, field: str, maker: str) -> None:
    """Raises UserError unless the fields and views of a stage or target were made for its task or protocol."""
    if part[field] != part.made_for:
        raise UserError(
            f"{field} was changed to '{part[field]}', but the fields and views are those of '{part.made_for}': "
            f"write {maker}('{part[field]}', …) in the config file"
        )


def check_views(model: ConfigDict, part: ConfigDict, split: data.Split) -> None:
    """Raises UserError unless views can be made of the images, and have the kind and size that the model needs."""
    views = augment.views_of(FrozenConfigDict(part.views))
    if views.dimensions != model.dimensions:
        presets = [name for name, preset in augment.PRESETS.items() if preset.kind.dimensions != views.dimensions]
        raise UserError(
            f"views.dimensions is {views.dimensions}, but model.dimensions {model.dimensions}: "
            f"take views of one of the presets {', '.join(presets)}"
        )
    models.check_size(model, views.size)
    data.check_views(split, views)


def check_stage(
    config: ConfigDict, stage: ConfigDict, place: teachers.StagePosition, split: data.Split, steps: int
) -> None:
    """Checks a stage with the images it is trained on. Raises UserError, or MissingFile for a teacher's file.

    Args:
      steps: of the stage.
    """
    pretext.task_class(stage.task)
    check_made_for(stage, "task", "stage")
    data.check_model(split, config.model)
    members = list_members(stage)
    for member in members:
        check_made_for(member, "task", "stage")
    check_training(stage, len(split))
    check_at_least(0, "task_weight", stage.task_weight)
    check_stop(stage.stop)
    check_samples(stage, split, steps)
    for member in members:
        check_views(config.model, member, split)

    def make(backbone: nnx.Module) -> pretext.Task:
        return make_stage_task(stage, backbone, len(split), steps, dtype=config.model.dtype, seed=0)

    task = nnx.eval_shape(make, describe_backbone(FrozenConfigDict(config.model)))
    rows = stage.batch_size
    if stage.batch_size // task.groups < SMALL_BATCH:
        rows = trace_loss(task, split, stage.batch_size)
    teachers.check_teachers(config, stage, place, task, rows)


@functools.lru_cache(maxsize=16)
def describe_backbone(model: FrozenConfigDict) -> nnx.Module:
    """The backbone of a model with shapes and types in the place of arrays; made once for all stages and targets."""
    return nnx.eval_shape(lambda: weights.starting_backbone(model, weights.SCRATCH, 0))


def check_share(config: ConfigDict, stage: ConfigDict, split: data.Split) -> None:
    """Raises UserError if the share of the images that a stage is trained on fills no batch."""
    if config.data.share < 1 and stage.batch_size > len(split):
        raise UserError(
            f"data.share {config.data.share:g} leaves {len(split):,} images, fewer than a batch of {stage.batch_size}: "
            "take a larger share or a smaller batch_size"
        )


def check_stop(stop: ConfigDict) -> None:
    """Raises UserError for fields of `stop` that cannot be."""
    check_at_least(1, "stop.every", stop.every)
    check_at_least(1, "stop.patience", stop.patience)
    check_at_least(0, "stop.least", stop.least)
    if stop.seconds is not None and not stop.seconds > 0:
        raise UserError(f"stop.seconds is {stop.seconds}; it must be above 0")


def check_samples(stage: ConfigDict, split: data.Split, steps: int) -> None:
    """Raises UserError if a stage cannot show its images as `samples` says."""
    fields = stage.samples
    if fields.order not in samples.ORDERS:
        raise UserError(f"unknown samples.order '{fields.order}': known are {', '.join(samples.ORDERS)}")
    pace = samples.read_pace(fields, data.steps_per_epoch(len(split), stage.batch_size), steps)
    if pace is None:
        return
    kind = pretext.task_class(stage.task)
    if "members" in stage.fields:
        raise UserError(
            f"samples.order is '{pace.order}', but a stage that has members shows all its images: give a task a stage "
            "of its own, or take order 'all'"
        )
    if pace.order in samples.MEASURED and not kind.IMAGE_LOSSES:
        raise UserError(
            f"samples.order is '{pace.order}', but the loss of {stage.task} is one of a whole batch and not a mean "
            "over its images: take order 'random' or 'all', or another task"
        )
    for name in ("start", "until"):
        if not 0 < fields[name] <= 1:
            raise UserError(f"samples.{name} is {fields[name]}; it must lie in (0, 1]")
    if not 0 <= fields.warmup < 1:
        raise UserError(f"samples.warmup is {fields.warmup}; it must lie in [0, 1)")
    check_at_least(1, "samples.every", fields.every)
    check_at_least(1, "samples.passes", fields.passes)
    if pace.share(pace.first) == 1:
        raise UserError(
            f"samples.order is '{pace.order}', but no epoch would show fewer than all images: of {steps} steps, an "
            f"epoch has {pace.steps_per_epoch}, the warm-up takes {pace.first} and all images are shown from "
            f"{fields.until:g} of the stage on, or from the start if samples.start is 1. Lengthen the stage, raise "
            "samples.until, or lower samples.warmup or samples.start"
        )
    images = sum(samples.count_share(size, fields.start) for size in samples.list_sizes(split))
    if images < stage.batch_size:
        raise UserError(
            f"samples.start {fields.start:g} leaves {images:,} images, fewer than a batch of {stage.batch_size}: raise "
            "it, or lower batch_size"
        )


def trace_loss(task: pretext.Task, split: data.Split, batch_size: int) -> int:
    """Traces the loss of a task, without computing it, and returns how many rows of features it gives for a batch. If a
    step of the task can go several ways, all are traced, and the fewest rows count.

    What the batch is too small for raises ValueError, such as batch normalisation of a single value of a channel.
    """

    def loss(way: int, task: pretext.Task, batch: dict[str, Array]) -> Array:
        task.turn = way
        return task.loss(task.views(jax.random.key(0), batch), jnp.zeros(())).features

    image = jax.ShapeDtypeStruct((batch_size, *split.shape), split.dtype)
    index = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    batch = {"image": image, "index": index}
    ways = [functools.partial(loss, way) for way in range(task.alternatives)]
    return min(nnx.eval_shape(way, task, batch).shape[0] for way in ways)


def check_endpoint(model: ConfigDict, target: ConfigDict) -> None:
    """Raises UserError if a target measures features at an endpoint that the backbone does not have."""
    if "endpoint" not in target or target.endpoint == DEFAULT_ENDPOINT:
        return
    backbone = describe_backbone(FrozenConfigDict(model))
    shape = (1, *(target.views.size,) * model.dimensions, model.channels)
    known = nnx.eval_shape(lambda m, x: m(x, train=False), backbone, jax.ShapeDtypeStruct(shape, jnp.float32))
    if target.endpoint not in known:
        raise UserError(f"endpoint is '{target.endpoint}'; the endpoints of {model.name} are {', '.join(known)}")


def check_finetuning(model: ConfigDict, target: ConfigDict, images: int) -> None:
    """Checks that a backbone can be trained on the smallest batches of a target, those of its smallest share.

    Args:
      images: in the labelled training split.

    Raises ValueError for batch normalisation of a single value of a channel.
    """
    batch = min(finetune.batch_size_for(target.batch_size, round(images * share)) for share in target.fractions)
    if batch < SMALL_BATCH:
        backbone = describe_backbone(FrozenConfigDict(model))
        shape = (batch, *(target.views.size,) * model.dimensions, model.channels)
        nnx.eval_shape(lambda m, x: m(x, train=True)["pooled"], backbone, jax.ShapeDtypeStruct(shape, jnp.float32))


def make_stage_task(
    stage: ConfigDict, backbone: nnx.Module, images: int, steps: int, *, dtype: str, seed: int
) -> pretext.Task:
    """Makes the task of a stage around a backbone. Its heads and its state are new.

    Args:
      images: number of images that it is trained on.
      steps: of the stage.
      dtype: type in which the heads compute.
      seed: of the stage.
    """
    stage = FrozenConfigDict(stage)
    return pretext.make_task(
        stage.task,
        backbone,
        augment.views_of(stage.views) if "views" in stage else None,
        pretext.Setting(images, stage.batch_size, dtype, steps),
        stage.fields,
        rngs=nnx.Rngs(seeds.derive(seed, "heads")),
    )
