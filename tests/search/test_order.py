"""Strategies on tables of made-up scores: what they find, and how many stages they train."""

import itertools
import math

import numpy as np
import pytest
from tables import Table, additive, best_of, search

from aiseeme_jax.errors import UserError
from aiseeme_jax.search import order
from aiseeme_jax.search.order import STRATEGIES, find_best_path, find_strategy
from aiseeme_jax.search.trials import START, Trial

GAINS = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}


def total(trial):
    return sum(GAINS[name] for name in trial.order)


def names(trials):
    return ["".join(trial.order) for trial in trials]


class TestEveryStrategy:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_trains_no_stage_twice_and_each_after_the_one_before_it(self, strategy):
        table = Table(additive(1, "abcd"), error=0.01)
        search(strategy, table, batch=2, candidates=4, keep=2, shortest=0.5)
        assert len(set(table.trained)) == len(table.trained) > 3
        known = {START}
        for trial in table.trained:
            assert Trial(trial.order[:-1], trial.share) in known or len(trial.order) == 1
            known.add(trial)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_a_second_run_asks_for_the_same_in_the_same_rounds(self, strategy):
        tables = [Table(additive(2, "abcde"), error=0.01) for _ in range(2)]
        for table in tables:
            search(strategy, table, "abcde", candidates=4)
        assert tables[0].rounds == tables[1].rounds

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_keeps_to_the_budget(self, strategy):
        table = Table(additive(3, "abcdef"))
        outcome = search(strategy, table, "abcdef", length=4, budget=7, margin=-math.inf)
        assert sum(trial.share for trial in table.trained) == pytest.approx(outcome.stages) and outcome.stages <= 7
        assert outcome.stopped

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_a_diverged_training_is_never_the_best(self, strategy):
        table = Table(lambda trial: math.nan if "b" in trial.order else total(trial))
        outcome = search(strategy, table, candidates=24, keep=2, shortest=1.0)
        assert "b" not in outcome.ranking()[0].order

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_a_pool_of_one_task_is_no_obstacle(self, strategy):
        assert search(strategy, Table(lambda trial: 1.0), "a").ranking() == [Trial(("a",))]

    def test_unknown_name_names_the_known_ones(self):
        with pytest.raises(UserError, match="unknown strategy 'greed': known are exhaustive, greedy, beam"):
            find_strategy("greed")


class TestExhaustive:
    def test_trains_each_prefix_once(self):
        table = Table(total)
        outcome = search("exhaustive", table)
        assert [len(wanted) for wanted in table.rounds] == [1, 4, 12, 24]
        assert outcome.stages == 40 and not outcome.stopped

    def test_finds_the_best(self):
        value = additive(5, "abcd", pairs=1.0)
        outcome = search("exhaustive", Table(value), length=4)
        assert outcome.ranking()[0].order == best_of(value, "abcd", 4)

    def test_with_repetition_has_every_word(self):
        outcome = search("exhaustive", Table(total), "ab", length=3, repeat=True)
        assert outcome.stages == 2 + 4 + 8 and "".join(outcome.ranking()[0].order) == "bbb"

    def test_of_equal_orders_the_shorter_is_the_best(self):
        assert search("exhaustive", Table(lambda trial: 1.0)).ranking()[0].order == ("a",)


class TestGreedy:
    def test_extends_by_the_task_that_helps_most(self):
        table = Table(total)
        assert "".join(search("greedy", table).ranking()[0].order) == "bdc"
        assert [len(wanted) for wanted in table.rounds] == [1, 4, 3, 2]

    @pytest.mark.parametrize("error, found", [(0.05, "bdc"), (0.25, "b")])
    def test_stops_when_no_task_helps_by_more_than_its_uncertainty(self, error, found):
        """The difference of two scores of error e has error e √2; d helps by 0.3."""
        table = Table(total, error=error)
        search("greedy", table)
        assert len(table.rounds) == (4 if found == "bdc" else 3)

    def test_takes_the_first_task_even_if_it_does_not_help(self):
        assert search("greedy", Table(lambda trial: -1.0 * len(trial.order))).ranking()[0].order == ("a",)

    def test_ends_if_everything_diverges(self):
        table = Table(lambda trial: math.nan)
        assert search("greedy", table).ranking() == [] and len(table.rounds) == 3


