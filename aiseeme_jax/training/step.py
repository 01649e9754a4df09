"""One state and one step for every task.

The step sees the global batch: jit over arrays sharded along `data` makes losses, batch statistics and gradients
those of one large device, on any number of devices.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax import data
from aiseeme_jax.task import Task
from aiseeme_jax.training import optimizers


@struct.dataclass
class TrainState:
    """Everything that training changes, and beside it what stays frozen.

    `streak` counts the non-finite steps in a row, `skipped` all of them; `halted` is the step at which the run gave
    up, or -1.
    """

    step: Int[Array, ""]
    params: nnx.State
    rest: nnx.State
    optimizer: optax.OptState
    frozen: nnx.State | None
    streak: Int[Array, ""]
    skipped: Int[Array, ""]
    halted: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a task is trained.

    Attributes:
      fields: frozen config node with `optimizer`, `schedule`, `task_weight` and `batch_size`.
      total_steps: updates in the whole stage.
      steps_per_epoch: updates in one epoch. Fine-tuning on a share of the labels counts its epochs in all of them.
      seed: of every random number in the stage.
      patience: steps in a row that are not finite after which the run ends.
    """

    fields: Any
    total_steps: int
    steps_per_epoch: int
    seed: int
    patience: int = 10


@dataclasses.dataclass(frozen=True)
class Program:
    """What is fixed while a stage trains. Hashable: two runs with equal programs share one compilation.

    Attributes:
      graph: of the task.
      frozen_graph: of the module that stays frozen beside the task, or None.
      fields, total_steps, steps_per_epoch, patience: as in `Recipe`. After `patience` steps in a row that are not
        finite nothing is updated any more.
      constant_rate: attributes of the task that learn at the peak rate throughout.
    """

    graph: nnx.GraphDef
    frozen_graph: nnx.GraphDef | None
    fields: Any
    total_steps: int
    steps_per_epoch: int
    patience: int = 10
    constant_rate: tuple[str, ...] = ()

    def schedule(self) -> optax.Schedule:
        peak = self.fields.optimizer.learning_rate
        return optimizers.make_schedule(
            self.fields.schedule, peak, self.total_steps, self.steps_per_epoch, self.fields.batch_size
        )

    def optimizer(self) -> optax.GradientTransformation:
        return optimizers.make_optimizer(self.fields.optimizer, self.schedule(), constant=self.constant_rate)


def make_state(task: Task, recipe: Recipe, frozen: nnx.Module | None = None) -> tuple[Program, TrainState]:
    """The program of a stage and its state before the first step, replicated over all devices.

    Args:
      frozen: what stays as it is beside the task: the teachers of its distillation.
    """
    graph, params, rest = split_state(task)
    frozen_graph, frozen_state = nnx.split(frozen) if frozen is not None else (None, None)
    program = Program(
        graph,
        frozen_graph,
        recipe.fields,
        recipe.total_steps,
        recipe.steps_per_epoch,
        recipe.patience,
        task.CONSTANT_RATE,
    )
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        zero, params, rest, program.optimizer().init(params), nnx.as_pure(frozen_state), zero, zero, zero - 1
    )
    # Modules share buffers with their clones and with the caller; a donated step needs its own.
    return program, jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=_everywhere())(state)


def _everywhere() -> NamedSharding:
    """Whole on each device: how the state lies, before and after every step."""
    return NamedSharding(data.data_mesh(), PartitionSpec())


