"""Metrics are computed from predictions once, and again when predictions or statistics are other ones."""

import dataclasses
import json

import numpy as np
import pytest

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import metrics, results, scores
from aiseeme_jax.store.artifacts import MEASUREMENTS, Artifact, Store

STATISTICS = {"samples": 20, "seed": 0}
KNN = Artifact(MEASUREMENTS, "knn-100pct-seed0", {"target": "knn"})


def make_predictions(seed=0, rows=24):
    rng = np.random.default_rng(seed)
    return results.Predictions(
        labels=np.arange(rows, dtype=np.int32) % 3,
        probs=rng.dirichlet([1, 1, 1], rows).astype(np.float32),
        ids=[f"i{i}" for i in range(rows)],
        groups=[f"lesion {i // 2}" for i in range(rows)],
        class_names=["MEL", "NV", "BCC"],
    )


def make_measurement(root, predictions):
    store = Store(root)
    directory = store.begin(KNN)
    results.save_predictions(directory, predictions)
    store.finish(KNN, {"made_from": {}, "predictions_sha256": results.hash_predictions(directory)})
    return directory


def expected(predictions, **statistics):
    tables = {"groups": predictions.groups, "class_names": predictions.class_names}
    return metrics.summarise(predictions.labels, predictions.probs, **tables, **statistics)


def assert_equal_rows(found, wanted):
    # By their words: NaN, where there is no interval, is not equal to itself.
    assert repr(found) == repr(wanted)


@pytest.fixture
def summarised(monkeypatch):
    """One entry for each time that metrics are computed."""
    calls = []
    summarise = metrics.Scores.summarise
    monkeypatch.setattr(metrics.Scores, "summarise", lambda *args: calls.append(1) or summarise(*args))
    return calls


def test_metrics_are_computed_once_and_nan_comes_back(tmp_path, summarised):
    directory = make_measurement(tmp_path, make_predictions())
    wanted = expected(make_predictions(), **STATISTICS)
    del summarised[:]
    first, second = (scores.score_measurement(directory, STATISTICS) for _ in range(2))
    assert_equal_rows(first, wanted)
    assert_equal_rows(second, wanted)
    assert len(summarised) == 1
    bounds = {row["metric"]: np.isfinite(row["low"]) for row in second}
    assert bounds["auroc"] and not bounds["auroc/MEL"], "24 rows of 12 lesions: 8 lesions hold each class"
    json.loads((directory / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_other_statistics_are_applied_to_the_stored_predictions(tmp_path):
    directory = make_measurement(tmp_path, make_predictions())
    for wanted in (STATISTICS, {"samples": 30, "seed": 0}, {"samples": 20, "seed": 1}, STATISTICS):
        assert_equal_rows(scores.score_measurement(directory, wanted), expected(make_predictions(), **wanted))


def test_metrics_of_other_predictions_or_of_another_version_are_not_taken(tmp_path, summarised, monkeypatch):
    directory = make_measurement(tmp_path, make_predictions())
    scores.score_measurement(directory, STATISTICS)
    make_measurement(tmp_path, make_predictions(seed=1))
    found = scores.score_measurement(directory, STATISTICS)
    assert_equal_rows(found, expected(make_predictions(seed=1), **STATISTICS))
    del summarised[:]
    monkeypatch.setattr(scores, "VERSION", scores.VERSION + 1)
    scores.score_measurement(directory, STATISTICS)
    assert len(summarised) == 1


def test_findings_have_their_own_metrics(tmp_path):
    labels = np.array([[1, 0, np.nan], [np.nan, 1, 0], [0, 0, 1]] * 8, np.float32)
    directory = make_measurement(tmp_path, dataclasses.replace(make_predictions(), labels=labels))
    names = [row["metric"] for row in scores.score_measurement(directory, STATISTICS)]
    each = [f"{metric}/{name}" for metric in ("auroc", "average_precision") for name in ("MEL", "NV", "BCC")]
    assert names == ["auroc", "average_precision", *each]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}'])
def test_damaged_metrics_are_computed_again(tmp_path, text):
    directory = make_measurement(tmp_path, make_predictions())
    first = scores.score_measurement(directory, STATISTICS)
    (directory / "metrics.json").write_text(text)
    assert_equal_rows(scores.score_measurement(directory, STATISTICS), first)


@pytest.mark.parametrize("scored", [False, True], ids=["not scored", "scored before"])
def test_predictions_that_are_not_those_of_the_record_are_named(tmp_path, scored):
    directory = make_measurement(tmp_path, make_predictions())
    if scored:
        scores.score_measurement(directory, STATISTICS)
    results.save_predictions(directory, make_predictions(seed=1))
    with pytest.raises(UserError, match=f"predictions.npz is damaged, or not .* its record.*store remove {directory}"):
        scores.score_measurement(directory, STATISTICS)
    (directory / "predictions.npz").unlink()
    with pytest.raises(MissingFile, match=f"has lost its predictions.npz.*store remove {directory}"):
        scores.score_measurement(directory, STATISTICS)


class TestValidation:
    def make(self, root, **record):
        store = Store(root)
        directory = store.begin(KNN)
        results.save_predictions(directory, make_predictions())
        wanted = {"predictions_sha256": results.hash_predictions(directory), **record}
        if record:
            results.save_predictions(directory, make_predictions(seed=1, rows=12), results.VALIDATION)
            wanted["validation_sha256"] = results.hash_predictions(directory, results.VALIDATION)
        store.finish(KNN, {"made_from": {}, **wanted})
        return directory

    def test_it_comes_back(self, tmp_path):
        found = scores.load_validation(self.make(tmp_path, validation_sha256=""))
        assert found.differing_table(make_predictions(seed=1, rows=12)) == ""
        np.testing.assert_array_equal(found.probs, make_predictions(seed=1, rows=12).probs)

    def test_a_measurement_of_before_has_none_and_is_scored(self, tmp_path):
        directory = self.make(tmp_path)
        assert scores.load_validation(directory) is None
        assert scores.score_measurement(directory, STATISTICS)

    @pytest.mark.parametrize("ask", [scores.load_validation, scores.check_predictions])
    def test_damage_is_named(self, tmp_path, ask):
        directory = self.make(tmp_path, validation_sha256="")
        results.save_predictions(directory, make_predictions(seed=2), results.VALIDATION)
        with pytest.raises(UserError, match="validation.npz is damaged, or not the one of its record"):
            ask(directory)
        (directory / results.VALIDATION).unlink()
        with pytest.raises(MissingFile, match="has lost its validation.npz"):
            ask(directory)
