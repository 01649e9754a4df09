"""What lies on disk comes back as it was, and damage is named."""

import dataclasses
import hashlib

import numpy as np
import pytest
from sklearn import metrics as sk

from aiseeme_jax.errors import MissingFile
from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.evaluate.results import Predictions, Row
from configs import base

# What the arm and the measurement cost.
COSTS = (25_000.0, 60.5, 7200.0, 1.5, 3.0)
ROWS = [
    Row("curriculum", "linear", 0.1, 0, "balanced_accuracy", 0.712345, 0.688, 0.735, *COSTS),
    Row("single:simclr", "knn", 1.0, 2, "auroc/MEL, in situ", 0.5, float("nan"), float("nan")),
    Row("=HYPERLINK(1)", "knn", 1.0, 2, "auroc", -0.5, -0.6, -0.4, *COSTS),
]


def make_predictions(rows=12):
    rng = np.random.default_rng(0)
    return Predictions(
        labels=np.arange(rows, dtype=np.int32) % 2,
        probs=rng.dirichlet([1, 1], rows).astype(np.float32),
        ids=[f"ISIC_{i}" for i in range(rows)],
        groups=[f"läsion {i // 2}" for i in range(rows)],
        class_names=["MEL", "NV"],
    )


def test_rows_come_back(tmp_path):
    results.write_rows(tmp_path, ROWS)
    found = results.read_rows(tmp_path)
    assert found[0] == ROWS[0]
    assert found[1].metric == "auroc/MEL, in situ" and np.isnan(found[1].low)
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]
    assert found[2] == ROWS[2]
    # A spreadsheet would run what begins with '='.
    assert (
        "\n'=HYPERLINK(1),knn,1.0,2,auroc,-0.5,-0.6,-0.4,25000,60.5,7200,1.5,3\n"
        in (tmp_path / "results.csv").read_text()
    )


def test_a_class_may_have_any_name(tmp_path):
    names = ["a/b", "", 'x, "y"', "=1+1", "line\rbreak\n"]
    labels, probs = np.arange(10) % 5, np.random.default_rng(0).dirichlet(np.ones(5), 10)
    found = metrics.summarise(labels, probs, groups=None, samples=5, seed=0, class_names=names)
    values = {one["metric"]: one["value"] for one in found}
    for place, name in enumerate(names):
        assert values[f"auroc/{name}"] == pytest.approx(sk.roc_auc_score(labels == place, probs[:, place]))
    results.write_rows(tmp_path, [Row("scratch", "knn", 1.0, 0, **one) for one in found])
    read = [row.metric for row in results.read_rows(tmp_path)]
    assert read == [name.replace("\r", "\\r").replace("\n", "\\n") for name in values]
    assert len((tmp_path / "results.csv").read_text().splitlines()) == len(found) + 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("metric", "metrics", 1), "line 1: expected the columns arm,target"),
        (lambda text: text.replace("0.688", "o.688"), "results.csv, line 2: could not convert .*'o.688'"),
        (lambda text: text + "curriculum,linear,0.1\n", "line 5: expected 13 columns, found 3"),
        (lambda text: text.replace(",0.1,0,", ",0.1,zero,"), "line 2: invalid literal"),
        (lambda text: "", "line 1: expected the columns"),
    ],
)
def test_damaged_results_name_file_and_line(tmp_path, damage, message):
    results.write_rows(tmp_path, ROWS)
    path = tmp_path / "results.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        results.read_rows(tmp_path)
    assert str(path) in str(error.value)


def test_predictions_come_back(tmp_path):
    saved = make_predictions()
    results.save_predictions(tmp_path / "deep" / "folder", saved)
    found = results.load_predictions(tmp_path / "deep" / "folder")
    for name in ("labels", "probs", "ids", "groups", "class_names"):
        np.testing.assert_array_equal(getattr(found, name), getattr(saved, name))
    assert [p.name for p in (tmp_path / "deep" / "folder").iterdir()] == ["predictions.npz"]


def test_predictions_of_findings_come_back(tmp_path):
    labels = np.array([[1, 0], [np.nan, 1], [0, 0]] * 4, np.float32)
    saved = dataclasses.replace(make_predictions(), labels=labels)
    results.save_predictions(tmp_path, saved)
    found = results.load_predictions(tmp_path)
    assert found.labels.dtype == np.float32
    np.testing.assert_array_equal(found.labels, labels)
    with pytest.raises(ValueError, match=r"do not fit together: labels \(12, 3\)"):
        dataclasses.replace(saved, labels=np.zeros((12, 3), np.float32))


