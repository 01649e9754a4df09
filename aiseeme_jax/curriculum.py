"""A curriculum: stages in sequence, then every arm through the same targets.

What is done is told by the `done.json` each stage and target leaves; a restarted run passes over those and goes on
where the files end. The hand-over from stage to stage is a file with a hash in it, so a stage cannot start from half
a backbone.
"""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, checkpoint, data, experiment, optim, pretext, report, train
from aiseeme_jax.evaluate import protocols
from aiseeme_jax.pictures import save_views

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to come by a backbone.

    Attributes:
      name: 'curriculum', 'scratch', 'imagenet' or 'single:<task>'.
      init: as `config.init`.
      stages: (position in the curriculum, config) of each stage it trains.
      whole: each of its stages lasts as many images as the whole curriculum.
    """

    name: str
    init: str
    stages: tuple[tuple[int, ConfigDict], ...] = ()
    whole: bool = False


def arms(config: ConfigDict) -> tuple[Arm, ...]:
    """The curriculum and its baselines. ValueError for a baseline that is not known or lacks its weights."""
    stages = tuple(enumerate(config.stages))
    found = [Arm("curriculum", config.init, stages)]
    for name in config.baselines:
        kind, _, task = name.partition(":")
        if name == "scratch":
            found.append(Arm("scratch", "scratch"))
        elif name == "imagenet":
            if not config.imagenet:
                raise ValueError("the baseline 'imagenet' needs --config.imagenet=FILE, weights with torchvision names")
            found.append(Arm("imagenet", config.imagenet))
        elif kind == "single":
            found.extend(_single_arms(config, task))
        else:
            raise ValueError(f"unknown baseline '{name}': known are scratch, imagenet, single, single:TASK")
    return tuple(found)


def _single_arms(config: ConfigDict, task: str) -> Iterator[Arm]:
    tasks = list(dict.fromkeys(stage.task for stage in config.stages))
    if task and task not in tasks:
        raise ValueError(f"the baseline 'single:{task}' has no stage of that task: there are {', '.join(tasks)}")
    if config.single_budget not in ("stage", "total"):
        raise ValueError(f"unknown single_budget '{config.single_budget}': known are stage, total")
    for name in [task] if task else tasks:
        position = [stage.task for stage in config.stages].index(name)
        whole = config.single_budget == "total" and len(config.stages) > 1
        yield Arm(f"single:{name}", config.init, ((position, config.stages[position]),), whole)


def run(config: ConfigDict, workdir: Path) -> None:
    """Trains all arms, measures them on all targets, and writes results.csv and report.html.

    Raises ValueError if the workdir was begun with another config, FileNotFoundError if the data set is not prepared.
    """
    planned = arms(config)
    if experiment.begin(config, workdir):
        return
    source = Source(config)
    for arm in planned:
        backbone, last_stage = train_arm(config, workdir, arm, source)
        protocols.evaluate_arm(config, workdir, arm.name, backbone, last_stage)
        protocols.write_results(config, workdir, [a.name for a in planned])
        report.write_report(workdir)
    experiment.finish(workdir)


class Source:
    """The pretraining split, opened when first wanted: a finished run needs none."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self._split = None

    def __call__(self) -> data.Split:
        # Pretraining sees the training images alone, never validation or test.
        if self._split is None:
            self._split = data.open_split(self.config.data.name, "train", self.config.runtime.data_dir)
        return self._split


def train_arm(config: ConfigDict, workdir: Path, arm: Arm, source: Source) -> tuple[nnx.Module, Path | None]:
    """Trains the stages of an arm that are not done; gives its backbone and the folder of its last stage, if any."""
    before = None
    for place, (position, stage) in enumerate(arm.stages):
        directory = checkpoint.stage_directory(workdir, arm.name, place, stage.task)
        shared = checkpoint.stage_directory(workdir, "curriculum", 0, stage.task)
        if position == 0 and not arm.whole and checkpoint.read_done(shared):
            # A single task that opens the curriculum is the curriculum's first stage: same start, same seed.
            directory = shared
        if not checkpoint.read_done(directory):
            run_stage(config, directory, stage, position, arm, before, source())
        before = directory
    if before is None:
        return checkpoint.starting_backbone(config.model, arm.init, config.seed), None
    return checkpoint.load_backbone(before)[0], before


def run_stage(
    config: ConfigDict,
    directory: Path,
    stage: ConfigDict,
    position: int,
    arm: Arm,
    before: Path | None,
    split: data.Split,
) -> None:
    """Trains one stage to its end and leaves its backbone and `done.json`."""
    frozen = FrozenConfigDict(stage)
    seed = stage.seed if stage.seed is not None else config.seed + position
    total_steps = steps_of_stage(stage, len(split))
    if arm.whole:
        total_steps = round(sum(steps_of_stage(s, len(split)) * s.batch_size for s in config.stages) / stage.batch_size)
    if before:
        backbone = checkpoint.load_backbone(before)[0]
    else:
        backbone = checkpoint.starting_backbone(config.model, arm.init, config.seed)
    start_hash = checkpoint.backbone_hash(backbone)
    teacher = None
    if stage.distill.kind != "none" and before:
        teacher = checkpoint.load_backbone(before)[0]
    task = pretext.make_task(
        stage.task,
        backbone,
        augment.Views(**frozen.views),
        pretext.Setting(len(split), stage.batch_size, config.model.dtype),
        stage.fields,
        rngs=nnx.Rngs(seed),
    )
    title = f"{arm.name} {position}: {stage.task}" if arm.name == "curriculum" else arm.name
    log.info("%s: %d steps of %d images", title, total_steps, stage.batch_size)
    save_views(directory, task, data.first_images(split, 6), seed)
    result = train.fit(
        task,
        data.Batches(
            split,
            batch_size=stage.batch_size,
            seed=seed,
            residence=config.runtime.residence,
            workers=config.runtime.workers,
        ),
        stage=frozen,
        total_steps=total_steps,
        steps_per_epoch=data.steps_per_epoch(len(split), stage.batch_size),
        seed=seed,
        directory=directory,
        title=title,
        pace=train.Pace(config.runtime.log_every, config.runtime.checkpoint_every),
        teacher=teacher,
        patience=config.patience,
    )
    record = {"task": stage.task, "start_hash": start_hash, **result.record}
    hand_over(directory, result.task.backbone, record)


def steps_of_stage(stage: ConfigDict, images: int) -> int:
    """Steps of a stage as configured, on a split of so many images."""
    per_epoch = data.steps_per_epoch(images, stage.batch_size)
    return optim.steps_of(stage.duration, steps_per_epoch=per_epoch, batch_size=stage.batch_size)


def hand_over(directory: Path, backbone: nnx.Module, record: dict[str, Any]) -> None:
    """Leaves a stage's backbone, then the record that says it is whole; in this order."""
    checkpoint.save_backbone(directory, backbone, {"task": record["task"]})
    checkpoint.write_json(directory / checkpoint.DONE, {"backbone_hash": checkpoint.backbone_hash(backbone), **record})
    checkpoint.barrier(f"hand over {directory.name}")
