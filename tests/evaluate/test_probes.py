"""kNN and linear probe on features whose answer is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from aiseeme_jax.evaluate import knn, metrics
from aiseeme_jax.evaluate.knn import knn_probabilities, knn_probe
from aiseeme_jax.evaluate.linear import linear_probe


def blobs(rows, seed, classes=3, spread=0.3, width=8):
    """One cloud around a direction per class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    centres = np.random.default_rng(42).normal(size=(classes, width))
    return (centres[labels] + spread * rng.normal(size=(rows, width))).astype(np.float32), labels


def three_splits(spread, classes=3):
    parts = {
        name: blobs(n, i, classes, spread)
        for i, (name, n) in enumerate([("train", 150), ("validation", 90), ("test", 90)])
    }
    return {name: x for name, (x, _) in parts.items()}, {name: y for name, (_, y) in parts.items()}


def reference_knn(train, labels, test, k, temperature, classes, weight="none"):
    """The definition, row by row, in float64."""
    share = np.bincount(labels, minlength=classes) if weight == "balanced" else np.ones(classes)
    train, test = np.float64(train), np.float64(test)
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    test /= np.linalg.norm(test, axis=1, keepdims=True)
    probs = np.zeros((len(test), classes))
    for i, row in enumerate(test):
        similarity = train @ row
        for j in np.argsort(-similarity)[:k]:
            probs[i, labels[j]] += np.exp(similarity[j] / temperature) / share[labels[j]]
    return probs / probs.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("weight", ["balanced", "none"])
