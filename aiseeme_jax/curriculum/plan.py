"""What a config asks for: its arms and the length of their stages, and whether all of it can be done.

Everything that can be known before the first step is judged here, so that a mistake in the last stage costs seconds,
not the days before it.
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data, models, pretext, seeds, weights
from aiseeme_jax.curriculum import teachers
from aiseeme_jax.evaluate import protocols, recording
from aiseeme_jax.store import checkpoints, records
from aiseeme_jax.training import checks, optimizers

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to come by a backbone.

    Attributes:
      name: 'curriculum', that of another curriculum, 'scratch', 'imagenet' or 'single:<task>'; 'init' of the job
        `evaluate`.
      init: as `config.init`.
      stages: (position in its curriculum, config) of each stage it trains.
      tasks: of all stages of its curriculum.
      alone: it trains one stage of its curriculum without those before it.
      whole: each of its stages lasts as many images as the whole curriculum.
      start: field of the config that says what it begins with, empty if none does.
      listed: field of the config that lists its stages.
    """

    name: str
    init: str
    stages: tuple[tuple[int, ConfigDict], ...] = ()
    tasks: tuple[str, ...] = ()
    alone: bool = False
    whole: bool = False
    start: str = "init"
    listed: str = "stages"

    @property
    def random(self) -> bool:
        """Whether its backbone is a random one that nothing trained."""
        return self.init == "scratch" and not self.stages

    def place(self, position: int) -> teachers.Place:
        """Where a stage of it stands."""
        return teachers.Place(position, self.tasks, self.init, self.alone)

    def beginning(self, count: int) -> tuple:
        """All that the outcome of its first `count` stages depends on; arms that begin alike share them."""
        stages = tuple((position, stage.to_json_best_effort(sort_keys=True)) for position, stage in self.stages[:count])
        return self.init, self.whole, stages


def _whole_arm(name: str, init: str, stages: Sequence[ConfigDict], listed: str = "stages") -> Arm:
    return Arm(name, init, tuple(enumerate(stages)), _tasks(stages), listed=listed)


def _tasks(stages: Sequence[ConfigDict]) -> tuple[str, ...]:
    return tuple(stage.task for stage in stages)


def arms(config: ConfigDict) -> tuple[Arm, ...]:
    """The curriculum, those beside it, and the baselines; of the job `evaluate` the backbone at `init`.

    Raises ValueError for a baseline that is not known or lacks its weights, and for a curriculum under a name that is
    taken or becomes the folder of another arm.
    """
    if config.job == "evaluate":
        return (Arm("init", config.init),)
    curricula = config.curricula.items()
    found = [_whole_arm(name, config.init, stages, f"curricula.{name}") for name, stages in curricula]
    if config.stages or not found:
        found.insert(0, _whole_arm("curriculum", config.init, config.stages))
    others = list(_baselines(config))
    # 'scratch' even where it is no baseline: fine-tuning begins it anew with each seed.
    taken = {"curriculum", "scratch", *(arm.name for arm in others)} & set(config.curricula)
    if taken:
        raise ValueError(f"curricula: '{min(taken)}' is the name of another arm")
    planned = {arm.name: arm for arm in [*found, *others]}
    for one, other in itertools.combinations(planned, 2):
        folder = records.file_name(one)
        if folder == records.file_name(other):
            raise ValueError(f"curricula: the arms '{one}' and '{other}' would both lie in the folder '{folder}'")
    return tuple(planned.values())


def _baselines(config: ConfigDict) -> Iterator[Arm]:
    for name in config.baselines:
        kind, _, task = name.partition(":")
        if name == "scratch":
            yield Arm("scratch", "scratch", start="")
        elif name == "imagenet":
            if not config.imagenet:
                raise ValueError("the baseline 'imagenet' needs --config.imagenet=FILE, weights with torchvision names")
            yield Arm("imagenet", config.imagenet, start="imagenet")
        elif kind == "single":
            yield from _single_arms(config, task)
        else:
            raise ValueError(f"unknown baseline '{name}': known are scratch, imagenet, single, single:TASK")


