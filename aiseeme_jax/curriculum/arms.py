"""Arms: the ways to get a backbone that a config compares."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from aiseeme_jax.curriculum.budgets import scale_stage
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext import pacing
from aiseeme_jax.store.workdirs import CURRICULUM
from aiseeme_jax.weights import SCRATCH

__all__ = [
    "CURRICULUM",
    "IMAGENET",
    "INIT",
    "SCRATCH",
    "SINGLE",
    "Arm",
    "count_images",
    "list_arms",
    "list_members",
    "take_member",
]

IMAGENET, INIT, SINGLE, WEIGHTS = "imagenet", "init", "single", "weights"
# What the baseline 'weights' puts in the place of a weighting or of a rule of choice.
PLAIN_RULES = {"weights": ("equal", "random"), "teacher": ("random",)}
BUDGETS = ("stage", "total")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to get a backbone.

    Attributes:
      name: 'curriculum', the name of another curriculum, 'scratch', 'imagenet', 'single:<task>' or 'weights:<rule>'; in
        the job `evaluate` it is 'init', or 'scratch' for random weights.
      init: the weights that it starts from, as in `config.init`.
      stages: the stages that it trains, as (position in its curriculum, config).
      tasks: the tasks of all stages of its curriculum.
      single: whether it trains one stage of its curriculum without those before it.
      member: the member of that stage which it trains alone, or nothing for the whole stage.
      total_budget: whether each of its stages shows as many images as the whole curriculum does.
      field: the field of the config that lists its stages.
    """

    name: str
    init: str
    stages: tuple[tuple[int, ConfigDict], ...] = ()
    tasks: tuple[str, ...] = ()
    single: bool = False
    member: str = ""
    total_budget: bool = False
    field: str = "stages"

    @property
    def is_random(self) -> bool:
        """Whether its backbone has random weights and is not trained."""
        return self.init == SCRATCH and not self.stages


def list_arms(config: ConfigDict) -> tuple[Arm, ...]:
    """The arms of a config: its curriculum, its other curricula, and its baselines.

    The job `evaluate` has one arm, the backbone at `config.init`.

    Raises UserError for an unknown baseline, for the baseline 'imagenet' without its weights, and for a curriculum that
    has the name of another arm.
    """
    if config.job == "evaluate":
        return (Arm(SCRATCH if config.init == SCRATCH else INIT, config.init),)
    arms = [_whole(name, config.init, stages, f"curricula.{name}") for name, stages in config.curricula.items()]
    if config.stages or not arms:
        arms.insert(0, _whole(CURRICULUM, config.init, config.stages, "stages"))
    baselines = list(_list_baselines(config))
    # 'scratch' is reserved even if it is no baseline.
    taken = {CURRICULUM, SCRATCH, *(arm.name for arm in baselines)} & set(config.curricula)
    if taken:
        raise UserError(f"curricula: '{min(taken)}' is the name of another arm")
    return tuple({arm.name: arm for arm in [*arms, *baselines]}.values())


def list_members(stage: ConfigDict) -> list[ConfigDict]:
    """The parts of a stage that have a task and views: its members, or itself."""
    return [stage] if "views" in stage else [stage.fields.members[name] for name in stage.fields.members]


def count_images(stage: ConfigDict) -> int:
    """The images that a step of a stage shows. A joint stage shows each image to every member."""
    return stage.batch_size * (len(stage.fields.members) if stage.task == pacing.Joint.NAME else 1)


def take_member(stage: ConfigDict, name: str) -> ConfigDict:
    """The stage with one of its members in its place: for as many images, by the same optimizer and schedule."""
    # In a joint stage every member gets every image.
    times = len(stage.fields.members) if stage.task == pacing.Joint.NAME else 1
    made = scale_stage(stage.copy_and_resolve_references(), times)
    with made.unlocked():
        for field, value in stage.fields.members[name].items():
            made[field] = value
    return made


def _whole(name: str, init: str, stages: Sequence[ConfigDict], field: str) -> Arm:
    return Arm(name, init, tuple(enumerate(stages)), _tasks(stages), field=field)


def _tasks(stages: Sequence[ConfigDict]) -> tuple[str, ...]:
    return tuple(stage.task for stage in stages)


def _list_baselines(config: ConfigDict) -> Iterator[Arm]:
    for name in config.baselines:
        kind, _, task = name.partition(":")
        if name == SCRATCH:
            yield Arm(SCRATCH, SCRATCH)
        elif name == IMAGENET:
            if not config.imagenet:
                raise UserError("the baseline 'imagenet' needs --config.imagenet=FILE, weights with torchvision names")
            yield Arm(IMAGENET, config.imagenet)
        elif kind == SINGLE:
            yield from _list_singles(config, task)
        elif name == WEIGHTS:
            yield from _list_plain_weights(config)
        else:
            raise UserError(f"unknown baseline '{name}': known are scratch, imagenet, single, single:TASK, weights")


def _list_singles(config: ConfigDict, task: str) -> Iterator[Arm]:
    """An arm for each task of the curriculum, or for the task that is named. It is trained as in its first stage, and a
    member as the first stage that has it is trained.
    """
    tasks, places = _tasks(config.stages), _find_places(config.stages)
    if task and task not in places:
        raise UserError(f"the baseline 'single:{task}' has no stage of that task: there are {', '.join(places)}")
    if config.single_budget not in BUDGETS:
        raise UserError(f"unknown single_budget '{config.single_budget}': known are {', '.join(BUDGETS)}")
    total = config.single_budget == "total" and max(len(tasks), len(places)) > 1
    for name in [task] if task else places:
        position, member = places[name]
        stage = config.stages[position]
        stages = ((position, take_member(stage, member) if member else stage),)
        yield Arm(f"{SINGLE}:{name}", config.init, stages, tasks, single=True, member=member, total_budget=total)


def _find_places(stages: Sequence[ConfigDict]) -> dict[str, tuple[int, str]]:
    """For each task, the position of its first stage, and its name there if it is a member."""
    places: dict[str, tuple[int, str]] = {}
    for position, stage in enumerate(stages):
        members = ((name, name) for name in stage.fields.members) if "members" in stage.fields else ((stage.task, ""),)
        for name, member in members:
            places.setdefault(name, (position, member))
    return places


def _list_plain_weights(config: ConfigDict) -> Iterator[Arm]:
    """The curriculum with equal weights in its joint stages, and with random weights and random choices in all stages
    that have members, each of them if it is another curriculum than the first.
    """
    if not any("members" in stage.fields for stage in config.stages):
        raise UserError("the baseline 'weights' needs a stage 'joint' or 'bandit' among `stages`")
    for rule in dict.fromkeys(itertools.chain(*PLAIN_RULES.values())):
        stages = tuple(_replace_rule(stage, rule) for stage in config.stages)
        if any(one is not other for one, other in zip(stages, config.stages, strict=True)):
            yield _whole(f"{WEIGHTS}:{rule}", config.init, stages, "stages")


def _replace_rule(stage: ConfigDict, rule: str) -> ConfigDict:
    """The stage with this rule, if it is of a kind that has it and has another one."""
    for field, rules in PLAIN_RULES.items():
        if field in stage.fields and "members" in stage.fields and rule in rules and stage.fields[field].name != rule:
            made = stage.copy_and_resolve_references()
            with made.unlocked():
                made.fields[field] = ConfigDict(pacing.default_fields(field, rule))
            return made
    return stage
