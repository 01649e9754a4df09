"""Strategies of `search` on made-up scores: how far from the best order they end, for as many stages.

    python -m bench.order_search --tables=50 --stages=40

A score is a gain for each task, an effect for each pair in its order, half as large, and noise that belongs to the
order. Everything is normal with a standard deviation of 1 for gains. 'sum' has no noise; 'noise' has 0.5; 'last' is a
sum in which only the last two tasks count, which the model of `surrogate` cannot express.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.search import trials
from aiseeme_jax.search.order import find_strategy
from aiseeme_jax.search.trials import Order, Settings, Space

COMPARED = ("random", "greedy", "beam", "transfer_matrix", "surrogate")


def make_table(kind: str, pool: Sequence[str], seed: int) -> Callable[[Order], float]:
    """A function from orders to scores; the same for the same seed."""
    generator = np.random.default_rng(seed)
    gain = dict(zip(pool, generator.standard_normal(len(pool)), strict=True))
    pair = {names: 0.5 * generator.standard_normal() for names in itertools.permutations(pool, 2)}
    noise = 0.5 if kind == "noise" else 0.0

    def value(order: Order) -> float:
        counted = order[-2:] if kind == "last" else order
        known = sum(map(gain.get, counted)) + sum(map(pair.get, itertools.combinations(counted, 2)))
        own = np.random.default_rng([seed, *map(ord, "".join(order))]).standard_normal() if noise else 0.0
        return float(known + noise * own)

    return value


def distance_from_best(strategy: str, kind: str, seed: int, *, tasks: int, length: int, stages: int) -> float:
    """The score of the best order minus that of the order which a strategy finds."""
    pool = tuple("abcdefghij"[:tasks])
    value = make_table(kind, pool, seed)
    space = Space(pool, length, seed=seed)
    found = trials.run(
        find_strategy(strategy)(space, Settings(margin=-math.inf)),
        lambda wanted: {trial: Score(value(trial.order)) for trial in wanted},
        lambda one, other: 0.0,
        stages,
    )
    best = max(value(order) for count in range(1, length + 1) for order in space.orders(count))
    return best - value(found.ranking()[0].order)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("tables", 50), ("tasks", 8), ("length", 4), ("stages", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    flags = parser.parse_args(argv)
    sizes = {name: getattr(flags, name) for name in ("tasks", "length", "stages")}
    print(f"{flags.tables} tables, {sizes}: mean distance from the best order ± standard error")
    for kind in ("sum", "noise", "last"):
        for strategy in COMPARED:
            found = [distance_from_best(strategy, kind, seed, **sizes) for seed in range(flags.tables)]
            error = np.std(found, ddof=1) / math.sqrt(len(found))
            print(f"{kind:6} {strategy:16} {np.mean(found):.2f} ± {error:.2f}")


if __name__ == "__main__":
    main()
