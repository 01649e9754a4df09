"""Arms: the ways to come by a backbone that a config compares."""

import dataclasses
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from aiseeme_jax.errors import UserError
from aiseeme_jax.store.workdirs import CURRICULUM
from aiseeme_jax.weights import SCRATCH

__all__ = ["CURRICULUM", "IMAGENET", "INIT", "SCRATCH", "SINGLE", "Arm", "list_arms"]

IMAGENET, INIT, SINGLE = "imagenet", "init", "single"
BUDGETS = ("stage", "total")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to come by a backbone.

    Attributes:
      name: 'curriculum', that of another curriculum, 'scratch', 'imagenet' or 'single:<task>'; 'init' of the job
        `evaluate`.
      init: what it starts from, as `config.init`.
      stages: the stages it trains, as (position in its curriculum, config).
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
        """Whether its backbone has random weights that nothing trained."""
        return self.init == SCRATCH and not self.stages


def list_arms(config: ConfigDict) -> tuple[Arm, ...]:
    """The curriculum, the curricula beside it, and the baselines; of the job `evaluate` the backbone at `init`.

    Raises UserError for an unknown baseline, one that lacks its weights, and a curriculum under the name of another
    arm.
    """
    if config.job == "evaluate":
        return (Arm(INIT, config.init),)
    arms = [_whole(name, config.init, stages, f"curricula.{name}") for name, stages in config.curricula.items()]
    if config.stages or not arms:
        arms.insert(0, _whole(CURRICULUM, config.init, config.stages, "stages"))
    baselines = list(_list_baselines(config))
    # 'scratch' even where it is no baseline: fine-tuning starts it anew with each seed.
    taken = {CURRICULUM, SCRATCH, *(arm.name for arm in baselines)} & set(config.curricula)
    if taken:
        raise UserError(f"curricula: '{min(taken)}' is the name of another arm")
    return tuple({arm.name: arm for arm in [*arms, *baselines]}.values())


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
    """An arm for each task of the curriculum, or for the one named: it is trained at the stage where it comes first."""
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
