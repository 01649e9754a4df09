"""What a training is made of: how a task is trained, what is fixed while it is, and everything that changes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from aiseeme_jax import data
from aiseeme_jax.task import Part, Task
from aiseeme_jax.training import optimizers
from aiseeme_jax.training.parts import check_parts, split_parameters


@struct.dataclass
class TrainState:
    """Everything that training changes, and beside it what stays frozen.

    Attributes:
      step: steps that were made.
      params: parameters of the task.
      rest: all other state of the task.
      optimizer: of the parameters that no part owns.
      part_optimizers: of the parameters of each part, by its name.
      frozen: teachers, or None.
      streak: steps in a row that were not finite.
      skipped: all steps that changed nothing, since they were not finite or their batch was empty.
      halted: the step at which the training gave up, or -1.
    """

    step: Int[Array, ""]
    params: nnx.State
    rest: nnx.State
    optimizer: optax.OptState
    part_optimizers: dict[str, optax.OptState]
    frozen: nnx.State | None
    streak: Int[Array, ""]
    skipped: Int[Array, ""]
    halted: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a task is trained.

    Attributes:
      fields: frozen config node with `optimizer`, `schedule`, `task_weight` and `batch_size`.
      total_steps: steps in the whole stage.
      steps_per_epoch: steps in one epoch. Fine-tuning on a share of the labels counts its epochs in all of them.
      seed: of every random number in the stage.
      patience: steps in a row that are not finite after which the training gives up.
      hold: steps, after the warm-up, at the peak rate before the schedule begins.
    """

    fields: Any
    total_steps: int
    steps_per_epoch: int
    seed: int
    patience: int = 10
    hold: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
    """What is fixed while a stage trains. Hashable: two stages with equal programs share one compilation.

    Attributes:
      graph: of the task.
      frozen_graph: of the module that stays frozen beside the task, or None.
      fields, total_steps, steps_per_epoch, patience, hold: as in `Recipe`. After `patience` steps in a row that are
        not finite nothing is updated any more.
      constants: of the task.
      constant_rate: attributes of the task that learn at the peak rate throughout.
      rate_factors: of the task.
      parts: of the task.
      alternatives: of the task.
      turn: the way that a step of this program goes, from 0.
    """

    graph: nnx.GraphDef
    frozen_graph: nnx.GraphDef | None
    fields: Any
    total_steps: int
    steps_per_epoch: int
    patience: int = 10
    hold: int = 0
    constants: tuple[str, ...] = ()
    constant_rate: tuple[str, ...] = ()
    rate_factors: tuple[tuple[str, float], ...] = ()
    parts: tuple[Part, ...] = ()
    alternatives: int = 1
    turn: int = 0

    def schedule(self) -> optax.Schedule:
        """Learning rate by step, of the stage's optimizer."""
        return self._schedule(self.fields.optimizer.learning_rate)

    def _schedule(self, peak: float) -> optax.Schedule:
        return optimizers.make_schedule(
            self.fields.schedule, peak, self.total_steps, self.steps_per_epoch, self.fields.batch_size, hold=self.hold
        )

    def optimizer(self) -> optax.GradientTransformation:
        """Of the parameters that no part owns."""
        return optimizers.make_optimizer(
            self.fields.optimizer, self.schedule(), constant=self.constant_rate, factors=self.rate_factors
        )

    def part_optimizer(self, part: Part) -> optax.GradientTransformation:
        """Of one part. Its rate follows the stage's schedule, however many updates the part gets in a step."""
        fields = self.fields.optimizer if part.optimizer is None else part.optimizer
        by_step = self._schedule(fields.learning_rate)
        constant = tuple(name for name in self.constant_rate if name in part.attributes)
        by_update = lambda count: by_step(count // part.updates * part.every)  # noqa: E731
        return optimizers.make_optimizer(fields, by_update, constant=constant, factors=self.rate_factors)


def make_state(task: Task, recipe: Recipe, frozen: nnx.Module | None = None) -> tuple[Program, TrainState]:
    """The program of a stage and its state before the first step, replicated over all devices.

    Args:
      frozen: what stays as it is beside the task: the teachers of its distillation.

    Raises ValueError if the task's parts own nothing, or one parameter twice.
    """
    graph, params, rest = split_state(task)
    parts = task.parts()
    check_parts(task, parts, params)
    frozen_graph, frozen_state = nnx.split(frozen) if frozen is not None else (None, None)
    program = Program(
        graph=graph,
        frozen_graph=frozen_graph,
        fields=recipe.fields,
        total_steps=recipe.total_steps,
        steps_per_epoch=recipe.steps_per_epoch,
        patience=recipe.patience,
        hold=recipe.hold,
        constants=task.CONSTANTS,
        constant_rate=task.CONSTANT_RATE,
        rate_factors=task.rate_factors,
        parts=parts,
        alternatives=task.alternatives,
    )
    optimizer, part_optimizers = fresh_optimizers(program, params)
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        step=zero,
        params=params,
        rest=rest,
        optimizer=optimizer,
        part_optimizers=part_optimizers,
        frozen=nnx.as_pure(frozen_state),
        streak=zero,
        skipped=zero,
        halted=zero - 1,
    )
    # Modules share buffers with their clones and with the caller; a donated step needs its own.
    return program, _copy_to(everywhere())(state)


