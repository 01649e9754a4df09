"""Fine-tuning of several measurements, one after another and as one program over stacked states.

    python -m bench.finetune_together --members=3 --steps=2

A measurement on another share of the labels, or with another seed, has as many steps of the same shape. So several
could be trained at once, each on batches of its own: `together` maps the step over states and batches that are stacked
(`jax.vmap`), `in one program` lets one program work through them (`jax.lax.map`). Both are compared with the step as it
is, called for one after another. All variants take turns; the ratios are those of single turns.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from aiseeme_jax import augment, models
from aiseeme_jax.evaluate import imbalance
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.training.state import Program, Recipe, TrainState, make_state
from aiseeme_jax.training.step import train_step
from bench import measure, steps

CLASSES = 8
ALONE, TOGETHER, IN_ONE = "one after another (as it is)", "together (vmap)", "in one program (map)"
State, Batch = Any, dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What some steps cost: seconds by the clock, and of all cores."""

    wall: float
    cpu: float


def make_member(options: argparse.Namespace, seed: int) -> tuple[Program, TrainState, Batch]:
    """The program of one measurement, its state, and a batch of random images."""
    backbone = models.make_backbone(
        options.model,
        width=options.width,
        stem=options.stem,
        dtype="float32",
        channels=3,
        dimensions=2,
        rngs=nnx.Rngs(seed),
    )
    random = np.random.default_rng(seed)
    task = FineTuning(
        backbone,
        augment.Views(size=options.size),
        method=imbalance.make_method({"name": imbalance.DEFAULT}),
        counts=tuple(random.integers(5, 500, CLASSES).tolist()),
        rngs=nnx.Rngs(seed),
    )
    batch = {
        "image": jnp.asarray(random.integers(0, 256, (options.batch, options.size, options.size, 3), np.uint8)),
        "label": jnp.asarray(random.integers(0, CLASSES, options.batch), jnp.int32),
        "index": jnp.arange(options.batch, dtype=jnp.int32),
    }
    fields = steps.Fields(options.batch, steps.Optimizer("adamw"))
    return *make_state(task, Recipe(fields, steps.TOTAL_STEPS, steps.TOTAL_STEPS, seed)), batch


def compile_variants(
    program: Program, states: Sequence[TrainState], batches: Sequence[Batch]
) -> dict[str, tuple[Callable, State, Any]]:
    """For each variant what makes a step of all members, their state, and the program that is compiled for it."""
    key, step = jax.random.key(0), functools.partial(train_step.__wrapped__, program)
    stacked = [jax.tree.map(lambda *parts: jnp.stack(parts), *trees) for trees in (states, batches)]
    keys = jax.random.split(key, len(states))
    alone = jax.jit(step, donate_argnums=0).lower(states[0], batches[0], key).compile()

    def advance_each(own: list[TrainState]) -> list[TrainState]:
        return [alone(state, batch, key)[0] for state, batch in zip(own, batches, strict=True)]

    def compile_all(over_members: Callable) -> tuple[Callable, State, Any]:
        compiled = jax.jit(over_members, donate_argnums=0).lower(stacked[0], stacked[1], keys).compile()
        # The step donates its state, so each variant needs a copy.
        return (lambda state: compiled(state, stacked[1], keys)[0]), jax.tree.map(jnp.copy, stacked[0]), compiled

    in_turn = lambda state, batch, keys: jax.lax.map(lambda member: step(*member), (state, batch, keys))  # noqa: E731
    return {
        ALONE: (advance_each, list(states), alone),
        TOGETHER: compile_all(jax.vmap(step)),
        IN_ONE: compile_all(in_turn),
    }


def measure_turns(variants: dict[str, tuple[Callable, State, Any]], count: int, rounds: int) -> dict[str, list[Cost]]:
    """What `count` steps of all members cost, `rounds` times. A first turn is not counted."""
    states = {name: state for name, (_, state, _) in variants.items()}
    found: dict[str, list[Cost]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, (advance, _, _) in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count if number else 1):
                states[name] = advance(states[name])
            jax.block_until_ready(states[name])
            if number:
                found[name].append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return found


def count_mebibytes(compiled: Any, members: int) -> float:
    """Memory of the states and batches of all members, and of a step."""
    memory = compiled.memory_analysis()
    return (members * memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20


def report(variants: dict[str, tuple[Callable, State, Any]], costs: dict[str, list[Cost]], options: Any) -> None:
    print(measure.versions("jax", "flax"))
    print(
        f"fine-tuning of {options.members} members, {options.model} x {options.width:g}, {options.stem} stem, "
        f"{options.size} px, batch {options.batch}, AdamW; {options.steps} steps in a turn, {options.rounds} turns; "
        "a step of all members costs\n"
    )
    rows = [("", "wall s", "CPU s", "gain in wall time", "gain in CPU time", "MiB")]
    for name, (_, _, compiled) in variants.items():
        members = options.members if name == ALONE else 1
        walls, cpus = ([getattr(cost, kind) / options.steps for cost in costs[name]] for kind in ("wall", "cpu"))
        gains = [
            [getattr(base, kind) / getattr(cost, kind) for base, cost in zip(costs[ALONE], costs[name], strict=True)]
            for kind in ("wall", "cpu")
        ]
        size = f"{count_mebibytes(compiled, members):,.0f}"
        rows.append((name, write_range(walls), write_range(cpus), *map(write_range, gains), size))
    print(measure.table(rows))


def write_range(values: Sequence[float]) -> str:
    """The lowest and the highest of some values."""
    return f"{min(values):.2f}–{max(values):.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--stem", default="standard")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--members", type=int, default=9, help="shares of the labels times seeds")
    parser.add_argument("--steps", type=int, default=1, help="in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    programs, states, batches = zip(*(make_member(options, seed) for seed in range(options.members)), strict=True)
    if len(set(programs)) > 1:
        raise SystemExit("the members have different programs")
    variants = compile_variants(programs[0], states, batches)
    report(variants, measure_turns(variants, options.steps, options.rounds), options)


if __name__ == "__main__":
    main()
