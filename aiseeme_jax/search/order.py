"""Strategies that search for an order of tasks, and their table.

A strategy is a generator: it yields the trials that should be scored next and gets the evidence so far. It sees scores
alone, so that it can be tested without training. A new one is a function here and a line in `STRATEGIES`.
"""

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from aiseeme_jax import seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.proxies import error_of_difference
from aiseeme_jax.search import surrogate as models
from aiseeme_jax.search.trials import START, Evidence, Order, Proposals, Settings, Space, Strategy, Trial

# `random` gives up after so many draws in a row of orders that it has proposed before.
MOST_REPEATED_DRAWS = 1000


def find_strategy(name: str) -> Strategy:
    """The strategy of a name. Raises UserError that names the known ones."""
    if name not in STRATEGIES:
        raise UserError(f"unknown strategy '{name}': known are {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def exhaustive(space: Space, settings: Settings) -> Proposals:
    """All orders up to the longest, the shorter first. Over 4 tasks up to length 3 it trains 4 + 12 + 24 stages."""
    for length in range(1, space.longest + 1):
        yield _whole(space.orders(length))


def greedy(space: Space, settings: Settings) -> Proposals:
    """Extends the best order by the task that helps most, until none helps by more than its uncertainty.

    The uncertainty is `settings.margin` standard errors of the difference. The first task is always taken.
    """
    best = START
    while extensions := _whole(space.extend(best.order)):
        evidence = yield extensions
        found = evidence.rank(evidence.has(extensions))
        if not found:
            return
        gain = evidence.value(found[0]) - evidence.value(best)
        error = error_of_difference(evidence.scores[found[0]], evidence.scores[best])
        # Written so that the end comes also if both diverged.
        if best.order and not gain > settings.margin * error:
            return
        best = found[0]


def beam(space: Space, settings: Settings) -> Proposals:
    """Extends the `settings.width` best orders of each length by every task, up to the longest."""
    kept: list[Trial] = [START]
    while extensions := _whole(order for trial in kept for order in space.extend(trial.order)):
        evidence = yield extensions
        kept = evidence.rank(evidence.has(extensions))[: settings.width]


def ranked(space: Space, settings: Settings) -> Proposals:
    """Each task alone; then the best of them in sequence, from the worst to the best and from the best to the worst."""
    alone = _whole(space.orders(1))
    evidence = yield alone
    best = [trial.order[0] for trial in evidence.rank(evidence.has(alone))][: space.longest]
    yield _whole([tuple(reversed(best)), tuple(best)])


def transfer_matrix(space: Space, settings: Settings) -> Proposals:
    """Measures what each task gains after each other one, and tries the best path of every length through these gains.

    The value of a path is the score of its first task and the sum of the gains from each task to the next. What comes
    further back than one task is left out of account; the score of the path itself shows whether that was right.
    """
    yield _whole(space.orders(1))
    evidence = yield _whole(space.orders(min(2, space.longest)))
    alone = {order[0]: evidence.value(Trial(order)) for order in space.orders(1) if Trial(order) in evidence.scores}
    gains = {
        pair: evidence.value(Trial(pair)) - alone[pair[0]]
        for pair in space.orders(2)
        if Trial(pair) in evidence.scores and np.isfinite(alone[pair[0]])
    }
    paths = [find_best_path(alone, gains, length, space.repeat) for length in range(3, space.longest + 1)]
    yield _whole(path for path in paths if path)


def find_best_path(
    alone: Mapping[str, float], gains: Mapping[tuple[str, str], float], length: int, repeat: bool
) -> Order:
    """The order of a length with the largest score of its first task plus gains; () if there is none.

    It is exact: the best way to each task through each set of tasks is kept (Held & Karp 1962).
    """
    best = {(name, frozenset([name])): (value, (name,)) for name, value in alone.items()}
    for _ in range(length - 1):
        longer: dict[tuple[str, frozenset[str]], tuple[float, Order]] = {}
        for (last, used), (value, path) in best.items():
            for (first, second), gain in gains.items():
                if first != last or (second in used and not repeat):
                    continue
                place = second, frozenset([second]) if repeat else used | {second}
                if place not in longer or value + gain > longer[place][0]:
                    longer[place] = value + gain, (*path, second)
        best = longer
    return max(best.values(), key=lambda found: found[0], default=(0.0, ()))[1]


def similarity(space: Space, settings: Settings) -> Proposals:
    """From the best task alone, on to the task whose backbone is nearest, and once to the farthest (by CKA)."""
    alone = _whole(space.orders(1))
    evidence = yield alone
    found = evidence.rank(evidence.has(alone))
    if found:
        names = [trial.order[0] for trial in found]
        yield _whole(_follow(names, evidence, space.longest, near) for near in (True, False))


def _follow(names: list[str], evidence: Evidence, length: int, near: bool) -> Order:
    """A chain of tasks from the first name, each time to the nearest or the farthest that is left."""
    chain, left = names[:1], names[1:]
    while left and len(chain) < length:
        choose = max if near else min
        following = choose(left, key=lambda name: evidence.similarity((chain[-1],), (name,)))
        left.remove(following)
        chain.append(following)
    return tuple(chain)


def bandit(space: Space, settings: Settings) -> Proposals:
    """Successive halving over whole orders (Jamieson & Talwalkar 2016).

    `settings.candidates` random orders of the greatest length are trained for the shortest share of their length. The
    best, one in `settings.keep`, are trained anew for a share that is `settings.keep` times longer, and so on up to the
    whole length. Each share has a learning-rate schedule of its own. So a short training is not the beginning of a long
    one, and a ranking of short trainings may be wrong: contrastive tasks start slower than geometric ones.
    """
    generator = np.random.default_rng(seeds.derive(space.seed, "bandit"))
    orders = list(itertools.islice(_draw_orders(space, generator), settings.candidates))
    rungs = 1
    while settings.shortest * settings.keep**rungs < 1 + 1e-9:
        rungs += 1
    for rung in range(rungs):
        share = 1.0 if rung == rungs - 1 else settings.keep ** (rung + 1 - rungs)
        trials = [Trial(order, share) for order in orders]
        evidence = yield trials
        kept = max(1, int(settings.candidates * settings.keep ** -(rung + 1)))
        orders = [trial.order for trial in evidence.rank(evidence.has(trials))][:kept]


def random(space: Space, settings: Settings) -> Proposals:
    """Random orders of the greatest length, which a cleverer strategy must beat for as many stages."""
    generator = np.random.default_rng(seeds.derive(space.seed, "random"))
    drawn = _draw_orders(space, generator)
    while batch := list(itertools.islice(drawn, settings.batch)):
        yield _whole(batch)


def surrogate(space: Space, settings: Settings) -> Proposals:
    """Each task alone; then the orders from which a model of all scores expects most improvement for a stage.

    `settings.batch` orders are proposed at once. It ends when the model expects next to nothing. See `surrogate.py`.
    """
    evidence = yield _whole(space.orders(1))
    generator = np.random.default_rng(seeds.derive(space.seed, "surrogate"))
    while chosen := models.choose_orders(space, evidence, settings.batch, generator):
        evidence = yield _whole(chosen)


def _whole(orders: Iterable[Order]) -> list[Trial]:
    """Trials of full length."""
    return [Trial(tuple(order)) for order in orders]


def _draw_orders(space: Space, generator: np.random.Generator) -> Iterable[Order]:
    """Different random orders of the greatest length, until all of them, or as good as all, have come."""
    drawn: set[Order] = set()
    repeated = 0
    while len(drawn) < space.count(space.longest) and repeated < MOST_REPEATED_DRAWS:
        order = space.draw(generator, space.longest)
        repeated = repeated + 1 if order in drawn else 0
        if order not in drawn:
            drawn.add(order)
            yield order


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        strategy.__name__: strategy
        for strategy in (
            exhaustive,
            greedy,
            beam,
            ranked,
            transfer_matrix,
            similarity,
            bandit,
            surrogate,
            random,
        )
    }
)
