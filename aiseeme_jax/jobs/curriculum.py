"""A curriculum: stages in sequence, then every arm through the same targets.

What is done is told by the `done.json` each stage and target leaves; a restarted run passes over those and goes on
where the files end. The hand-over from stage to stage is a file with a hash in it, so a stage cannot start from half
a backbone.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import data, distill, report, seeds, weights
from aiseeme_jax.curriculum import teachers
from aiseeme_jax.curriculum.pictures import save_views
from aiseeme_jax.curriculum.plan import Arm, arm_steps, arms, sequences_from, stage_folders, stage_task
from aiseeme_jax.evaluate import features, recording
from aiseeme_jax.jobs import changes
from aiseeme_jax.jobs import workdir as workdir_
from aiseeme_jax.store import checkpoints, records
from aiseeme_jax.training import loop, step

log = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: Path) -> None:
    """Trains all arms, measures them on all targets, and writes results.csv and report.html.

    Raises ValueError if the config cannot be run, or not in this workdir, FileNotFoundError if the data set is not
    prepared.
    """
    source = Source(config)
    if changes.begin(config, workdir, source):
        return
    planned = arms(config)
    folders = stage_folders(workdir, planned)
    if not all(records.read_done(folder) for arm in planned for folder in folders[arm.name]):
        records.hold_to_data(workdir, {"pretraining": source().fingerprint()})
    for arm in planned:
        backbone, last_stage = train_arm(config, arm, folders[arm.name], source)
        recording.evaluate_arm(config, workdir, arm.name, backbone, last_stage, random=arm.random)
        recording.write_results(config, workdir, [a.name for a in planned])
        report.write_report(workdir)
    workdir_.finish(workdir)


class Source:
    """The pretraining split, opened when first wanted: a finished run needs none."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self._split = None

    def __call__(self) -> data.Split:
        # Pretraining sees the training images alone, never validation or test.
        if self._split is None:
            self._split = data.open_split(self.config.data.name, "train", self.config.runtime.data_dir)
            if self.config.data.exclude:
                self._split = data.without(self._split, self.config.data.exclude)
        return self._split


def train_arm(config: ConfigDict, arm: Arm, folders: Sequence[Path], source: Source) -> tuple[nnx.Module, Path | None]:
    """Trains the stages of an arm that are not done; gives its backbone and the folder of its last stage, if any.

    Raises ValueError for a finished stage that did not start from what the stage before it holds.
    """
    for place, directory in enumerate(folders):
        if not records.read_done(directory):
            run_stage(config, arm, place, folders, source())
        elif place:
            _check_start(folders, place)
    if not folders:
        return weights.starting_backbone(config.model, arm.init, config.seed), None
    return weights.load_backbone(folders[-1])[0], folders[-1]


def _check_start(folders: Sequence[Path], place: int) -> None:
    before, done = (records.read_done(folder) for folder in folders[place - 1 : place + 1])
    held, start = before["backbone_hash"], done["start_hash"]
    if start != held:
        raise ValueError(
            f"{folders[place]} started from another backbone than {folders[place - 1]} now holds "
            f"({records.short(start)} is not {records.short(held)}). To train it and what follows anew, remove "
            f"{', '.join(map(str, folders[place:]))}, and from targets/ what was measured of this arm"
        )


@step.transient_programs()
def run_stage(config: ConfigDict, arm: Arm, place: int, folders: Sequence[Path], split: data.Split) -> None:
    """Trains the `place`-th stage of an arm to its end and leaves its backbone and `done.json`."""
    position, stage = arm.stages[place]
    directory = folders[place]
    seed = seeds.of_stage(config.seed, position, stage.seed)
    total_steps = arm_steps(config, arm, stage, len(split))
    if place:
        backbone = weights.load_backbone(folders[place - 1])[0]
    else:
        backbone = weights.starting_backbone(config.model, arm.init, config.seed)
    stands = arm.place(position)
    lesson = teachers.load(config, stage, stands, folders)
    task = stage_task(config, stage, backbone, len(split), seed=seed)
    frozen = distill.attach_distillation(
        task, lesson.terms, lesson.backbones, lesson.fishers, dtype=config.model.dtype, seed=seed
    )
    title = arm.name if arm.alone else f"{arm.name} {position}: {stage.task}"
    log.info("%s: %d steps of %d images", title, total_steps, stage.batch_size)
    picture = save_views(directory, task, data.first_images(split, 6), seed)
    batches = stage_batches(config, stage, split, seed=seed)
    per_epoch = data.steps_per_epoch(len(split), stage.batch_size)
    recipe = loop.Recipe(FrozenConfigDict(stage), total_steps, per_epoch, seed, config.patience)
    identity = {"data": split.fingerprint()}
    folder = loop.Folder(directory, title, config.runtime.log_every, config.runtime.checkpoint_every, identity)
    callbacks = loop.Callbacks(
        gather_features=lambda body: features.extract_from_batches(
            body, batches.in_order(), len(split), views=task.spec
        ),
        pictures={"views": picture},
    )
    result = loop.fit(task, batches, recipe, folder, frozen=frozen, callbacks=callbacks)
    seen = {"images": len(split), "excluded": split.excluded}
    trained, merged = lesson.merge(result.task.handed_over())
    nnx.update(result.task.backbone, nnx.state(trained))
    count = teachers.fisher_batches(stage, stands, len(split), sequences_from(config, arm, place + 1))
    if count:
        _leave_fisher(directory, result.task, itertools.islice(batches(total_steps), count), seed)
    record = {"task": stage.task, **seen, **result.record, **merged}
    hand_over(directory, trained, record)


def _leave_fisher(directory: Path, task: nnx.Module, batches: Iterator[dict[str, jax.Array]], seed: int) -> None:
    """Estimates Fisher information on `batches`, those that would have followed the last step, and writes it."""
    fisher = distill.estimate_fisher(task, batches, jax.random.key(seeds.derive(seed, "fisher")))
    weights.save_fisher(directory, fisher, task.backbone)


def stage_batches(config: ConfigDict, stage: ConfigDict, split: data.Split, *, seed: int) -> data.Batches:
    return data.Batches(
        split,
        batch_size=stage.batch_size,
        seed=seed,
        residence=config.runtime.residence,
        workers=config.runtime.workers,
    )


def hand_over(directory: Path, backbone: nnx.Module, record: dict[str, Any]) -> None:
    """Leaves a stage's backbone, then the record that says it is whole; in this order."""
    weights.save_backbone(directory, backbone, {"task": record["task"]})
    records.write_json(directory / records.DONE, {"backbone_hash": weights.backbone_hash(backbone), **record})
    checkpoints.barrier(f"hand over {directory.name}")