@pytest.mark.parametrize("k", [1, 7, 150])
def test_knn_equals_its_definition(k, weight):
    """Classes of unequal size, and a fourth without a training row."""
    (train, labels), (test, _) = blobs(250, 0, spread=2.0), blobs(70, 1, spread=2.0)
    keep = np.flatnonzero((labels != 1) | (np.arange(250) % 5 == 0))[:150]
    train, labels = train[keep], labels[keep]
    found = knn_probabilities(train, labels, test, k=k, temperature=0.07, class_weight=weight, classes=4)
    np.testing.assert_allclose(found, reference_knn(train, labels, test, k, 0.07, 4, weight), atol=2e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert (found[:, 3] == 0).all()


def test_balanced_votes_hear_the_rare_class_among_many_neighbours():
    """52 common rows to each rare one: plain votes find it nowhere but in its very midst."""
    rng = np.random.default_rng(0)
    direction = np.array([[1.0, 0.0], [0.0, 1.0]])

    def rows(common, rare):
        labels = np.array([0] * common + [1] * rare)
        return direction[labels] + 0.5 * rng.normal(size=(len(labels), 2)), labels

    parts = {"train": rows(1040, 20), "validation": rows(200, 200), "test": rows(200, 200)}
    features, labels = ({name: part[i] for name, part in parts.items()} for i in (0, 1))
    found = {
        weight: knn_probe(features, labels, ks=(5, 20, 200), class_weight=weight, classes=2)
        for weight in ("balanced", "none")
    }
    score = {weight: metrics.balanced_accuracy(labels["test"], probe.probs["test"]) for weight, probe in found.items()}
    assert score["balanced"] > 0.9 > 0.7 > score["none"]


def test_knn_chunks_do_not_show(monkeypatch):
    (train, labels), (test, _) = blobs(60, 0), blobs(45, 1)
    arguments = dict(k=5, class_weight="balanced", classes=3)
    whole = knn_probabilities(train, labels, test, **arguments)
    monkeypatch.setattr(knn, "_CHUNK", 16)
    np.testing.assert_allclose(knn_probabilities(train, labels, test, **arguments), whole, atol=1e-6)


def test_knn_probe_separates_blobs_and_ignores_length():
    features, labels = three_splits(spread=0.2)
    features["test"] = features["test"] * 100
    probe = knn_probe(features, labels, ks=(5, 20), class_weight="balanced", classes=3)
    assert metrics.balanced_accuracy(labels["test"], probe.probs["test"]) == 1
    assert (probe.k, probe.validation_score) == (5, 1.0)


def test_knn_k_is_chosen_on_validation():
    """One training row of class 1 lies on top of the others: near neighbours alone see it."""
    rng = np.random.default_rng(0)
    train = np.concatenate([rng.normal([5, 0], 0.1, (30, 2)), [[0.0, 5.0]] * 3])
    labels = {"train": np.array([0] * 30 + [1] * 3), "validation": np.array([0, 1]), "test": np.array([1])}
    features = {"train": train, "validation": np.array([[5.0, 0], [0, 5.0]]), "test": np.array([[0, 4.0]])}
    plain = dict(temperature=10.0, class_weight="none", classes=2)
    probe = knn_probe(features, labels, ks=(33, 3), **plain)
    assert probe.k == 3
    beyond = knn_probe(features, labels, ks=(200, 500), **plain)
    assert beyond.k == 33


def test_knn_bad_input_is_named():
    x, y = blobs(10, 0)
    balanced = dict(class_weight="balanced")
    with pytest.raises(ValueError, match="between 1 and the 10 training rows, got 11"):
        knn_probabilities(x, y, x, k=11, classes=3, **balanced)
    with pytest.raises(ValueError, match="test features hold values that are not finite"):
        knn_probabilities(x, y, np.full_like(x, np.nan), k=1, classes=3, **balanced)
    with pytest.raises(ValueError, match="but there are 1 classes"):
        knn_probabilities(x, y, x, k=1, classes=1, **balanced)
    with pytest.raises(ValueError, match="temperature"):
        knn_probabilities(x, y, x, k=1, classes=3, temperature=0, **balanced)
    with pytest.raises(ValueError, match="unknown class_weight 'even': known are balanced, none"):
        knn_probabilities(x, y, x, k=1, classes=3, class_weight="even")
    with pytest.raises(ValueError, match="at least one candidate"):
        knn_probe({"train": x}, {"train": y}, ks=(), classes=3, **balanced)


PROBE = dict(class_weight="balanced", max_iter=1000)


def test_linear_probe_separates_blobs():
    features, labels = three_splits(spread=0.3)
    probe = linear_probe(features, labels, strengths=(0.01, 1.0), classes=3, **PROBE)
    assert metrics.balanced_accuracy(labels["test"], probe.probs["test"]) == 1
    assert probe.strength == 0.01, "of equals the strongest regularisation"
    assert probe.converged and probe.unconverged == 0


@pytest.mark.parametrize("weight", ["balanced", "none"])
def test_linear_probe_equals_scikit_learn_at_the_best_strength(weight):
    features, labels = three_splits(spread=1.5)
    strengths = (1e-4, 1e-2, 1.0)
    scaler = StandardScaler().fit(np.float64(features["train"]))
    models, scores = {}, {}
    for c in strengths:
        model = LogisticRegression(C=c, max_iter=1000, class_weight=None if weight == "none" else weight)
        models[c] = model.fit(scaler.transform(np.float64(features["train"])), labels["train"])
        validation = model.predict_proba(scaler.transform(np.float64(features["validation"])))
        scores[c] = metrics.balanced_accuracy(labels["validation"], validation)
    best = max(strengths, key=scores.get)
    probe = linear_probe(features, labels, strengths=strengths[::-1], class_weight=weight, max_iter=1000, classes=3)
    assert (probe.strength, probe.validation_score) == (best, scores[best])
    expected = models[best].predict_proba(scaler.transform(np.float64(features["test"])))
    np.testing.assert_allclose(probe.probs["test"], expected, rtol=1e-6)


def test_linear_probe_does_not_depend_on_the_number_of_threads():
    features, labels = three_splits(spread=1.5)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            before = threadpool_info()
            found.append(linear_probe(features, labels, strengths=(1e-2, 1.0, 10.0), classes=3, **PROBE))
            assert threadpool_info() == before
    for split in ("validation", "test"):
        np.testing.assert_array_equal(found[0].probs[split], found[1].probs[split])


def test_balanced_weights_help_the_rare_class():
    features, labels = three_splits(spread=1.5, classes=2)
    keep = (labels["train"] == 0) | (np.arange(150) % 12 == 0)
    features["train"], labels["train"] = features["train"][keep], labels["train"][keep]
    recall = {}
    for weight in ("balanced", "none"):
        probe = linear_probe(features, labels, strengths=(0.01,), class_weight=weight, max_iter=1000, classes=2)
        recall[weight] = metrics.sensitivity(labels["test"], probe.probs["test"])[1]
    assert recall["balanced"] > recall["none"]


def test_a_class_without_training_rows_gets_probability_zero():
    features, labels = three_splits(spread=0.5)
    keep = labels["train"] != 1
    features["train"], labels["train"] = features["train"][keep], labels["train"][keep]
    probe = linear_probe(features, labels, strengths=(1.0,), classes=4, **PROBE)
    assert probe.probs["test"].shape == (90, 4)
    assert (probe.probs["test"][:, [1, 3]] == 0).all()
    np.testing.assert_allclose(probe.probs["test"].sum(axis=1), 1)


def test_what_did_not_converge_is_counted_not_shouted(recwarn):
    features, labels = three_splits(spread=1.5)
    probe = linear_probe(features, labels, strengths=(1e-3, 1.0), class_weight="balanced", max_iter=1, classes=3)
    assert probe.unconverged == 2 and not probe.converged
    assert not [w for w in recwarn if "converge" in str(w.message)]


def test_linear_bad_input_is_named():
    features, labels = three_splits(spread=0.5)
    with pytest.raises(ValueError, match="unknown class_weight 'even': known are balanced, none"):
        linear_probe(features, labels, strengths=(1.0,), class_weight="even", max_iter=10, classes=3)
    with pytest.raises(ValueError, match="positive strengths"):
        linear_probe(features, labels, strengths=(0.0, 1.0), classes=3, **PROBE)
    with pytest.raises(ValueError, match=r"cannot learn from the training labels: the labels hold only class \[0\]"):
        linear_probe(features, {**labels, "train": np.zeros(150, int)}, strengths=(1.0,), classes=3, **PROBE)
    broken = {**features, "test": np.full_like(features["test"], np.inf)}
    with pytest.raises(ValueError, match="test features hold values that are not finite"):
        linear_probe(broken, labels, strengths=(1.0,), classes=3, **PROBE)


def findings(rows, seed, known=0.7):
    """Two findings and a never known third, told by the direction of the features; each is known in a part of rows."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, 3)) < 0.3).astype(np.float32)
    directions = np.random.default_rng(42).normal(size=(3, 8))
    features = labels @ directions + 0.7 * rng.normal(size=(rows, 8)) + 1
    labels[rng.random(labels.shape) > known] = np.nan
    labels[:, 2] = np.nan
    return features.astype(np.float32), labels


def splits_of_findings():
    sizes = {"train": 150, "validation": 90, "test": 90}
    parts = {name: findings(n, i) for i, (name, n) in enumerate(sizes.items())}
    return {name: x for name, (x, _) in parts.items()}, {name: y for name, (_, y) in parts.items()}


def area_over_findings(labels, probs):
    known = np.isfinite(labels)
    return np.mean([roc_auc_score(labels[k, c], probs[k, c]) for c, k in enumerate(known.T) if k.any()])


class TestFindings:
    @pytest.mark.parametrize("weight", ["balanced", "none"])
    @pytest.mark.parametrize("k", [1, 7, 150])
    def test_knn_equals_its_definition(self, k, weight):
        """Each finding is a kNN of two classes among those of the k neighbours that know; if none does, all vote."""
        (train, labels), (test, _) = findings(150, 0), findings(70, 1)
        found = knn_probabilities(train, labels, test, k=k, temperature=0.5, class_weight=weight, classes=3)
        unit = [np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True) for x in (train, test)]
        similarity = unit[1] @ unit[0].T
        for c in (0, 1):
            counts = [np.sum(labels[:, c] == value) if weight == "balanced" else 1 for value in (0, 1)]
            for i, row in enumerate(similarity):
                nearest = [j for j in np.argsort(-row)[:k] if np.isfinite(labels[j, c])]
                votes = np.zeros(2)
                for j in nearest or np.flatnonzero(np.isfinite(labels[:, c])):
                    votes[int(labels[j, c])] += (np.exp(row[j] / 0.5) if nearest else 1) / counts[int(labels[j, c])]
                assert found[i, c] == pytest.approx(votes[1] / votes.sum(), abs=1e-4), (i, c)
        assert (found[:, 2] == 0).all(), "nobody knows of the third"

    def test_k_has_the_best_macro_auroc_on_validation(self):
        features, labels = splits_of_findings()
        arguments = dict(temperature=0.5, class_weight="balanced", classes=3)
        probe = knn_probe(features, labels, ks=(1, 10, 60), **arguments)
        scores = {
            k: area_over_findings(
                labels["validation"],
                knn_probabilities(features["train"], labels["train"], features["validation"], k=k, **arguments),
            )
            for k in (1, 10, 60)
        }
        assert probe.k == max(scores, key=scores.get) and probe.validation_score == pytest.approx(max(scores.values()))
        assert area_over_findings(labels["test"], probe.probs["test"]) > 0.8

    @pytest.mark.parametrize("weight", ["balanced", "none"])
    def test_linear_probe_is_a_regression_for_each_finding_on_the_rows_that_know(self, weight):
        features, labels = splits_of_findings()
        strengths = (1e-3, 1e-1, 10.0)
        scaler = StandardScaler().fit(np.float64(features["train"]))
        x = {name: scaler.transform(np.float64(rows)) for name, rows in features.items()}
        tables = {c: {name: np.zeros((90, 3)) for name in ("validation", "test")} for c in strengths}
        for c in strengths:
            for finding in (0, 1):
                rows = np.isfinite(labels["train"][:, finding])
                model = LogisticRegression(C=c, max_iter=1000, class_weight=None if weight == "none" else weight)
                model.fit(x["train"][rows], labels["train"][rows, finding])
                for name, table in tables[c].items():
                    table[:, finding] = model.predict_proba(x[name])[:, 1]
        scores = {c: area_over_findings(labels["validation"], tables[c]["validation"]) for c in strengths}
        best = max(strengths, key=scores.get)
        probe = linear_probe(features, labels, strengths=strengths, class_weight=weight, max_iter=1000, classes=3)
        assert probe.strength == best and probe.validation_score == pytest.approx(scores[best])
        for name in ("validation", "test"):
            np.testing.assert_allclose(probe.probs[name], tables[best][name], rtol=1e-6)

    def test_a_finding_that_the_training_rows_all_have_gets_probability_one(self):
        features, labels = splits_of_findings()
        labels["train"][:, 1] = 1
        probe = linear_probe(features, labels, strengths=(1.0,), classes=3, **PROBE)
        assert (probe.probs["test"][:, 1] == 1).all() and probe.converged
        with pytest.raises(ValueError, match="no finding is present in some rows and absent in others"):
            linear_probe(features, {**labels, "train": labels["train"][:, 1:]}, strengths=(1.0,), classes=2, **PROBE)
