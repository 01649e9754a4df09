"""Arms: the ways to get a backbone that a config compares."""

import dataclasses
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from aiseeme_jax.errors import UserError
from aiseeme_jax.store.workdirs import CURRICULUM
from aiseeme_jax.weights import SCRATCH

__all__ = ["CURRICULUM", "IMAGENET", "INIT", "SCRATCH", "SINGLE", "Arm", "list_arms", "list_members"]

IMAGENET, INIT, SINGLE = "imagenet", "init", "single"
BUDGETS = ("stage", "total")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to get a backbone.

    Attributes:
      name: 'curriculum', the name of another curriculum, 'scratch', 'imagenet' or 'single:<task>'; in the job
        `evaluate` it is 'init', or 'scratch' for random weights.
      init: the weights that it starts from, as in `config.init`.
      stages: the stages that it trains, as (position in its curriculum, config).
      tasks: the tasks of all stages of its curriculum.
      single: whether it trains one stage of its curriculum without those before it.
      total_budget: whether each of its stages shows as many images as the whole curriculum does.
      field: the field of the config that lists its stages.
    """

    name: str
    init: str
    stages: tuple[tuple[int, ConfigDict], ...] = ()
    tasks: tuple[str, ...] = ()
    single: bool = False
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
        else:
            raise UserError(f"unknown baseline '{name}': known are scratch, imagenet, single, single:TASK")


def _list_singles(config: ConfigDict, task: str) -> Iterator[Arm]:
    """An arm for each task of the curriculum, or for the task that is named. It is trained as in its first stage."""
    tasks = _tasks(config.stages)
    if task and task not in tasks:
        known = ", ".join(dict.fromkeys(tasks))
        raise UserError(f"the baseline 'single:{task}' has no stage of that task: there are {known}")
    if config.single_budget not in BUDGETS:
        raise UserError(f"unknown single_budget '{config.single_budget}': known are {', '.join(BUDGETS)}")
    total = config.single_budget == "total" and len(tasks) > 1
    for name in [task] if task else dict.fromkeys(tasks):
        position = tasks.index(name)
        stages = ((position, config.stages[position]),)
        yield Arm(f"{SINGLE}:{name}", config.init, stages, tasks, single=True, total_budget=total)
