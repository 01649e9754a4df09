"""cxr_phantom: repeatable, whole patients, opacities in the lungs, brightness that tells little, a marker."""

from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfds_builders import prepare
from tfds_builders.common.splits import split_of
from tfds_builders.cxr_phantom.anatomy import VIEWS
from tfds_builders.cxr_phantom.cxr_phantom_dataset_builder import Builder, plan
from tfds_builders.cxr_phantom.opacities import CLASSES
from tfds_builders.cxr_phantom.radiographs import radiograph

pytestmark = pytest.mark.slow

NAMES = list(CLASSES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare("cxr_phantom/tiny", data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def demo():
    """Images, labels and whether in the test split, of the config `demo`."""
    config = Builder.builder_configs["demo"]
    exposures = plan(config.patients, config.seed, config.confounding)
    images = [
        radiograph(e.label, e.view, False, config.seed, e.patient, e.number, config.size).image for e in exposures
    ]
    labels = np.array([NAMES.index(e.label) for e in exposures])
    return np.stack(images) / 255, labels, np.array([e.split == "test" for e in exposures])


def test_an_image_is_a_function_of_its_arguments():
    arguments = {"label": "viral-like", "view": "PA", "marker": False, "seed": 0, "patient": 5, "number": 0, "size": 32}
    first, again = radiograph(**arguments), radiograph(**arguments)
    assert (first.image == again.image).all() and (first.opacity == again.opacity).all()
    assert first.image.shape == (32, 32) and first.image.dtype == np.uint8
    for change in ({"seed": 1}, {"patient": 6}, {"number": 1}, {"view": "AP"}):
        assert (radiograph(**arguments | change).image != first.image).mean() > 0.2


def test_two_images_show_the_same_disease():
    """Opacities of one patient overlap more than those of two patients, on average."""

    def overlap(first, second):
        return (first & second).sum() / (first | second).sum()

    masks = [[radiograph("bacterial-like", "PA", False, 0, p, n, 32).opacity for n in (0, 1)] for p in range(14)]
    same = np.mean([overlap(*pair) for pair in masks])
    assert same > np.mean([overlap(masks[i][0], masks[i - 1][1]) for i in range(14)]) + 0.2


@pytest.mark.parametrize("size", [32, 64])
def test_opacities_lie_in_the_lungs_and_brighten_them(size):
    for label in NAMES:
        brighter = []
        for patient in range(8):
            drawn = radiograph(label, "PA", False, 0, patient, 0, size)
            healthy = radiograph("normal", "PA", False, 0, patient, 0, size)
            assert 0.15 < drawn.lungs.mean() < 0.6 and (drawn.lungs == healthy.lungs).all()
            assert not (drawn.opacity & ~drawn.lungs).any()
            assert drawn.opacity.any() == (label != "normal")
            if label != "normal":
                change = drawn.image.astype(float) - healthy.image
                brighter.append(change[drawn.opacity].mean() > change[~drawn.lungs].mean() + 4)
        assert label == "normal" or np.mean(brighter) > 0.7


def test_bacterial_disease_is_on_one_side_and_viral_on_both():
    sides = {label: [] for label in NAMES[1:]}
    for label, seen in sides.items():
        for patient in range(12):
            opacity = radiograph(label, "PA", False, 0, patient, 0, 32).opacity
            left, right = opacity[:, :16].sum(), opacity[:, 16:].sum()
            seen.append(min(left, right) / max(left, right))
    assert np.median(sides["bacterial-like"]) < 0.05 < 0.2 < np.median(sides["viral-like"])


def test_what_is_stored(tiny, read, report):
    splits = read(tiny)
    assert tiny.info.metadata["group"] == "patient_id" and "ynthetic" in tiny.info.description
    patients = [{row["patient_id"] for row in rows} for rows in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    for split, rows in splits.items():
        assert {row["label"] for row in rows} == {0, 1, 2}
        assert all(split_of(row["patient_id"].decode(), 0) == split for row in rows)
        assert report(tiny)["splits"][split]["images"] == len(rows)
    rows = sum(splits.values(), [])
    assert len({row["image_id"] for row in rows}) == len(rows) > len(set.union(*patients))
    assert {row["view"] for row in rows} == {0, 1} and not any(row["marker"] for row in rows)
    for row in rows:
        assert row["image"].shape == row["mask"].shape == row["opacity"].shape == (32, 32, 1)
        assert set(np.unique(row["mask"])) == {0, 255} and (row["opacity"] <= row["mask"]).all()
    assert report(tiny)["synthetic"] is True and report(tiny)["damaged"] == []


def test_what_is_stored_is_what_is_drawn_again(tiny, read):
    planned = {one.image_id: one for one in plan(90, 0, 0.0)}
    for row in read(tiny)["test"]:
        one = planned[row["image_id"].decode()]
        drawn = radiograph(one.label, one.view, one.marker, 0, one.patient, one.number, 32)
        assert (row["image"][..., 0] == drawn.image).all() and (row["mask"][..., 0] == 255 * drawn.lungs).all()
        assert (row["opacity"][..., 0] == 255 * drawn.opacity).all()
        assert NAMES[row["label"]] == one.label and VIEWS[row["view"]] == one.view


def test_label_and_view_belong_to_patient_and_image():
    exposures = plan(2000, 0, 0.0)
    labels = {}
    for one in exposures:
        assert labels.setdefault(one.patient_id, one.label) == one.label
    counts = Counter(labels.values())
    assert all(abs(counts[name] / len(labels) - share) < 0.04 for name, share in CLASSES.items())
    for name in NAMES:
        views = [one.view == VIEWS[1] for one in exposures if one.label == name]
        assert abs(np.mean(views) - 0.35) < 0.06


def test_the_marker_goes_with_the_label_where_it_should():
    exposures, plain = plan(2000, 0, 0.9), plan(2000, 0, 0.0)
    assert not any(one.marker for one in plain)
    assert [(e.image_id, e.label, e.view, e.split) for e in exposures] == [
        (e.image_id, e.label, e.view, e.split) for e in plain
    ]
    for split, wanted in (("train", 0.9), ("validation", 0.9), ("test", 0.5)):
        agrees = [one.marker == (one.label != "normal") for one in exposures if one.split == split]
        assert abs(np.mean(agrees) - wanted) < 4 * (wanted * (1 - wanted) / len(agrees)) ** 0.5
    for label in NAMES:
        tossed = [one.marker for one in exposures if one.split == "test" and one.label == label]
        assert abs(np.mean(tossed) - 0.5) < 4 * 0.5 / len(tossed) ** 0.5


def test_findings_come_without_regard_to_each_other():
    exposures = plan(2000, 0, 0.0, findings=True)
    found = np.array([one.findings for one in exposures])
    for finding, share in zip(found.T, (0.4, 0.35, 0.3), strict=True):
        assert abs(finding.mean() - share) < 0.05
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.07
    one = next(one for one in exposures if one.label == "both")
    assert one.findings[:2] == (1.0, 1.0)
    drawn, healthy = (radiograph(label, "PA", False, 0, one.patient, 0, 32) for label in ("both", "normal"))
    assert drawn.opacity.any() and not (drawn.opacity & ~drawn.lungs).any() and (drawn.lungs == healthy.lungs).all()


def test_the_marker_changes_its_corner_and_nothing_else():
    for patient in range(8):
        with_letter, without = (radiograph("normal", "AP", marker, 0, patient, 0, 64) for marker in (True, False))
        rows, columns = np.nonzero(with_letter.image != without.image)
        assert 0 < rows.size < 150 and rows.max() < 16 and columns.max() < 16
        assert with_letter.image.max() > 200 and (with_letter.lungs == without.lungs).all()


def probe(model, features, labels, test):
    pipeline = make_pipeline(StandardScaler(), model).fit(features[~test], labels[~test])
    return balanced_accuracy_score(labels[test], pipeline.predict(features[test]))


def test_brightness_and_raw_pixels_do_not_give_the_class_away(demo):
    images, labels, test = demo
    mean = images.mean(axis=(1, 2))[:, None]
    assert probe(LogisticRegression(class_weight="balanced"), mean, labels, test) < 0.42
    ridge = RidgeClassifier(alpha=1000.0, class_weight="balanced")
    pixels = probe(ridge, images.reshape(len(images), -1), labels, test)
    assert 0.4 < pixels < 0.65
