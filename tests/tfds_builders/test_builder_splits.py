"""Splits by group: whole groups, true shares, stable, every class everywhere; joining of groups."""

from collections import Counter

import numpy as np
import pytest

from tfds_builders.common.splits import join_groups, joined_names, renamed, split_by_group, split_of

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def many(seed=0, groups=400):
    random = np.random.default_rng(seed)
    labels, names = [], []
    for group in range(groups):
        label = random.choice(["a", "b", "c"], p=[0.8, 0.15, 0.05])
        size = int(random.choice([1, 2, 8], p=[0.7, 0.25, 0.05]))
        names += [f"g{group}"] * size
        labels += [str(label)] * size
    return names, labels


def test_groups_stay_whole_and_every_row_is_used_once():
    names, labels = many()
    splits = split_by_group(names, labels, 0, FRACTIONS)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(names)))
    inside = [{names[row] for row in rows} for rows in splits.values()]
    assert sum(map(len, inside)) == len(set(names))


def test_shares_hold_in_every_class_and_for_large_groups():
    names, labels = many()
    splits = split_by_group(names, labels, 0, FRACTIONS)
    labels, sizes = np.array(labels), np.array([names.count(name) for name in names])
    for split, share in FRACTIONS.items():
        for label in "abc":
            wanted = share * np.sum(labels == label)
            assert abs(np.sum(labels[splits[split]] == label) - wanted) <= 4
        assert abs(np.sum(sizes[splits[split]] == 8) - share * np.sum(sizes == 8)) <= 16


def test_the_seed_decides_and_the_order_of_rows_does_not():
    names, labels = many()
    first = split_by_group(names, labels, 0, FRACTIONS)
    order = np.random.default_rng(1).permutation(len(names))
    shuffled = split_by_group([names[i] for i in order], [labels[i] for i in order], 0, FRACTIONS)
    other = split_by_group(names, labels, 1, FRACTIONS)
    assert sorted(order[shuffled["test"]]) == first["test"].tolist()
    assert other["test"].tolist() != first["test"].tolist()


def test_a_class_of_three_groups_is_in_every_split():
    names = [f"g{i}" for i in range(103)]
    labels = ["common"] * 100 + ["rare"] * 3
    splits = split_by_group(names, labels, 0, FRACTIONS)
    assert all(any(labels[row] == "rare" for row in rows) for rows in splits.values())


@pytest.mark.parametrize("fractions", [{"train": 0.7, "test": 0.2}, {"train": 1.2, "test": -0.2}])
def test_wrong_fractions(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_group(["a"], ["x"], 0, fractions)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 groups but 1 labels"):
        split_by_group(["a", "b"], ["x"], 0, FRACTIONS)


def test_joining_is_transitive():
    groups = ["d", "a", "c", "b", "b", "e"]
    digests = [1, 2, 1, 2, 1, 3]
    assert join_groups(groups, digests) == ["a", "a", "a", "a", "a", "e"]


def test_joined_groups_are_told_by_all_their_names():
    groups = ["d", "a", "c", "b", "b", "e"]
    names = renamed(groups, join_groups(groups, [1, 2, 1, 2, 3, 4]))
    assert names == {"b": "a", "d": "c"} and joined_names(names) == [["a", "b"], ["c", "d"]]


def test_a_group_keeps_its_split_when_others_come_and_go():
    groups = [f"patient {number}" for number in range(3000)]
    before = {group: split_of(group, seed=3) for group in groups[::7]}
    assert before == {group: split_of(group, seed=3) for group in groups if group in before}
    assert before != {group: split_of(group, seed=4) for group in before}


def test_groups_are_drawn_by_the_fractions():
    fractions = {"train": 0.5, "validation": 0.2, "test": 0.3}
    drawn = Counter(split_of(f"patient {number}", 0, fractions) for number in range(20_000))
    for split, fraction in fractions.items():
        # Five standard deviations of the share of 20,000 independent draws.
        assert abs(drawn[split] / 20_000 - fraction) < 5 * (fraction * (1 - fraction) / 20_000) ** 0.5