def split_state(task: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Graph, parameters and all other state of a task, as plain arrays: a `Variable` may not cross a transformation."""
    graph, params, rest = nnx.split(task, nnx.Param, ...)
    return graph, nnx.as_pure(params), nnx.as_pure(rest)


def task_of(program: Program, state: TrainState) -> Task:
    """The task with the weights and state of `state`; shares its buffers."""
    return nnx.merge(program.graph, state.params, state.rest)


def _loss(params: nnx.State, program: Program, state: TrainState, batch, key: PRNGKeyArray):
    task = nnx.merge(program.graph, params, state.rest)
    output = task.loss(task.views(key, batch))
    total = program.fields.task_weight * output.loss
    metrics = {"task_loss": output.loss, **output.metrics}
    if program.frozen_graph is not None:
        frozen = nnx.merge(program.frozen_graph, state.frozen)
        added, terms = task.keeper(task, output, frozen, state.step / max(program.total_steps - 1, 1))
        total, metrics = total + added, {**metrics, **terms}
    _, _, rest = split_state(task)
    return total, (rest, {"loss": total, **metrics}, output.features)


class PerProgram:
    """A function of a program, a state that is donated, and more: jitted for each program by itself.

    Equal programs share what is compiled, and one of them can be let go without the others.

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


@PerProgram
def train_step(
    program: Program, state: TrainState, batch: dict[str, Array], key: PRNGKeyArray
) -> tuple[TrainState, dict[str, Float[Array, ""]], Float[Array, "m d"]]:
    """One update. A step whose loss or gradient is not finite changes nothing but the counters.

    Args:
      program: static.
      state: donated.
      batch: `image` uint8 [B, H, W, C], `index` int32 [B], perhaps `label` int32 [B]; sharded along `data`.
      key: of the stage; the step's own is folded from it.

    Returns the new state, scalars to log, and the pooled features [M, D] for the health of the run.
    """
    step_key = jax.random.fold_in(key, state.step)
    gradient = jax.grad(_loss, has_aux=True)(state.params, program, state, batch, step_key)
    gradient, (rest, metrics, features) = gradient
    frozen = task_of(program, state).frozen()
    gradient = optimizers.hold(frozen, jax.tree.map(jnp.zeros_like, gradient), gradient)
    norm = optax.global_norm(gradient)
    fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) & (state.halted < 0)
    updates, optimizer = program.optimizer().update(gradient, state.optimizer, state.params)
    params = optimizers.hold(frozen, state.params, optax.apply_updates(state.params, updates))
    optimizer = optimizers.hold(frozen, state.optimizer, optimizer)
    params, rest = _after_update(program, params, rest, state.step)
    new = (params, rest, optimizer)
    params, rest, optimizer = _choose(fine, new, (state.params, state.rest, state.optimizer))
    streak = jnp.where(fine, 0, state.streak + 1)
    halted = jnp.where((state.halted < 0) & (streak >= program.patience), state.step + 1, state.halted)
    metrics |= {
        "gradient_norm": norm,
        "learning_rate": program.schedule()(state.step - state.skipped),
        "skipped_steps": state.skipped + (1 - fine),
    }
    state = state.replace(
        step=state.step + 1,
        params=params,
        rest=rest,
        optimizer=optimizer,
        streak=streak,
        skipped=state.skipped + (1 - fine.astype(jnp.int32)),
        halted=halted,
    )
    # Left to itself the compiler may leave a queue lying in shards, and compile anew for the next step.
    return jax.lax.with_sharding_constraint(state, _everywhere()), metrics, features


@PerProgram
def at_epoch(program: Program, state: TrainState, features: Float[Array, "n d"], key: PRNGKeyArray) -> TrainState:
    """The state after the task's own `at_epoch`; what it draws anew, the optimizer has never seen.

    Args:
      program: static.
      state: donated.
      features: of the whole split, the same in every process.
      key: of this call.
    """
    task = nnx.merge(program.graph, state.params, state.rest)
    task.at_epoch(features, key)
    _, params, rest = split_state(task)
    optimizer = optimizers.restarted(state.optimizer, program.optimizer().init(params), task.RESTARTS)
    state = state.replace(params=params, rest=rest, optimizer=optimizer)
    return jax.lax.with_sharding_constraint(state, _everywhere())


@contextlib.contextmanager
def transient_programs() -> Iterator[None]:
    """Lets go, at its end, of the programs compiled since its begin: the host's memory holds each of them whole."""
    before = {function: set(function.programs) for function in (train_step, at_epoch)}
    try:
        yield
    finally:
        for function, programs in before.items():
            for program in set(function.programs) - programs:
                del function.programs[program]


def _after_update(program: Program, params: nnx.State, rest: nnx.State, step: Int[Array, ""]):
    task = nnx.merge(program.graph, params, rest)
    task.after_update((step + 1) / program.total_steps)
    _, params, rest = split_state(task)
    return params, rest


def _choose(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