@functools.lru_cache(maxsize=1)
def _copy_to(sharding: NamedSharding) -> Callable[[TrainState], TrainState]:
    """Copies a state. One function for all trainings: states of one shape share what is compiled."""
    return jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=sharding)


def take_saved(program: Program, state: TrainState) -> TrainState:
    """What a checkpoint has of a state: all that training changes."""
    named = state.rest.raw_mapping
    rest = nnx.State({name: value for name, value in named.items() if name not in program.constants})
    return state.replace(frozen=None, rest=rest)


def add_unsaved(program: Program, saved: TrainState, fresh: TrainState) -> TrainState:
    """A state from a checkpoint, with what no checkpoint has from a fresh state of the same training."""
    now, then = fresh.rest.raw_mapping, saved.rest.raw_mapping
    rest = nnx.State({name: (now if name in program.constants else then)[name] for name in now})
    return saved.replace(frozen=fresh.frozen, rest=rest)


def fresh_optimizers(program: Program, params: nnx.State) -> tuple[optax.OptState, dict[str, optax.OptState]]:
    main, owned = split_parameters(params, program.parts)
    of_parts = {part.name: program.part_optimizer(part).init(owned[part.name]) for part in program.parts}
    return program.optimizer().init(main), of_parts


def everywhere() -> NamedSharding:
    """Whole on each device: how the state lies, before and after every step."""
    return NamedSharding(data.data_mesh(), PartitionSpec())


def split_state(task: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Graph, parameters and all other state of a task, as plain arrays: a `Variable` may not cross a transformation."""
    graph, params, rest = nnx.split(task, nnx.Param, ...)
    return graph, nnx.as_pure(params), nnx.as_pure(rest)


def task_of(program: Program, state: TrainState) -> Task:
    """The task with the weights and state of `state`; shares its buffers."""
    return nnx.merge(program.graph, state.params, state.rest)


class PerProgram:
    """A function of a program, a state that is donated, and more: jitted for each program by itself.

    Equal programs share what is compiled. One of them can be let go without the others.

    Attributes:
      programs: program -> its jitted function.
    """

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.programs: dict[Program, Callable] = {}

    def of(self, program: Program) -> Callable:
        """The function of one program. A loop asks once: to find a program among others takes milliseconds."""
        if program not in self.programs:
            self.programs[program] = jax.jit(functools.partial(self.__wrapped__, program), donate_argnums=0)
        return self.programs[program]

    def __call__(self, program: Program, *arguments: Any) -> Any:
        return self.of(program)(*arguments)

    def _cache_size(self) -> int:
        return sum(jitted._cache_size() for jitted in self.programs.values())


def progress_of(program: Program, state: TrainState) -> Float[Array, ""]:
    """Share of the stage's steps that are done before the present one."""
    return state.step / program.total_steps


def merge_task(program: Program, params: nnx.State, rest: nnx.State) -> Task:
    """The task with these arrays, whose step goes the way of the program."""
    task = nnx.merge(program.graph, params, rest)
    if program.alternatives > 1:
        task.turn = program.turn
    return task
