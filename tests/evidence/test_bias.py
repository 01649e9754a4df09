"""iEAT against full enumeration, and corrections for many tests against values by hand."""

import itertools

import numpy as np
import pytest

from aiseeme_jax.evidence import bias


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def by_definition(x, y, a, b):
    """Effect size and p-values with a loop over every cosine and every partition."""

    def cosine(u, v):
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    s = [np.mean([cosine(w, u) for u in a]) - np.mean([cosine(w, u) for u in b]) for w in [*x, *y]]
    n, found = len(x), []
    for part in itertools.combinations(range(2 * n), n):
        rest = [i for i in range(2 * n) if i not in part]
        found.append(sum(s[i] for i in part) - sum(s[i] for i in rest))
    observed = sum(s[:n]) - sum(s[n:])
    effect = (np.mean(s[:n]) - np.mean(s[n:])) / np.std(s, ddof=1)
    found = np.array(found)
    return effect, np.mean(found >= observed - 1e-9), np.mean(found <= observed + 1e-9)


@pytest.mark.parametrize("count", [2, 4, 5])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.7])
def test_is_the_full_enumeration(count, shift):
    x, y, a, b = (normal(rows, 6, seed=seed) for seed, rows in enumerate((count, count, 3, 5)))
    x = x + shift * a.mean(axis=0)
    effect, p, opposite = by_definition(x, y, a, b)
    found = bias.associate(x, y, a, b, seed=0)
    assert bias.ieat(x, y, a, b, seed=0) == (found.effect_size, found.p_value)
    assert (found.effect_size, found.p_value) == pytest.approx((effect, p))
    assert found.p_two_sided == pytest.approx(min(1, 2 * min(p, opposite)))
    assert found.exact


def perfect(count):
    """Targets that are their attributes."""
    x, y = np.tile([1.0, 0.1], (count, 1)), np.tile([0.1, 1.0], (count, 1))
    return x + 1e-3 * normal(count, 2), y + 1e-3 * normal(count, 2, seed=1), np.eye(2)[:1], np.eye(2)[1:]


@pytest.mark.parametrize("count, partitions", [(4, 70), (6, 924), (7, 3432)])
def test_the_smallest_p_is_one_over_the_partitions(count, partitions):
    x, y, a, b = perfect(count)
    found = bias.associate(x, y, a, b, seed=0)
    assert (found.partitions, found.exact, found.p_value) == (partitions, True, pytest.approx(1 / partitions))
    other = bias.associate(y, x, a, b, seed=0)
    assert other.effect_size == pytest.approx(-found.effect_size)
    assert other.p_value == 1 and other.p_two_sided == pytest.approx(2 / partitions)


def test_more_than_seven_targets_are_sampled():
    found = bias.associate(*perfect(8), seed=0)
    # One of 12,870 partitions: it may be drawn, and counts once more.
    assert not found.exact and found.partitions == 10_000
    assert found.p_value >= 1 / 10_001 and found.p_value < 6 / 10_001
    assert found == bias.associate(*perfect(8), seed=0)


def test_sampled_p_values_are_near_those_of_all_partitions(monkeypatch):
    x, y, a, b = (normal(rows, 6, seed=seed) for seed, rows in enumerate((7, 7, 4, 4)))
    exact = bias.associate(x, y, a, b, seed=0)
    monkeypatch.setattr(bias, "_all_sums", None)
    monkeypatch.setattr(bias.math, "comb", lambda *_: 10**9)
    sampled = bias.associate(x, y, a, b, seed=0)
    assert not sampled.exact and sampled.p_value == pytest.approx(exact.p_value, abs=0.02)


def test_equal_targets_have_no_effect_and_p_one():
    x = np.ones((3, 4))
    found = bias.associate(x, x, normal(3, 4), normal(3, 4, seed=1), seed=0)
    assert np.isnan(found.effect_size) and found.p_value == found.p_two_sided == 1


def test_p_is_uniform_where_nothing_is_associated():
    attributes = normal(4, 5, seed=1), normal(4, 5, seed=2)
    found = [bias.ieat(normal(6, 5, seed=s), normal(6, 5, seed=s + 999), *attributes, seed=0)[1] for s in range(150)]
    assert np.mean(np.array(found) < 0.2) == pytest.approx(0.2, abs=0.08)