class TestBeam:
    def test_finds_what_greedy_misses(self):
        scores = {"a": 1.0, "b": 0.9, "ab": 1.1, "ba": 1.0, "ac": 1.1, "bc": 1.9}

        def value(trial):
            return scores.get("".join(trial.order), 0.0)

        assert names(search("greedy", Table(value), "abc", length=2).ranking()[:1]) == ["ab"]
        table = Table(value)
        assert names(search("beam", table, "abc", length=2, width=2).ranking()[:1]) == ["bc"]
        assert [len(wanted) for wanted in table.rounds] == [1, 3, 4]

    def test_of_width_one_is_greedy_without_a_stop(self):
        table = Table(total)
        search("beam", table, width=1, length=4)
        assert [len(wanted) for wanted in table.rounds] == [1, 4, 3, 2, 1]


def test_ranked_tries_the_best_tasks_ascending_and_descending():
    table = Table(total)
    search("ranked", table)
    assert {"cdb", "bdc"} <= set(names(table.trained)) and len(table.trained) == 4 + 2 + 2


class TestTransferMatrix:
    def test_measures_all_pairs_and_then_the_best_path_of_each_length(self):
        value = additive(7, "abcd", pairs=0.0)
        table = Table(value)
        outcome = search("transfer_matrix", table, length=4)
        assert [len(wanted) for wanted in table.rounds[:3]] == [1, 4, 12]
        assert len(table.trained) <= 16 + 2 + 2
        assert value(outcome.ranking()[0]) == pytest.approx(value(Trial(best_of(value, "abcd", 4))))

    @pytest.mark.parametrize("repeat", [False, True])
    @pytest.mark.parametrize("length", [2, 3, 4])
    def test_the_path_is_the_best_of_all(self, length, repeat):
        random = np.random.default_rng(length)
        alone = {name: random.standard_normal() for name in "abcde"}
        pairs = itertools.product("abcde", repeat=2) if repeat else itertools.permutations("abcde", 2)
        gains = {pair: random.standard_normal() for pair in pairs}
        every = itertools.product("abcde", repeat=length) if repeat else itertools.permutations("abcde", length)

        def value(path):
            return alone[path[0]] + sum(gains[pair] for pair in itertools.pairwise(path))

        assert find_best_path(alone, gains, length, repeat) == max(every, key=value)

    def test_without_gains_there_is_no_path(self):
        assert find_best_path({"a": 1.0}, {}, 2, False) == ()


def test_similarity_follows_the_nearest_and_the_farthest_from_the_best():
    place = {"a": 0.2, "b": 1.0, "c": 3.0, "d": 1.5}
    near = lambda one, other: 1 / (1 + abs(place[one[0]] - place[other[0]]))  # noqa: E731
    table = Table(total, similarity=near)
    search("similarity", table)
    assert [name for name in names(table.trained) if len(name) == 3] == ["bda", "bca"]


class TestBandit:
    def test_trains_the_rungs_of_successive_halving(self):
        """27 candidates at a ninth of their length, 9 at a third, 3 at full length."""
        table = Table(lambda trial: len(set(trial.order) & set("abc")))
        search("bandit", table, "abcdefgh", length=2)
        arms = [{trial.order for trial in wanted if len(trial.order) == 2} for wanted in table.rounds[1:]]
        assert list(map(len, arms)) == [27, 9, 3]
        assert [wanted[0].share for wanted in table.rounds[1:]] == pytest.approx([1 / 9, 1 / 3, 1])
        assert arms[2] < arms[1] < arms[0]

    def test_a_shortened_stage_costs_its_share(self):
        outcome = search("bandit", Table(total), candidates=3, keep=3, shortest=1 / 3, length=1)
        assert outcome.stages == pytest.approx(3 / 3 + 1)

    def test_only_whole_trainings_are_ranked(self):
        table = Table(lambda trial: 1.0 - trial.share)
        assert {trial.share for trial in search("bandit", table).ranking()} == {1.0}


class TestRandom:
    def test_draws_every_order_once(self):
        table = Table(total)
        outcome = search("random", table, "abc", batch=4)
        assert len({trial for trial in table.trained if len(trial.order) == 3}) == 6
        assert len(table.trained) == 3 + 6 + 6 and not outcome.stopped

    def test_another_seed_draws_others(self):
        drawn = [Table(total) for _ in range(2)]
        for seed, table in enumerate(drawn):
            search("random", table, seed=seed, budget=6)
        assert drawn[0].rounds[1] != drawn[1].rounds[1]


def test_the_table_has_each_strategy_under_its_own_name():
    assert all(getattr(order, name) is strategy for name, strategy in STRATEGIES.items())