def _single_arms(config: ConfigDict, task: str) -> Iterator[Arm]:
    tasks = list(dict.fromkeys(stage.task for stage in config.stages))
    if task and task not in tasks:
        raise ValueError(f"the baseline 'single:{task}' has no stage of that task: there are {', '.join(tasks)}")
    if config.single_budget not in ("stage", "total"):
        raise ValueError(f"unknown single_budget '{config.single_budget}': known are stage, total")
    for name in [task] if task else tasks:
        position = [stage.task for stage in config.stages].index(name)
        whole = config.single_budget == "total" and len(config.stages) > 1
        stages = ((position, config.stages[position]),)
        yield Arm(f"single:{name}", config.init, stages, _tasks(config.stages), alone=True, whole=whole)


def sequences_from(config: ConfigDict, arm: Arm, count: int) -> list[tuple[ConfigDict, ...]]:
    """The stages of every curriculum that begins with the first `count` of an arm."""
    alike = [other for other in arms(config) if not other.alone and other.beginning(count) == arm.beginning(count)]
    return [tuple(stage for _, stage in other.stages) for other in alike]


def stage_folders(workdir: Path, planned: Sequence[Arm]) -> dict[str, list[Path]]:
    """Where the stages of each arm lie. What several arms begin with in common lies in the folder of one, once: of the
    one where it is done or begun, else of the first.
    """
    own: dict[tuple[str, int], Path] = {}
    shared: dict[tuple, list[Path]] = {}
    for arm in planned:
        for place, (_, stage) in enumerate(arm.stages):
            own[arm.name, place] = records.stage_directory(workdir, arm.name, place, stage.task)
            shared.setdefault(arm.beginning(place + 1), []).append(own[arm.name, place])
    chosen = {beginning: max(folders, key=_progress) for beginning, folders in shared.items()}
    return {arm.name: [chosen[arm.beginning(place + 1)] for place in range(len(arm.stages))] for arm in planned}


def _progress(directory: Path) -> tuple[bool, bool]:
    return records.read_done(directory) is not None, (directory / checkpoints.CHECKPOINTS).exists()


def steps_of_stage(stage: ConfigDict, images: int) -> int:
    """Steps of a stage as configured, on a split of so many images."""
    per_epoch = data.steps_per_epoch(images, stage.batch_size)
    return optimizers.steps_of(stage.duration, steps_per_epoch=per_epoch, batch_size=stage.batch_size)


def arm_steps(config: ConfigDict, arm: Arm, stage: ConfigDict, images: int) -> int:
    """Steps of a stage in an arm: its own, or those in which it sees as many images as the whole curriculum."""
    if not arm.whole:
        return steps_of_stage(stage, images)
    return round(sum(steps_of_stage(s, images) * s.batch_size for s in config.stages) / stage.batch_size)


def stage_task(config: ConfigDict, stage: ConfigDict, backbone: nnx.Module, images: int, *, seed: int) -> pretext.Task:
    """The task of a stage around a backbone, its own state fresh."""
    return pretext.make_task(
        stage.task,
        backbone,
        augment.views_of(FrozenConfigDict(stage).views),
        pretext.Setting(images, stage.batch_size, config.model.dtype),
        stage.fields,
        rngs=nnx.Rngs(seeds.derive(seed, "heads")),
    )


def check_runtime(runtime: ConfigDict) -> None:
    """Judges the part of a config that may change whenever a run is started. Raises ValueError that names the field."""
    for name, least in (("log_every", 1), ("checkpoint_every", 1), ("evaluation_batch", 1), ("workers", 0)):
        _at_least(least, f"runtime.{name}", runtime[name])
    data.check_residence(runtime.residence)


def _at_least(least: int, name: str, value: float) -> None:
    # NaN is not at least anything.
    if not value >= least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")


