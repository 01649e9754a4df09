"""Searches of a learning rate and a batch size on made-up scores, without training."""

import math

import pytest
from ml_collections import FrozenConfigDict

from aiseeme_jax.curriculum.trials import Candidate
from aiseeme_jax.search import hparams
from aiseeme_jax.search.hparams import Run, Space
from configs import base

BATCHES = (32, 64, 128)
SPACE = Space(Candidate(0.1, 64), BATCHES, 1 / 8, 8.0, "by_optimizer", "sgd")


def search(**changes):
    return FrozenConfigDict(base.tuning(auto=("learning_rate", "batch_size"), share=1.0, batches=BATCHES, **changes))


def run(fields, score, space=SPACE, seed=0):
    """Scores of all runs, in the order in which they were proposed."""
    found = {}
    proposals = hparams.propose(space, fields, seed)
    runs = next(proposals)
    try:
        while True:
            found |= {one: score(one) for one in runs}
            runs = proposals.send({one: found[one] for one in runs})
    except StopIteration:
        return found


def peak(one):
    """Best at a rate of 0.4 on batches of 128; longer trainings score a little higher."""
    distance = math.log(one.candidate.learning_rate / 0.4) ** 2 + (one.candidate.batch_size != 128)
    return 0.9 - 0.05 * distance + 0.01 * one.share


class TestBrackets:
    def test_of_halving_are_golden(self):
        fields = search(pruner="halving", trials=27, rungs=4, keep=3)
        (rungs,) = hparams.list_brackets(fields)
        assert [(count, round(27 * share)) for count, share in rungs] == [(27, 1), (9, 3), (3, 9), (1, 27)]

    def test_of_hyperband_are_golden(self):
        brackets = hparams.list_brackets(search(pruner="hyperband", rungs=5, keep=3))
        firsts = [(bracket[0][0], round(81 * bracket[0][1])) for bracket in brackets]
        assert firsts == [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]
        assert [count for count, _ in brackets[0]] == [81, 27, 9, 3, 1]
        assert all(bracket[-1][1] == 1.0 for bracket in brackets)

    def test_without_pruning_are_rounds_of_whole_trials(self):
        assert hparams.list_brackets(search(pruner="none", trials=7, round=3)) == [[(3, 1.0)], [(3, 1.0)], [(1, 1.0)]]

    def test_of_few_candidates_end_where_none_is_left(self):
        (rungs,) = hparams.list_brackets(search(trials=4, rungs=4, keep=3))
        assert [count for count, _ in rungs] == [4, 1]


class TestSearch:
    @pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
    def test_finds_the_best_of_a_table(self, sampler):
        fields = search(sampler=sampler, pruner="none", trials=40, round=4, points=7)
        found = run(fields, peak)
        best = hparams.find_best(found)
        # A grid of 7 points has 21.
        assert len(found) == 21 if sampler == "grid" else len(found) <= 40
        assert best.candidate.batch_size == 128 and 0.2 < best.candidate.learning_rate < 0.8

    def test_tpe_learns_from_its_rounds(self):
        fields = {name: search(sampler=name, pruner="none", trials=30, round=3) for name in ("tpe", "random")}
        late = {}
        for name, one in fields.items():
            scores = [score for seed in range(3) for score in list(run(one, peak, seed=seed).values())[15:]]
            late[name] = sum(scores) / len(scores)
        assert late["tpe"] > late["random"] + 0.03

    def test_halving_keeps_the_best(self):
        found = run(search(pruner="halving", trials=9, rungs=3, keep=3), peak)
        lengths = sorted({one.share for one in found})
        of = {share: [one for one in found if one.share == share] for share in lengths}
        assert [len(of[share]) for share in lengths] == [9, 3, 1]
        first = sorted(of[lengths[0]], key=peak, reverse=True)
        assert {one.candidate for one in of[lengths[1]]} == {one.candidate for one in first[:3]}
        assert hparams.find_best(found) == of[1.0][0]

    def test_begins_with_the_published_setting(self):
        assert next(hparams.propose(SPACE, search(), 0))[0].candidate == SPACE.published

    def test_depends_on_scores_and_seed_alone(self):
        fields = search(pruner="none", trials=12)
        assert list(run(fields, peak).items()) == list(run(fields, peak).items())
        assert run(fields, peak).keys() != run(fields, peak, seed=1).keys()
        assert run(fields, peak).keys() != run(fields, lambda one: -peak(one)).keys()

    def test_a_candidate_that_does_not_improve_is_given_up(self):
        def score(one):
            # The published setting is the best, and gets worse with length.
            return 1 - 0.1 * one.share if one.candidate == SPACE.published else 0.5 + 0.1 * one.share

        lasting = [one.candidate for one in run(search(trials=9, patience=2), score) if one.share == 1]
        ended = [one.candidate for one in run(search(trials=9, patience=1), score) if one.share == 1]
        assert lasting == [SPACE.published] and ended == []

    def test_one_that_diverged_is_the_worst_and_is_not_kept(self):
        def score(one):
            return math.nan if one.candidate.learning_rate > 0.1 else peak(one)

        found = run(search(trials=9), score)
        assert all(math.isfinite(value) for one, value in found.items() if one.share > 1 / 9)
        assert hparams.find_best(found).candidate.learning_rate <= 0.1
        assert hparams.find_best({one: math.nan for one in found}) is None

    def test_if_all_diverge_it_ends(self):
        assert len(run(search(trials=9), lambda one: math.nan)) == 9
        assert len(run(search(pruner="none", trials=6), lambda one: math.nan)) == 6

    def test_scores_of_different_lengths_are_not_compared(self):
        short, long = Run(Candidate(0.1, 64), 0.1), Run(Candidate(0.2, 64), 1.0)
        assert hparams.find_best({short: 0.9, long: 0.8}) == long
        assert hparams.find_best({short: 0.9, long: math.nan}) == short


class TestSpace:
    @pytest.mark.parametrize(
        "optimizer, rates", [("sgd", (0.05, 0.2)), ("lars", (0.05, 0.2)), ("adamw", (0.0707, 0.141))]
    )
    def test_rates_lie_around_the_scaled_published_one(self, optimizer, rates):
        space = Space(Candidate(0.1, 64), BATCHES, 1.0, 1.0, "by_optimizer", optimizer)
        found = [space.make(1.0, batch).learning_rate for batch in (32, 128)]
        assert found == pytest.approx(rates, rel=1e-2)

    def test_stays_within_its_bounds(self):
        narrow = Space(Candidate(0.1, 64), (64,), 2.0, 4.0, "by_optimizer", "sgd")
        rates = [one.candidate.learning_rate for one in run(search(trials=20, pruner="none"), peak, narrow)]
        assert 0.2 <= min(rates) < 0.25 and 0.35 < max(rates) <= 0.4

    def test_of_batches_alone_has_one_rate_for_each(self):
        fixed = Space(Candidate(0.1, 64), BATCHES, 1.0, 1.0, "by_optimizer", "sgd")
        found = run(search(trials=12, pruner="none"), peak, fixed)
        assert {one.candidate for one in found} == {Candidate(0.05, 32), Candidate(0.1, 64), Candidate(0.2, 128)}
