"""Linear support vector machines on features whose answer is known."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.svm import LinearSVC

from aiseeme_jax.evaluate import metrics
from aiseeme_jax.evaluate.svm import support_vectors

CANDIDATES = (0.01, 1.0, 100.0)


def blobs(rows, seed, classes, spread=1.0, width=6):
    """One cloud around a direction per class."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=rows)
    centres = np.random.default_rng(42).normal(size=(classes, width))
    return (centres[labels] + spread * random.normal(size=(rows, width))).astype(np.float32), labels


def three_splits(classes, **changes):
    parts = {name: blobs(rows, seed, classes, **changes) for seed, (name, rows) in enumerate(SIZES.items())}
    return {name: x for name, (x, _) in parts.items()}, {name: y for name, (_, y) in parts.items()}


SIZES = {"train": 90, "validation": 60, "test": 60}


def fit(features, labels, classes, weight="balanced"):
    settings = {"strengths": CANDIDATES, "class_weight": weight, "max_iter": 5000, "seed": 0}
    return support_vectors(features, labels, classes=classes, **settings)


def scaled(rows):
    rows = np.float64(rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("weight", ["balanced", "none"])
@pytest.mark.parametrize("classes", [2, 3])
def test_equals_the_machines_of_scikit_learn_for_the_c_that_is_best_on_validation(classes, weight):
    features, labels = three_splits(classes)
    found = fit(features, labels, classes, weight)
    best = []
    for strength in CANDIDATES:
        chosen = None if weight == "none" else weight
        machine = LinearSVC(C=strength, class_weight=chosen, max_iter=5000, random_state=0)
        machine.fit(scaled(features["train"]), labels["train"])
        decided = machine.predict(scaled(features["validation"]))
        recall = [np.mean(decided[labels["validation"] == c] == c) for c in range(classes)]
        best.append((np.mean(recall), machine))
    score, machine = max(best, key=lambda one: one[0])
    assert found.validation_score == pytest.approx(score)
    test = scaled(features["test"])
    np.testing.assert_array_equal(found.probs["test"].argmax(axis=1), machine.predict(test))
    margins = machine.decision_function(test)
    margins = np.stack([-margins, margins], axis=1) if classes == 2 else margins
    np.testing.assert_allclose(found.probs["test"], softmax(margins / found.temperature, axis=1), rtol=1e-3, atol=1e-6)


def test_probabilities_are_calibrated_on_validation():
    features, labels = three_splits(3, spread=1.5)
    found = fit(features, labels, 3)

    def loss(probs):
        return -np.mean(np.log(probs[np.arange(60), labels["validation"]]))

    logits = np.log(found.probs["validation"])
    assert all(loss(softmax(logits * factor, axis=1)) > loss(found.probs["validation"]) for factor in (0.8, 1.25))


def test_findings_have_a_machine_each_on_the_rows_in_which_they_are_known():
    features, labels = three_splits(4)
    found = {name: np.stack([y % 2 == 0, y > 1, y > 9], axis=1).astype(np.float32) for name, y in labels.items()}
    found["train"][::3, 1] = np.nan
    probs = fit(features, found, 3).probs["test"]
    assert (probs[:, 2] < 1e-6).all(), "a finding that no training row has"
    known = {name: y[:, :2] for name, y in found.items()}
    assert metrics.auroc(known["test"], probs[:, :2]) > 0.75


def test_a_class_without_a_training_row_has_probability_0():
    features, labels = three_splits(3)
    keep = labels["train"] != 1
    features["train"], labels["train"] = features["train"][keep], labels["train"][keep]
    probs = fit(features, labels, 3).probs["test"]
    assert (probs[:, 1] == 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_bad_input():
    features, labels = three_splits(2)
    with pytest.raises(ValueError, match="test features hold values that are not finite: the backbone has diverged"):
        fit({**features, "test": features["test"] * np.nan}, labels, 2)
    with pytest.raises(ValueError, match=r"cannot learn from the training labels: the labels hold only class \[0\]"):
        fit(features, {**labels, "train": np.zeros(90, int)}, 2)
