"""One step for every task.

The step computes on the global batch. Arrays are sharded along `data`, and `jit` makes losses, batch statistics and
gradients those of one large device, on any number of devices.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax.task import Output, Part
from aiseeme_jax.training import optimizers
from aiseeme_jax.training.parts import join_parameters, select_parameters, split_parameters
from aiseeme_jax.training.samples import measure_batch
from aiseeme_jax.training.state import (
    PerProgram,
    Program,
    TrainState,
    everywhere,
    fresh_optimizers,
    merge_task,
    progress_of,
    split_state,
    task_of,
)

Frozen = Mapping[str, Bool[Array, ""]]


@PerProgram
def train_step(
    program: Program, state: TrainState, batch: dict[str, Array], key: PRNGKeyArray
) -> tuple[TrainState, dict[str, Float[Array, ""]], Float[Array, "m d"]]:
    """One step: an update by the main loss, then those of the task's parts, in their order.

    A step changes nothing but the counters if any of its losses or gradients is not finite, or if the task says that
    the batch is empty.

    Args:
      program: static.
      state: donated.
      batch: `image` uint8 [B, H, W, C], `index` int32 [B], perhaps `label` int32 [B]; sharded along `data`.
      key: of the stage; the step's own is folded from it.

    Returns the new state, scalars to log, and the pooled features [M, D] for the health of the run.
    """
    step_key = jax.random.fold_in(key, state.step)
    frozen = task_of(program, state).frozen(progress_of(program, state))
    new, metrics, features, empty = _update_main(program, state, batch, step_key, frozen)
    fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"]) & (state.halted < 0)
    for number, part in enumerate(program.parts):
        # Views fold small numbers into their key, or split it, which is the same: parts count from the other end.
        part_key = jax.random.fold_in(step_key, 2**32 - 1 - number)
        new, part_metrics, part_fine = _update_part(program, new, part, batch, part_key, frozen)
        metrics |= part_metrics
        fine &= part_fine
    new = _after_update(program, new)
    changed = fine & ~empty
    new = _choose(changed, new, state)
    streak = jnp.where(fine, jnp.where(empty, state.streak, 0), state.streak + 1)
    skipped = state.skipped + (1 - changed.astype(jnp.int32))
    metrics |= {"learning_rate": program.schedule()(state.step - state.skipped), "skipped_steps": skipped}
    new = new.replace(
        step=state.step + 1,
        streak=streak,
        skipped=skipped,
        halted=jnp.where((state.halted < 0) & (streak >= program.patience), state.step + 1, state.halted),
    )
    # Left to itself the compiler may leave a queue lying in shards, and compile anew for the next step.
    return jax.lax.with_sharding_constraint(new, everywhere()), metrics, features


@PerProgram
def choose_turn(
    program: Program, state: TrainState, key: PRNGKeyArray
) -> tuple[TrainState, Int[Array, ""], Int[Array, ""]]:
    """Lets a task choose the way of its coming steps.

    Args:
      program, state, key: as of `train_step`.

    Returns the state, the way, and how many steps go it at least.
    """
    task = task_of(program, state)
    turn, steps = task.choose(jax.random.fold_in(key, state.step), progress_of(program, state))
    state = state.replace(rest=split_state(task)[2])
    return jax.lax.with_sharding_constraint(state, everywhere()), turn, steps


class Steps:
    """Takes the steps of a training, each the way that its task chooses.

    Every way is a program of its own: on CPUs a branch within a program is slow (a small convolutional network took 28
    times as long). The host waits for a choice, which comes once in an interval.
    """

    def __init__(self, program: Program):
        self._program = program
        self._ways = [train_step.of(dataclasses.replace(program, turn=way)) for way in range(program.alternatives)]
        self._way = 0
        # Steps until the next choice.
        self._left = 0

    def __call__(self, state: TrainState, batch: dict[str, Array], key: PRNGKeyArray) -> tuple:
        """As `train_step`."""
        if len(self._ways) > 1:
            if not self._left:
                state, way, left = choose_turn(self._program, state, key)
                self._way, self._left = int(way), int(left)
            self._left -= 1
        return self._ways[self._way](state, batch, key)


@struct.dataclass
class _Computed:
    """What a step computes before it updates anything.

    Attributes:
      rest: the state of the task after its loss.
      losses: `Output.losses`.
    """

    gradient: nnx.State
    rest: nnx.State
    metrics: dict[str, Float[Array, ""]]
    features: Float[Array, "m d"]
    empty: Bool[Array, ""]
    losses: Float[Array, " n"] | None


def _update_main(
    program: Program, state: TrainState, batch: dict[str, Array], key: PRNGKeyArray, frozen: Frozen
) -> tuple[TrainState, dict[str, Float[Array, ""]], Float[Array, "m d"], Bool[Array, ""]]:
    """The update of all parameters that no part owns, by the task's loss and its distillation.

    Returns the new state, metrics, the pooled features, and whether the batch was empty.
    """
    main, owned = split_parameters(state.params, program.parts)
    task = task_of(program, state)
    found = _compute(program, state, batch, key, owned, main)
    main, optimizer, norm = _apply(program.optimizer(), found.gradient, state.optimizer, main, frozen)
    new = state.replace(params=join_parameters(main, owned), rest=found.rest, optimizer=optimizer)
    if task.compares_losses:
        new = _compare_losses(program, state, new, batch, key, found.losses)
    return new, found.metrics | {"gradient_norm": norm}, found.features, found.empty


def _compute(
    program: Program,
    state: TrainState,
    batch: dict[str, Array],
    key: PRNGKeyArray,
    owned: dict[str, nnx.State],
    main: nnx.State,
) -> _Computed:
    """The gradient of all parameters that no part owns, and what else comes of the task's loss."""

    def loss(main):
        task = merge_task(program, join_parameters(main, owned), state.rest)
        output = task.loss(task.views(key, batch), progress_of(program, state))
        total, added = program.fields.task_weight * output.loss, None
        metrics = {"task_loss": output.loss, **output.metrics}
        if program.frozen_graph is not None:
            teachers = nnx.merge(program.frozen_graph, state.frozen)
            # Weights of terms go from the first step to the last, of which one is left when the last begins.
            from_first_to_last = state.step / max(program.total_steps - 1, 1)
            added, terms = task.distillation(task, output, teachers, from_first_to_last)
            total, metrics = total + added, {**metrics, **terms}
        metrics = {"loss": total, **metrics}
        computed = (split_state(task)[2], metrics, output.features, jnp.asarray(output.empty), output.losses)
        return (_list_losses(program, output, added) if task.separate_gradients else total), computed

    if task_of(program, state).separate_gradients:
        return _combine_gradients(program, main, owned, key, *jax.vjp(loss, main, has_aux=True))
    gradient, computed = jax.grad(loss, has_aux=True)(main)
    return _Computed(gradient, *computed)


