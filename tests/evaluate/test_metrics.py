"""Metrics against scikit-learn, and the conventions where they differ from it."""

import numpy as np
import pytest
from sklearn import metrics as sk

from aiseeme_jax.evaluate import metrics, weighted


def random_case(rows=300, classes=5, seed=0, levels=None):
    """Unbalanced labels and probabilities that know something about them; `levels` makes scores collide."""
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), rng.choice(classes, rows - classes, p=_unbalanced(classes)))
    logits = rng.normal(size=(rows, classes)) + 1.2 * np.eye(classes)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if levels:
        probs = np.round(probs * levels) / levels
    return labels, probs


def _unbalanced(classes):
    return 2.0 ** -np.arange(classes) / (2.0 ** -np.arange(classes)).sum()


def one_vs_rest(function, labels, probs):
    return np.array([function(labels == c, probs[:, c]) for c in range(probs.shape[1])])


@pytest.mark.parametrize("seed", range(3))
def test_decisions_equal_scikit_learn(seed):
    labels, probs = random_case(seed=seed)
    decided = probs.argmax(axis=1)
    assert metrics.balanced_accuracy(labels, probs) == pytest.approx(sk.balanced_accuracy_score(labels, decided))
    assert metrics.accuracy(labels, probs) == pytest.approx(sk.accuracy_score(labels, decided))
    np.testing.assert_allclose(metrics.sensitivity(labels, probs), sk.recall_score(labels, decided, average=None))
    np.testing.assert_allclose(metrics.f1(labels, probs), sk.f1_score(labels, decided, average=None))
    assert metrics.macro_f1(labels, probs) == pytest.approx(sk.f1_score(labels, decided, average="macro"))
    np.testing.assert_array_equal(metrics.confusion(labels, probs), sk.confusion_matrix(labels, decided))
    inverse_recall = [sk.recall_score(labels != c, decided != c) for c in range(probs.shape[1])]
    np.testing.assert_allclose(metrics.specificity(labels, probs), inverse_recall)
    assert metrics.macro_specificity(labels, probs) == pytest.approx(np.mean(inverse_recall))


@pytest.mark.parametrize("levels", [None, 7])
def test_rankings_equal_scikit_learn_also_with_equal_scores(levels):
    labels, probs = random_case(levels=levels)
    areas = one_vs_rest(sk.roc_auc_score, labels, probs)
    precisions = one_vs_rest(sk.average_precision_score, labels, probs)
    np.testing.assert_allclose(metrics.per_class_auroc(labels, probs), areas)
    np.testing.assert_allclose(metrics.per_class_average_precision(labels, probs), precisions)
    assert metrics.auroc(labels, probs) == pytest.approx(areas.mean())
    assert metrics.average_precision(labels, probs) == pytest.approx(precisions.mean())
    if levels is None:
        theirs = sk.roc_auc_score(labels, probs, multi_class="ovr", average="macro")
        assert metrics.auroc(labels, probs) == pytest.approx(theirs)


def test_two_classes_take_one_or_two_columns():
    labels, probs = random_case(classes=2)
    positive = probs[:, 1]
    assert metrics.auroc(labels, positive) == pytest.approx(sk.roc_auc_score(labels, positive))
    assert metrics.auroc(labels, probs) == pytest.approx(sk.roc_auc_score(labels, positive))
    expected = sk.average_precision_score(labels, positive)
    assert metrics.average_precision(labels, positive) == pytest.approx(expected)
    assert metrics.average_precision(labels, probs) == pytest.approx(expected)
    decided = (positive > 0.5).astype(int)
    expected = sk.balanced_accuracy_score(labels, decided)
    assert metrics.balanced_accuracy(labels, positive) == pytest.approx(expected)


def test_a_tie_for_the_maximum_is_wrong_whichever_class_is_true():
    probs = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]])
    labels = np.array([0, 1, 2])
    assert metrics.balanced_accuracy(labels, probs) == pytest.approx(1 / 3)
    assert metrics.accuracy(labels, probs) == pytest.approx(1 / 3)
    np.testing.assert_array_equal(metrics.confusion(labels, probs), np.diag([0, 0, 1]))
    # The undecided row of class 0 is no false alarm for class 1.
    np.testing.assert_allclose(metrics.specificity(labels, probs), 1)


def test_an_absent_class_is_left_out_of_macro_means():
    labels, probs = random_case(classes=4)
    present = labels != 3
    labels, probs = labels[present], probs[present]
    assert np.isnan(metrics.per_class_auroc(labels, probs)[3])
    assert np.isnan(metrics.sensitivity(labels, probs)[3])
    areas = [sk.roc_auc_score(labels == c, probs[:, c]) for c in range(3)]
    assert metrics.auroc(labels, probs) == pytest.approx(np.mean(areas))
    recalls = sk.recall_score(labels, probs.argmax(axis=1), average=None, labels=[0, 1, 2])
    assert metrics.balanced_accuracy(labels, probs) == pytest.approx(recalls.mean())


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_weight_of_k_is_k_equal_rows(name):
    labels, probs = random_case(rows=80, levels=20)
    weights = np.random.default_rng(1).integers(0, 4, size=(5, len(labels)))
    weights[:, :5] += 1  # the first rows are one of each class
    metric = metrics.METRICS[name]
    fast = metric.weighted(*weighted.checked(labels, probs), weights.astype(float))
    plain = [metric(np.repeat(labels, row), np.repeat(probs, row, axis=0)) for row in weights]
    np.testing.assert_allclose(fast, plain, rtol=1e-12)


def test_float32_probabilities_are_fine():
    labels, probs = random_case()
    near = metrics.auroc(labels.astype(np.int32), probs.astype(np.float32))
    assert near == pytest.approx(metrics.auroc(labels, probs), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        ([0, 1], [[0.5, np.nan], [0.1, 0.9]], r"probs\[0\] is not finite"),
        ([0, 1], [[0.5, 0.5], [0.1, np.inf]], r"probs\[1\] is not finite"),
        ([0, 1], [[-3.0, 2.0], [0.1, 0.9]], "not? logits|no logits"),
        ([0, 2], [[0.5, 0.5], [0.1, 0.9]], "labels reach from 0 to 2, but probs has 2 classes"),
        ([0, -1], [[0.5, 0.5], [0.1, 0.9]], "labels reach from -1"),
        ([0, 1, 1], [[0.5, 0.5], [0.1, 0.9]], r"got \(3,\) and \(2, 2\)"),
        ([[0, 1]], [[0.5, 0.5]], r"got \(1, 2\)"),
        ([0.0, 1.0], [[0.6, 0.4], [0.1, 0.9]], "must be integers"),
        ([0, 0], [[1.0], [1.0]], "one class"),
        ([], np.zeros((0, 3)), "empty"),
    ],
)
def test_bad_input_is_named(labels, probs, message):
    labels = np.asarray(labels) if len(labels) else np.zeros(0, int)
    for metric in metrics.METRICS.values():
        with pytest.raises(ValueError, match=message):
            metric(labels, np.asarray(probs))


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_a_ranking_of_one_class_says_so(name):
    with pytest.raises(ValueError, match=rf"{name} is undefined.*class \[1\]"):
        metrics.METRICS[name](np.array([1, 1]), np.array([0.2, 0.7]))


def test_a_ranking_of_one_class_is_undefined_where_a_resample_holds_no_other():
    labels, probs = weighted.checked([0, 1, 1], [0.3, 0.2, 0.7])
    weights = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    for function in (weighted.auroc, weighted.average_precision):
        assert np.isfinite(function(labels, probs, weights)[:, 1]).tolist() == [True, False]
