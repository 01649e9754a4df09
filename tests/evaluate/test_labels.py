"""What differs between labels of one class and labels of several findings."""

import numpy as np
import pytest
from sklearn import metrics as sk

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.labels import ClassLabels, FindingLabels, make_labels

FINDINGS = np.array([[1, 0, np.nan], [0, 0, 1], [0, np.nan, 1], [0, 0, 1]], np.float32)


def test_the_shape_says_the_kind():
    assert isinstance(make_labels([0, 1]), ClassLabels) and isinstance(make_labels([[0, 1]]), FindingLabels)
    assert make_labels([0, 1], 5).count == 5 and make_labels(FINDINGS).count == 3
    with pytest.raises(ValueError, match=r"must be \[N\] \(classes\) or \[N, C\] \(findings\) with N > 0, got \(0,\)"):
        make_labels([])


def test_what_is_measured():
    labels = make_labels([0, 2, 2], 4)
    assert labels.measured.tolist() == [0, 2] and labels.learnable
    assert not make_labels([1, 1], 3).learnable
    labels = make_labels(FINDINGS)
    assert labels.measured.tolist() == [0], "the second finding is never present, the third never absent"
    assert labels.learnable and not make_labels(FINDINGS[:, 1:]).learnable


def test_weights_of_findings_make_both_values_count_alike():
    weights = np.array(make_labels(FINDINGS).class_weights("balanced"))
    np.testing.assert_allclose(weights, [[4 / 6, 4 / 2], [1, 1], [1, 1]])
    assert make_labels(FINDINGS).class_weights("none") == ((1.0, 1.0),) * 3
    with pytest.raises(UserError, match="unknown class_weight 'even': known are balanced, none"):
        make_labels(FINDINGS).class_weights("even")


def test_log_losses_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, classes = 3 * rng.normal(size=(40, 3)), rng.integers(3, size=40)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert make_labels(classes, 3).log_loss(logits) == pytest.approx(sk.log_loss(classes, probs))
    findings = rng.integers(2, size=(40, 3)).astype(np.float32)
    findings[rng.random(findings.shape) < 0.3] = np.nan
    known = np.isfinite(findings)
    expected = sk.log_loss(findings[known], 1 / (1 + np.exp(-logits[known])))
    assert make_labels(findings).log_loss(logits) == pytest.approx(expected)
    assert np.isfinite(make_labels(findings).log_loss(1e4 * logits))


def test_labels_can_be_limited_to_some_classes_or_findings():
    rows, told = make_labels(np.array([0, 2, 1, 2]), 3).limit_to(np.array([True, False, True]))
    assert rows.tolist() == [0, 1, 3] and told.values.tolist() == [0, 2, 2] and told.count == 3
    findings = make_labels(np.float32([[0, 1], [np.nan, 1], [1, np.nan]]))
    rows, told = findings.limit_to(np.array([True, False]))
    assert rows.tolist() == [0, 2]
    np.testing.assert_array_equal(told.values, np.float32([[0, np.nan], [1, np.nan]]))