def _list_losses(program: Program, output: Output, added: Float[Array, ""] | None) -> list[Float[Array, ""]]:
    """The losses of which each has a gradient of its own, and last the distillation, if there is one."""
    of_task = [program.fields.task_weight * loss for loss in output.losses]
    return of_task if added is None else [*of_task, added]


def _combine_gradients(
    program: Program,
    main: nnx.State,
    owned: dict[str, nnx.State],
    key: PRNGKeyArray,
    losses: list[Float[Array, ""]],
    pull_back: Callable,
    computed: tuple,
) -> _Computed:
    """One forward pass, a backward pass for each loss, and the gradient that the task makes of them."""
    rest, *others = computed
    count = others[-1].shape[0]
    gradients = [
        pull_back([jnp.full_like(loss, number == own) for number, loss in enumerate(losses)])[0]
        for own in range(len(losses))
    ]
    task = nnx.merge(program.graph, join_parameters(main, owned), rest)
    gradient = task.combine_gradients(gradients[:count], others[-1], key)
    for added in gradients[count:]:
        gradient = jax.tree.map(jnp.add, gradient, added)
    return _Computed(gradient, split_state(task)[2], *others)


def _compare_losses(
    program: Program, old: TrainState, new: TrainState, batch: dict[str, Array], key: PRNGKeyArray, before: Array
) -> TrainState:
    """The new state after the task knows what the update made of its losses, on the same views of the same batch."""
    again = nnx.merge(program.graph, new.params, old.rest)
    after = again.loss(again.views(key, batch), progress_of(program, old)).losses
    task = task_of(program, new)
    task.compare_losses(before, after)
    return new.replace(rest=split_state(task)[2])


