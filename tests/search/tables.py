"""Tables of made-up scores, on which strategies are tested without training."""

import itertools
import math

import numpy as np

from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.search import order, trials
from aiseeme_jax.search.trials import START, Settings, Space, Trial


class Table:
    """Scores of orders by a function, and what a search asked for."""

    def __init__(self, value, *, error=0.0, similarity=lambda a, b: 0.0, seed=0):
        self.value, self.error, self.similarity = value, error, similarity
        self.generator = np.random.default_rng(seed)
        self.rounds: list[list[Trial]] = []

    def score(self, wanted):
        self.rounds.append(list(wanted))
        return {trial: self.score_one(trial) for trial in wanted}

    def score_one(self, trial):
        value = 0.0 if trial == START else self.value(trial)
        draws = value + self.error * self.generator.standard_normal(2000)
        return Score(value, draws if self.error else np.zeros(0))

    @property
    def trained(self):
        """Every stage that was trained, each as often as it was asked for."""
        return [trial for wanted in self.rounds for trial in wanted if trial != START]


def search(strategy, table, pool="abcd", *, length=3, repeat=False, seed=0, budget=math.inf, **settings):
    space = Space(tuple(pool), length, repeat, seed)
    proposals = order.find_strategy(strategy)(space, Settings(**settings))
    return trials.run(proposals, table.score, table.similarity, budget)


def additive(seed, pool, *, pairs=0.5, noise=0.0):
    """A gain for each task, less for each further one, and an effect for each pair of tasks in their order."""
    generator = np.random.default_rng(seed)
    gain = dict(zip(pool, generator.standard_normal(len(pool)), strict=True))
    before = {pair: pairs * generator.standard_normal() for pair in itertools.permutations(pool, 2)}
    error = {}

    def value(trial):
        names = trial.order
        if names not in error:
            error[names] = noise * generator.standard_normal()
        return sum(map(gain.get, names)) + sum(before[p] for p in itertools.combinations(names, 2)) + error[names]

    return value


def best_of(value, pool, length):
    """The best order up to a length, by trying all."""
    everything = [p for count in range(1, length + 1) for p in itertools.permutations(pool, count)]
    return max(everything, key=lambda names: value(Trial(names)))
