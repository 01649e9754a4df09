"""Subgroups: values against a measurement of their images alone, gaps by chance, and groups that carry no interval."""

import functools

import numpy as np
import pytest

from aiseeme_jax.evaluate import bootstrap
from aiseeme_jax.evidence import subgroups as s

STATISTICS = {"samples": 300, "seed": 0}


def share_called(called, counted, weights, inside):
    """The sensitivity: the share of the counted images that are called."""
    weights = weights * (inside & counted)
    total = weights.sum(axis=-1)
    return np.divide(weights @ called, total, out=np.full(len(weights), np.nan), where=total > 0)


def make_case(patients, rates, seed=0, images=2):
    """Patients with several images, dealt to subgroups that are called with different rates."""
    rng = np.random.default_rng(seed)
    names = np.array([f"g{i}" for i in range(len(rates))], object)
    member = np.repeat(np.arange(patients), images)
    of_patient = np.arange(patients) % len(rates)
    called = (rng.random(patients) < np.asarray(rates)[of_patient])[member]
    return names[of_patient][member], [f"p{m}" for m in member], called


def test_names():
    assert s.name_subgroups(["male", "", " female ", "unknown"]) == ["male", "unknown", "female", "unknown"]
    ages = np.array([0, 19.9, 20, 45, 80, 95, np.nan, -1], np.float32)
    bands = ["0–19", "0–19", "20–39", "40–59", "80+", "80+", "unknown", "unknown"]
    assert s.name_subgroups(ages, "age") == bands
    assert s.name_subgroups(np.array([1.5, np.nan]), "kv") == ["1.5", "unknown"]


def test_values_are_those_of_the_subgroup_alone():
    names, groups, called = make_case(60, [0.9, 0.5])
    everyone = np.ones(len(names), bool)
    found = s.Subgroups(names, groups, **STATISTICS)
    measure = functools.partial(share_called, called, everyone)
    drawn = found.measure(measure, everyone)
    for row in found.describe([drawn], everyone, called):
        inside = names == row.name
        assert (row.images, row.groups) == (60, 30)
        assert row.positives == called[inside].sum() / 2
        assert row.value == pytest.approx(called[inside].mean())
        _, low, high = bootstrap.bootstrap_ci(
            lambda labels, probs: probs.mean(),
            called[inside],
            called[inside],
            groups=np.array(groups)[inside],
            samples=2000,
            seed=1,
        )
        assert (row.low, row.high) == pytest.approx((low, high), abs=0.05)


def test_a_subgroup_of_one_has_a_value_and_no_interval_and_unknown_is_last():
    names, groups, called = make_case(40, [0.7])
    names = names.copy()
    names[:2], names[2:30] = "unknown", "zzz"
    everyone = np.ones(len(names), bool)
    found = s.Subgroups(names, groups, **STATISTICS)
    rows = found.describe(
        [found.measure(functools.partial(share_called, called, everyone), everyone)], everyone, called
    )
    assert [row.name for row in rows] == ["g0", "zzz", "unknown"]
    assert np.isfinite([rows[0].low, rows[1].low]).all()
    assert rows[2].value == called[0]
    assert np.isnan([rows[2].low, rows[2].high]).all()


def test_a_subgroup_without_a_positive_has_no_value_and_no_part_in_the_gap():
    names, groups, called = make_case(40, [0.7, 0.7, 0.7])
    counted = names != "g2"
    found = s.Subgroups(names, groups, **STATISTICS)
    measure = functools.partial(share_called, called, counted)
    drawn = found.measure(measure, counted)
    rows = found.describe([drawn], counted, counted)
    assert np.isnan(rows[2].value)
    gap = found.measure_gap([measure], [drawn], counted, np.zeros(len(names), int), deals=20)
    assert {gap.highest, gap.lowest} == {"g0", "g1"}
    alone = s.Subgroups(np.full(80, "g0", object), groups, **STATISTICS)
    everyone = np.ones(80, bool)
    measure = functools.partial(share_called, called, everyone)
    gap = alone.measure_gap([measure], [alone.measure(measure, everyone)], everyone, np.zeros(80, int), deals=20)
    assert gap.highest == ""
    assert np.isnan([gap.value, gap.p_value, gap.by_chance]).all()