def _update_part(
    program: Program, state: TrainState, part: Part, batch: dict[str, Array], key: PRNGKeyArray, frozen: Frozen
) -> tuple[TrainState, dict[str, Float[Array, ""]], Bool[Array, ""]]:
    """All updates of one part in a step, its metrics, and whether they are finite; in steps in which the part is not
    trained, its metrics are NaN.
    """

    def update(state):
        fine = jnp.ones((), bool)
        for number in range(part.updates):
            own_key = jax.random.fold_in(key, number)
            state, metrics, finite = _update_part_once(program, state, part, batch, own_key, frozen)
            fine &= finite
        return state, metrics, fine

    if part.every == 1:
        return update(state)
    unknown = jax.eval_shape(update, state)[1]

    def skip(state):
        return state, jax.tree.map(lambda metric: jnp.full((), jnp.nan, metric.dtype), unknown), jnp.ones((), bool)

    return jax.lax.cond(state.step % part.every == 0, update, skip, state)


def _update_part_once(
    program: Program, state: TrainState, part: Part, batch: dict[str, Array], key: PRNGKeyArray, frozen: Frozen
) -> tuple[TrainState, dict[str, Float[Array, ""]], Bool[Array, ""]]:
    owned, others = select_parameters(state.params, part)

    def loss(owned):
        task = merge_task(program, nnx.merge_state(owned, others), state.rest)
        output = task.part_loss(part.name, task.views(key, batch), progress_of(program, state))
        return output.loss, (split_state(task)[2], {"loss": output.loss, **output.metrics})

    gradient, (rest, metrics) = jax.grad(loss, has_aux=True)(owned)
    optimizer = state.part_optimizers[part.name]
    owned, optimizer, norm = _apply(program.part_optimizer(part), gradient, optimizer, owned, frozen)
    fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    metrics = {f"{part.name}_{name}": value for name, value in {**metrics, "gradient_norm": norm}.items()}
    new = state.replace(
        params=nnx.merge_state(owned, others),
        rest=rest,
        part_optimizers={**state.part_optimizers, part.name: optimizer},
    )
    return new, metrics, fine


def _apply(
    optimizer: optax.GradientTransformation,
    gradient: nnx.State,
    known: optax.OptState,
    params: nnx.State,
    frozen: Frozen,
) -> tuple[nnx.State, optax.OptState, Float[Array, ""]]:
    """Parameters and optimizer state after one update, and the norm of the gradient. What is frozen stays in both."""
    gradient = optimizers.keep_frozen(frozen, jax.tree.map(jnp.zeros_like, gradient), gradient)
    norm = optax.global_norm(gradient)
    updates, new = optimizer.update(gradient, known, params)
    moved = optimizers.keep_frozen(frozen, params, optax.apply_updates(params, updates))
    return moved, optimizers.keep_frozen(frozen, known, new), norm


def _after_update(program: Program, state: TrainState) -> TrainState:
    task = merge_task(program, state.params, state.rest)
    task.after_update((state.step + 1) / program.total_steps)
    _, params, rest = split_state(task)
    return state.replace(params=params, rest=rest)


def _choose(condition: Bool[Array, ""], new: TrainState, old: TrainState) -> TrainState:
    """What training changes from `new` if the condition holds, from `old` otherwise."""
    changed = ("params", "rest", "optimizer", "part_optimizers")
    chosen = {
        name: jax.tree.map(lambda n, o: jnp.where(condition, n, o), getattr(new, name), getattr(old, name))
        for name in changed
    }
    return old.replace(**chosen)


@PerProgram
def at_epoch(program: Program, state: TrainState, features: Float[Array, "n d"], key: PRNGKeyArray) -> TrainState:
    """The state after the task's own `at_epoch`. The optimizers forget what they know of parameters that it draws anew.

    Args:
      program: static.
      state: donated.
      features: of the whole split, the same in every process.
      key: of this call.
    """
    task = task_of(program, state)
    task.at_epoch(features, key)
    _, params, rest = split_state(task)
    fresh = fresh_optimizers(program, params)
    optimizer, part_optimizers = optimizers.restarted((state.optimizer, state.part_optimizers), fresh, task.RESTARTS)
    state = state.replace(params=params, rest=rest, optimizer=optimizer, part_optimizers=part_optimizers)
    return jax.lax.with_sharding_constraint(state, everywhere())


@contextlib.contextmanager
def transient_programs() -> Iterator[None]:
    """Lets go, at its end, of the programs compiled since its begin: the host's memory holds each of them whole."""
    functions = (train_step, choose_turn, at_epoch, measure_batch)
    before = {function: set(function.programs) for function in functions}
    try:
        yield
    finally:
        for function, programs in before.items():
            for program in set(function.programs) - programs:
                del function.programs[program]
