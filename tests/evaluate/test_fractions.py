"""Label fractions: nested, stratified, whole groups."""

import numpy as np
import pytest

from aiseeme_jax.evaluate.fractions import draw_shots, in_words, nested_fraction

FRACTIONS = (0.01, 0.05, 0.1, 0.33, 0.5, 0.9, 1.0)


def lesions(seed=0, groups=400):
    """Unbalanced classes, one to six photographs per lesion."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(groups), rng.integers(1, 7, groups))
    labels = rng.choice(4, groups, p=[0.7, 0.2, 0.08, 0.02])[member]
    order = rng.permutation(len(member))
    return labels[order], [f"lesion-{g}" for g in member[order]]


def patients():
    """Patients whose images differ in class; class 0 occurs only beside rarer ones."""
    labels = np.array([0, 0, 1, 0, 0, 1, 0, 0, 2, 0, 0, 2, 2])
    groups = ["a", "a", "a", "b", "b", "b", "c", "c", "c", "d", "d", "d", "e"]
    return labels, groups


def findings(seed=0, groups=300):
    """Patients with several findings, common and rare, some not known; most have none."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(groups), rng.integers(1, 5, groups))
    labels = (rng.random((len(member), 3)) < [0.3, 0.1, 0.02]).astype(np.float32)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    labels[:, 0] = np.nan_to_num(labels[:, 0])
    return labels, [f"patient-{g}" for g in member]


def names_in(labels):
    """Of every row: its class, or the findings that are present."""
    return [{c} for c in labels] if labels.ndim == 1 else [set(np.flatnonzero(row == 1)) or {"none"} for row in labels]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", [lesions, patients, findings])
def test_nested_whole_groups_and_every_class(case, seed):
    labels, groups = case()
    smaller = np.array([], int)
    for fraction in FRACTIONS:
        rows = nested_fraction(labels, groups, fraction, seed)
        assert (np.diff(rows) > 0).all()
        assert set(smaller) <= set(rows)
        chosen = {groups[i] for i in rows}
        assert set(rows) == {i for i, g in enumerate(groups) if g in chosen}
        assert set().union(*names_in(labels[rows])) == set().union(*names_in(labels))
        smaller = rows
    np.testing.assert_array_equal(smaller, np.arange(len(labels)))


def test_each_class_keeps_its_share():
    labels, groups = lesions(groups=2000)
    rows = nested_fraction(labels, groups, 0.3, 0)
    shares = np.bincount(labels[rows]) / np.bincount(labels)
    # Within half of the largest group of 6.
    assert (np.abs(shares - 0.3) <= 3 / np.bincount(labels)).all()


def test_each_finding_keeps_its_share():
    """Groups belong to the rarest finding of their rows: the rarest keeps its share best."""
    labels, groups = findings(groups=2000)
    rows = nested_fraction(labels, groups, 0.3, 0)
    shares = np.nansum(labels[rows], axis=0) / np.nansum(labels, axis=0)
    np.testing.assert_allclose(shares, 0.3, atol=0.06)
    assert abs(len(rows) / len(labels) - 0.3) < 0.02


def test_a_rare_class_keeps_one_group():
    labels = np.array([0] * 100 + [1] * 3)
    groups = [str(i) for i in range(100)] + ["rare", "rare", "rare"]
    rows = nested_fraction(labels, groups, 0.01, 0)
    assert np.bincount(labels[rows]).tolist() == [1, 3]


def test_the_seed_chooses_and_the_order_of_rows_does_not():
    labels, groups = lesions()
    rows = nested_fraction(labels, groups, 0.1, 0)
    np.testing.assert_array_equal(rows, nested_fraction(labels, groups, 0.1, 0))
    assert set(rows) != set(nested_fraction(labels, groups, 0.1, 1))
    back = nested_fraction(labels[::-1], groups[::-1], 0.1, 0)
    assert {groups[i] for i in rows} == {groups[::-1][i] for i in back}


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_named(fraction):
    with pytest.raises(ValueError, match="must lie in"):
        nested_fraction([0, 1], ["a", "b"], fraction, 0)


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match="one group per label"):
        nested_fraction([0, 1], ["a"], 0.5, 0)
    for unlabelled in ([0, -1], [[1.0, np.nan], [np.nan, np.nan]]):
        with pytest.raises(ValueError, match="row 1 has no label"):
            nested_fraction(unlabelled, ["a", "b"], 0.5, 0)


def test_in_words():
    assert [in_words(f) for f in (0.01, 0.125, 1.0)] == ["1 % of the labels", "12.5 % of the labels", "all labels"]


class TestShots:
    @pytest.mark.parametrize("seed", range(3))
    def test_so_many_of_each_class_and_nested(self, seed):
        labels, groups = lesions()
        there, smaller = np.bincount(labels), np.array([], int)
        for shots in (1, 2, 8, 96):
            rows = draw_shots(labels, groups, shots, seed)
            assert (np.diff(rows) > 0).all() and set(smaller) <= set(rows)
            np.testing.assert_array_equal(np.bincount(labels[rows]), np.minimum(there, shots))
            smaller = rows

    def test_of_other_lesions_before_the_same_one_again(self):
        labels, groups = np.zeros(7, int), ["a"] * 4 + ["b"] * 2 + ["c"]
        for shots, most in ((3, 1), (5, 2), (6, 3)):
            rows = draw_shots(labels, groups, shots, 0)
            assert max(np.unique(np.array(groups)[rows], return_counts=True)[1]) == most

    def test_other_seeds_draw_others_and_the_order_of_the_rows_does_not_matter(self):
        labels, groups = lesions()
        rows = draw_shots(labels, groups, 4, 0)
        assert set(rows) != set(draw_shots(labels, groups, 4, 1))
        back = draw_shots(labels[::-1], groups[::-1], 4, 0)
        assert sorted(np.array(groups)[rows]) == sorted(np.array(groups[::-1])[back])

    def test_none_are_an_error(self):
        with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
            draw_shots([0, 1], ["a", "b"], 0, 0)

    def test_in_words(self):
        assert [in_words(1.0, shots) for shots in (0, 1, 8)] == [
            "all labels",
            "1 label of each class",
            "8 labels of each class",
        ]