@pytest.mark.parametrize(("subgroups", "positives", "expected"), [(2, 50, 0.063), (4, 50, 0.116)])
def test_the_gap_by_chance(subgroups, positives, expected):
    """The golden values of equal subgroups with a sensitivity of .8."""
    found = []
    for seed in range(30):
        names, groups, called = make_case(subgroups * positives, [0.8] * subgroups, seed, images=1)
        everyone = np.ones(len(names), bool)
        measure = functools.partial(share_called, called, everyone)
        made = s.Subgroups(names, groups, samples=1, seed=seed)
        gap = made.measure_gap(
            [measure], [made.measure(measure, everyone)], everyone, np.zeros(len(names), int), deals=200
        )
        found.append((gap.value, gap.by_chance, gap.p_value <= 0.05))
    value, chance, rejected = np.mean(found, axis=0)
    assert chance == pytest.approx(expected, rel=0.12)
    assert value == pytest.approx(expected, rel=0.35)
    assert rejected <= 0.2


def test_a_true_gap_is_found():
    names, groups, called = make_case(120, [0.9, 0.4])
    everyone = np.ones(len(names), bool)
    measure = functools.partial(share_called, called, everyone)
    found = s.Subgroups(names, groups, **STATISTICS)
    gap = found.measure_gap([measure], [found.measure(measure, everyone)], everyone, np.zeros(len(names), int))
    assert (gap.highest, gap.lowest, gap.smallest, gap.smallest_counted) == ("g0", "g1", 120, 60)
    assert gap.by_chance < gap.by_chance_95 < gap.low < gap.value < gap.high
    assert gap.p_value == pytest.approx(1 / 501)


def test_the_fewest_that_a_metric_counts_stand_beside_a_gap():
    names, groups, called = make_case(120, [0.9, 0.4])
    counted = np.arange(len(names)) % 120 < np.where(np.asarray(names) == "g0", 30, 24)
    measure = functools.partial(share_called, called, counted)
    found = s.Subgroups(names, groups, **STATISTICS)
    gap = found.measure_gap([measure], [found.measure(measure, counted)], counted, np.zeros(len(names), int), deals=9)
    assert gap.smallest == 120
    assert gap.smallest_counted == min(len(set(np.asarray(groups)[counted & found.rows(g)])) for g in ("g0", "g1"))


def test_subgroups_intersect():
    sex, age = ["f", "m", "unknown", "unknown"], ["0–19", "unknown", "80+", "unknown"]
    assert s.intersect([sex, age]) == ["f, 0–19", "m, unknown", "unknown, 80+", "unknown"]
    assert s.intersect([sex]) == sex


def test_whole_patients_of_one_class_exchange_their_attribute():
    names = np.array(["a", "a", "b", "b", "a", "c", "c"], object)
    members, strata = np.array([0, 0, 1, 1, 2, 3, 3]), np.array([0, 0, 0, 0, 1, 1, 1])
    dealt = s.deal_attribute(names, members, strata, 50, seed=0)
    assert dealt.shape == (50, 7)
    assert (dealt[:, 0] == dealt[:, 1]).all()
    assert (dealt[:, 2] == dealt[:, 3]).all()
    assert {tuple(sorted(set(row[:4]))) for row in dealt} == {("a", "b")}
    assert {tuple(sorted(set(row[4:]))) for row in dealt} == {("a", "c")}
    assert len({tuple(row) for row in dealt}) == 4


def test_equalised_odds_are_the_larger_gap():
    one, other = (s.Gap("a", "b", value, 0, 0, 0, 0, 1, 5, 5) for value in (0.1, 0.3))
    assert s.larger_gap(one, other) is other
    nothing = s.Gap("", "", *[np.nan] * 6, 0, 0)
    assert s.larger_gap(nothing, one) is one