def test_the_table_in_which_predictions_differ_is_named():
    plain = make_predictions()
    unknown = dataclasses.replace(plain, labels=np.full((12, 2), np.nan, np.float32))
    assert plain.differing_table(make_predictions()) == unknown.differing_table(unknown) == ""
    assert plain.differing_table(unknown) == "labels"
    assert plain.differing_table(dataclasses.replace(plain, ids=[f"other {i}" for i in range(12)])) == "ids"
    assert plain.differing_table(dataclasses.replace(plain, groups=["one"] * 12)) == "groups"
    assert plain.differing_table(dataclasses.replace(plain, class_names=["NV", "MEL"])) == "class_names"


def test_damaged_predictions_are_named(tmp_path):
    results.save_predictions(tmp_path, make_predictions())
    path = tmp_path / "predictions.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"{path} is damaged.*run again"):
        results.load_predictions(tmp_path)
    with pytest.raises(MissingFile, match="nowhere/predictions.npz: run again"):
        results.load_predictions(tmp_path / "nowhere")


def test_predictions_must_fit_together():
    with pytest.raises(ValueError, match=r"labels \(11,\), 12 ids"):
        Predictions(**{**vars(make_predictions()), "labels": np.zeros(11, np.int32)})


def test_any_metric_can_be_computed_from_stored_predictions(tmp_path):
    results.save_predictions(tmp_path, make_predictions())
    stored = results.load_predictions(tmp_path)
    truth, probs = np.arange(12) % 2, make_predictions().probs
    found = {name: metrics.METRICS[name](stored.labels, stored.probs) for name in ("balanced_accuracy", "auroc")}
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, probs.argmax(axis=1)))
    areas = [sk.roc_auc_score(truth == c, probs[:, c]) for c in range(2)]
    assert found["auroc"] == pytest.approx(np.mean(areas))


def test_the_hash_of_predictions_is_that_of_their_file(tmp_path):
    results.save_predictions(tmp_path, make_predictions())
    expected = hashlib.sha256((tmp_path / "predictions.npz").read_bytes()).hexdigest()
    assert results.hash_predictions(tmp_path) == expected
    results.save_predictions(tmp_path, make_predictions(14))
    assert results.hash_predictions(tmp_path) != expected
    with pytest.raises(MissingFile, match="there is no .*nowhere/predictions.npz: run again"):
        results.hash_predictions(tmp_path / "nowhere")


@pytest.mark.parametrize("fraction", [1.0, 0.1, 1 / 3, 0.00001])
def test_the_share_of_the_labels_comes_back_to_the_last_digit(tmp_path, fraction):
    results.write_rows(tmp_path, [Row("scratch", "knn", fraction, 0, "accuracy", 0.5, 0.4, 0.6)])
    assert [row.fraction for row in results.read_rows(tmp_path)] == [fraction]


def test_a_target_names_what_differs_from_the_default():
    for protocol, data, name in (
        ("knn", "", "knn"),
        ("knn", "derm/64", "knn"),
        ("linear", "other/64", "linear:other/64"),
    ):
        assert results.name_target(base.target(protocol, data=data), "derm/64") == name
    for method, data, name in (
        ("inverse_frequency", "", "finetune"),
        ("focal", "", "finetune+focal"),
        ({"name": "focal", "gamma": 1.0}, "other/64", "finetune+focal(gamma=1):other/64"),
        ({"name": "ccl", "order": "static", "start": 0.3}, "", "finetune+ccl(order=static,start=0.3)"),
    ):
        assert results.name_target(base.target("finetune", imbalance=method, data=data), "derm/64") == name
    for protocol, changes, name in (
        ("linear", {"endpoint": "stage2", "shots": 8}, "linear+stage2+8shots"),
        ("finetune", {"trained": "norms", "test_views": "flip"}, "finetune+norms+flip"),
        ("finetune", {"imbalance": "focal", "layer_decay": 0.75}, "finetune+focal+layer_decay(0.75)"),
        ("knn", {"test_data": "derm/64"}, "knn"),
        ("knn", {"test_data": "other/64"}, "knn:derm/64>other/64"),
        ("knn", {"data": "other/64", "test_data": "derm/64"}, "knn:other/64>derm/64"),
    ):
        assert results.name_target(base.target(protocol, **changes), "derm/64") == name