def check(config: ConfigDict, split: data.Split) -> None:
    """Judges a config against its pretraining split, and its targets against theirs, without training anything.

    Raises ValueError, or FileNotFoundError for weights that are not there; the message names the part it is about.
    """
    check_runtime(config.runtime)
    _at_least(1, "patience", config.patience)
    if config.job != "evaluate" and config.init == "scratch" and not config.stages and not config.curricula:
        raise ValueError(
            "no stages: there is nothing to pretrain; set `stages` or `curricula`, or to measure a backbone as it is, "
            "`init` and --config.job=evaluate"
        )
    data.check_model(split, config.model)
    for arm in arms(config):
        if arm.init != "scratch":
            weights.starting_backbone(config.model, arm.init, config.seed)
    judged: set[tuple] = set()
    for arm in arms(config):
        if not arm.alone:
            _check_stages(config, arm, len(split), judged)
    if config.targets:
        check_targets(config, recording.target_splits(config))


def check_targets(config: ConfigDict, splits: Mapping[str, data.Split]) -> None:
    """Judges the targets and the statistics against the labelled images.

    Warns of classes that a split lacks, and if there will be no intervals.

    Args:
      splits: as of `recording.target_splits`.

    Raises ValueError; the message names the target or the field.
    """
    for name, least in (("samples", 1), ("seed", 0)):
        if config.statistics[name] < least:
            raise ValueError(f"statistics.{name} is {config.statistics[name]}; it must be at least {least}")
    _about("targets", functools.partial(protocols.check_labels, splits))
    seen = set()
    for position, target in enumerate(config.targets):
        part = f"targets[{position}] ({target.protocol})"
        _about(part, functools.partial(_check_target, config, target, splits["train"]))
        if target.protocol in seen:
            raise ValueError(
                f"targets[{position}]: a second target '{target.protocol}'; there can be one of each protocol"
            )
        seen.add(target.protocol)
    if len(set(splits["test"].groups)) == 1:
        log.warning("%s: all images are of one lesion or patient; no result will have an interval", splits["test"].name)


def _about(part: str, judge: Callable[[], None]) -> None:
    try:
        judge()
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error
    except (ArithmeticError, LookupError, TypeError) as error:
        # What a library makes of a value that it cannot take.
        raise ValueError(f"{part}: {type(error).__name__}: {error}") from error


def _check_made_for(part: ConfigDict, field: str, maker: str) -> None:
    """A stage has the fields and views of its task, a target those of its protocol."""
    if part[field] != part.made_for:
        raise ValueError(
            f"{field} was changed to '{part[field]}', but the fields and views are those of '{part.made_for}': "
            f"write {maker}('{part[field]}', …) in the config file"
        )


def _check_stages(config: ConfigDict, arm: Arm, images: int, judged: set[tuple]) -> None:
    """Judges the stages of an arm but those whose beginning is among the `judged`, and adds them there."""
    for place, (position, stage) in enumerate(arm.stages):
        beginning = arm.beginning(place + 1)
        if beginning in judged:
            continue
        judged.add(beginning)
        check_stage = functools.partial(_check_stage, config, stage, arm.place(position), images)
        _about(f"{arm.listed}[{position}] ({stage.task})", check_stage)


def _check_stage(config: ConfigDict, stage: ConfigDict, place: teachers.Place, images: int) -> None:
    pretext.task_class(stage.task)
    _check_made_for(stage, "task", "stage")
    checks.check_training(stage, images)
    _at_least(0, "task_weight", stage.task_weight)
    _check_views(config, stage)

    def make() -> pretext.Task:
        backbone = weights.starting_backbone(config.model, "scratch", config.seed)
        return stage_task(config, stage, backbone, images, seed=0)

    teachers.check(config, stage, place, nnx.eval_shape(make).backbone)


def _check_views(config: ConfigDict, part: ConfigDict) -> None:
    """Views can be made, and are of the kind and size the model takes."""
    views = augment.views_of(FrozenConfigDict(part.views))
    if views.dimensions != config.model.dimensions:
        presets = [name for name, preset in augment.PRESETS.items() if preset.kind.dimensions != views.dimensions]
        raise ValueError(
            f"views.dimensions is {views.dimensions}, but model.dimensions {config.model.dimensions}: "
            f"take views of one of the presets {', '.join(presets)}"
        )
    models.check_size(config.model, views.size)


def _check_target(config: ConfigDict, target: ConfigDict, train: data.Split) -> None:
    if target.protocol in protocols.PROTOCOLS:
        _check_made_for(target, "protocol", "target")
        _check_views(config, target)
    protocols.check_target(target, train)