def test_corrections_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    assert bias.adjust_holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert bias.adjust_false_discovery(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert bias.adjust_holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_groups_of_networks_over_all_partitions():
    # The largest of 252 partitions, and one in the middle.
    assert bias.compare_groups([6, 7, 8, 9, 10], [1, 2, 3, 4, 5]) == pytest.approx((5, 1 / 252))
    assert bias.compare_groups([1, 1], [1, 1]) == pytest.approx((0, 1))
    # Of 184,756 partitions 10,000 are drawn.
    difference, p = bias.compare_groups(list(range(10, 20)), list(range(10)))
    assert difference == 10 and p < 3 / 10_001
    assert bias.count_below([0.001, 0.04, 0.05], (0.01, 0.05, 0.1)) == [1, 2, 3]


def by_patients(scores, sides, groups):
    """One-sided p and partitions with loops: each patient counts once on a side, and is never taken apart."""
    parts = sorted({(group, side) for group, side in zip(groups, sides, strict=True)})
    mean = {
        part: np.mean([s for s, *key in zip(scores, groups, sides, strict=True) if tuple(key) == part])
        for part in parts
    }
    alone = [part for part in parts if (part[0], "y" if part[1] == "x" else "x") not in parts]
    both = sorted({group for group, side in parts if (group, "x" if side == "y" else "y") in parts})
    count = sum(side == "x" for _, side in alone)
    found = []
    for chosen in itertools.combinations(range(len(alone)), count):
        for turned in itertools.product((False, True), repeat=len(both)):
            one = [mean[alone[i]] for i in chosen] + [
                mean[g, "y" if t else "x"] for g, t in zip(both, turned, strict=True)
            ]
            other = [mean[p] for i, p in enumerate(alone) if i not in chosen]
            other += [mean[g, "x" if t else "y"] for g, t in zip(both, turned, strict=True)]
            found.append(np.mean(one) - np.mean(other))
    observed = np.mean([mean[p] for p in parts if p[1] == "x"]) - np.mean([mean[p] for p in parts if p[1] == "y"])
    return np.mean(np.array(found) >= observed - 1e-12), len(found), observed / np.std(list(mean.values()), ddof=1)


@pytest.mark.parametrize("groups", [("aabbc", "ddeef"), ("aabcc", "ccdee"), ("abcde", "abcde"), ("aabbb", "cdd")])
def test_patients_change_sides_as_a_whole(groups):
    x, y, a, b = (normal(n, 4, seed=s) for s, n in enumerate((len(groups[0]), len(groups[1]), 3, 4)))
    found = bias.associate(x, y, a, b, seed=0, groups=tuple(map(list, groups)))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)]
    scores = [w @ unit[0].mean(0) / np.linalg.norm(w) - w @ unit[1].mean(0) / np.linalg.norm(w) for w in [*x, *y]]
    p, partitions, effect = by_patients(scores, "x" * len(x) + "y" * len(y), groups[0] + groups[1])
    assert (found.partitions, found.exact) == (partitions, True)
    assert (found.p_value, found.effect_size) == pytest.approx((p, effect))


def test_many_patients_are_drawn_and_p_is_near_that_of_all(monkeypatch):
    x, y, a, b = (normal(rows, 6, seed=seed) for seed, rows in enumerate((10, 10, 4, 4)))
    groups = (list("abcdefghij"), list("abcdklmnop"))
    drawn = bias.associate(x, y, a, b, seed=0, groups=groups)
    assert not drawn.exact and drawn.units == (10, 10)
    monkeypatch.setattr(bias, "MOST_PARTITIONS", 20_000)
    whole = bias.associate(x, y, a, b, seed=0, groups=groups)
    assert whole.exact and whole.partitions == 924 * 16
    assert drawn.p_value == pytest.approx(whole.p_value, abs=0.02)


def test_images_of_a_patient_are_no_further_evidence():
    """Nothing is associated. As independent images, copies of a patient's image would be significant far too often."""
    rejected = {"images": 0, "patients": 0}
    for seed in range(25):
        a, b = normal(4, 5, seed=seed + 1000), normal(4, 5, seed=seed + 2000)
        x, y = (np.repeat(normal(6, 5, seed=seed + start), 6, axis=0) for start in (0, 500))
        names = (np.repeat(np.arange(6), 6), np.repeat(np.arange(6, 12), 6))
        rejected["images"] += bias.associate(x, y, a, b, seed=0).p_two_sided < 0.05
        rejected["patients"] += bias.associate(x, y, a, b, seed=0, groups=names).p_two_sided < 0.05
    assert rejected["patients"] <= 3 and rejected["images"] >= 6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y": normal(4, 3)}, "as many targets x as y, at least 2 of each, got 3 and 4"),
        ({"a": normal(4, 2)}, r"features of one length, got \[3, 3, 2, 3\]"),
        ({"b": np.zeros((2, 3))}, "row 0 of b is 0"),
        ({"x": np.full((3, 3), np.inf)}, "finite features, x has others"),
        ({"a": np.zeros((0, 3))}, r"got a \(0, 3\)"),
    ],
)
def test_what_cannot_be_tested_is_named(change, message):
    sets = {name: normal(3, 3, seed=seed) for seed, name in enumerate("xyab")} | change
    with pytest.raises(ValueError, match=message):
        bias.ieat(**sets, seed=0)


def test_bad_p_values_and_groups_are_named():
    with pytest.raises(ValueError, match="from 0 to 1"):
        bias.adjust_holm([0.5, 1.5])
    with pytest.raises(ValueError, match="at least one network"):
        bias.compare_groups([], [1.0])
