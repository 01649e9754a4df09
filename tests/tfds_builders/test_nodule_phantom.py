"""nodule_phantom: repeatable, whole patients, CT numbers that read back, a label by the median, brightness that tells
nothing.
"""

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfds_builders import prepare
from tfds_builders.common.splits import split_of
from tfds_builders.nodule_phantom.nodule_phantom_dataset_builder import Builder, plan
from tfds_builders.nodule_phantom.nodules import Nature, draw_nodule, label_of
from tfds_builders.nodule_phantom.scans import scan
from tfds_builders.nodule_phantom.space import grid_of, noise, tube

pytestmark = pytest.mark.slow

SMOOTH = Nature(1.5, 12.0, 0.0, 0.0, 0.5, "solid", "none")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare("nodule_phantom/tiny", data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def demo():
    """Volumes (0 for air to 1 for bone), labels (1 malignant) and whether in the test split, of the config `demo`."""
    config = Builder.builder_configs["demo"]
    chosen = [one for one in plan(config.patients, config.seed) if one.label != -1]
    volumes = [scan(o.nature, config.seed, o.patient, o.number, config.size, config.spacing)[0] for o in chosen]
    labels = np.array([one.label == "malignant" for one in chosen]).astype(int)
    test = np.array([split_of(one.patient_id, config.seed) == "test" for one in chosen])
    return np.clip((np.stack(volumes).astype(np.float32) + 1000) / 1400, 0, 1), labels, test


def test_a_scan_is_a_function_of_its_arguments():
    volume, mask = scan(SMOOTH, 0, 5, 0, 16, 2.0)
    again, mask_again = scan(SMOOTH, 0, 5, 0, 16, 2.0)
    assert (volume == again).all() and (mask == mask_again).all()
    assert volume.shape == mask.shape == (16, 16, 16) and volume.dtype == np.int16 and mask.dtype == bool
    for other in ((1, 5, 0), (0, 6, 0), (0, 5, 1)):
        assert (scan(SMOOTH, *other, 16, 2.0)[0] != volume).mean() > 0.9


@pytest.mark.parametrize(
    ("ratings", "label"),
    [((1, 2, 3, 5), "benign"), ((3, 3, 4, 5), "malignant"), ((2, 3, 3, 4), -1), ((2, 2, 4, 4), -1), ((1, 1, 5, 5), -1)],
)
def test_the_median_rules(ratings, label):
    assert label_of(np.array(ratings)) == label


def test_a_smooth_nodule_has_the_volume_of_its_diameter():
    volumes = [draw_nodule(SMOOTH, (0, i), grid_of(32, 1.0, (0.0, 0.3, -0.2))).cover.sum() for i in range(10)]
    assert np.mean(volumes) == pytest.approx(np.pi / 6 * 12**3, rel=0.08)


def test_spicules_make_the_surface_large():
    """Surface voxels over those of the ball of the same volume."""

    def roughness(spiculation):
        nature = Nature(3.0, 12.0, 0.3, spiculation, 0.5, "solid", "none")
        values = []
        for seed in range(6):
            inside = draw_nodule(nature, (1, seed), grid_of(32, 1.0, (0.0, 0.0, 0.0))).cover > 0.5
            rim = (inside & ~ndimage.binary_erosion(inside)).sum()
            values.append(rim / inside.sum() ** (2 / 3))
        return np.mean(values)

    assert roughness(1.0) > 1.15 * roughness(0.0)


def test_textures_and_calcium_have_their_hounsfield_units():
    def units(texture, calcification):
        nature = Nature(2.0, 14.0, 0.2, 0.0, 0.5, texture, calcification)
        drawn = [draw_nodule(nature, (2, seed), grid_of(32, 1.0, (0.0, 0.0, 0.0))) for seed in range(5)]
        return [one.units[one.cover > 0.9] for one in drawn]

    assert all(-20 <= u.min() and u.max() <= 60 for u in units("solid", "none"))
    assert all(-650 <= u.min() and u.max() <= -420 for u in units("ground-glass", "none"))
    assert all(u.min() < -350 and u.max() > -60 for u in units("part-solid", "none"))
    for calcification in ("central", "popcorn", "shell"):
        assert all(200 < u.max() < 1200 for u in units("solid", calcification))


def test_a_thick_tube_has_its_volume_and_a_thin_one_fills_voxels_in_part():
    grid = grid_of(32, 1.0, (0.0, 0.0, 0.0))
    points = np.array([[-30, 0, 0], [0, 0, 0], [30, 0, 0]], np.float32)
    assert tube(grid, points, 4.0).sum() == pytest.approx(32 * np.pi * 4**2, rel=0.05)
    thin = tube(grid, points, 0.3)
    assert 0.05 < thin.max() < 0.5
    assert not tube(grid, points + 100, 2.0).any()


def test_noise_is_interpolated_between_its_lattice():
    grid = grid_of(24, 1.0, (0.0, 0.0, 0.0))
    field = noise(np.random.default_rng(3), grid, 4.0)
    assert field.shape == (24, 24, 24) and 0.6 < field.std() < 1.4
    assert np.abs(np.diff(field, axis=0)).max() < 1.8 * 4 * 2 * 1.5 / 4


def test_what_is_stored(tiny, read, report):
    splits = read(tiny)
    assert tiny.info.metadata["group"] == "patient_id" and tiny.info.metadata["spacing_mm"] == 1.5
    assert "ynthetic" in tiny.info.description and report(tiny)["synthetic"] is True
    patients = [{row["patient_id"] for row in rows} for rows in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    for split, rows in splits.items():
        assert {row["label"] for row in rows} == {0, 1}
        assert all(split_of(row["patient_id"].decode(), 0) == split for row in rows)
        assert report(tiny)["splits"][split]["images"] == len(rows)
    rows = sum(splits.values(), [])
    assert len({row["image_id"] for row in rows}) == len(rows) > len(set.union(*patients))
    for row in rows:
        assert row["volume"].shape == row["mask"].shape == (16, 16, 16, 1)
        assert row["volume"].dtype == np.int16 and row["mask"].dtype == np.uint8
        assert row["volume"].min() >= -1024 and row["mask"].max() == 1
        assert row["mask"][6:10, 6:10, 6:10].any()
        assert (np.median(row["ratings"]) > 3) == row["label"] and set(row["ratings"]) <= set(range(1, 6))
        assert 1 <= row["malignancy"] <= 5 and 4.5 <= row["diameter_mm"] <= 18


def test_what_is_stored_is_what_was_drawn(tiny, read):
    row = read(tiny)["test"][0]
    patient, number = map(int, row["image_id"].decode().split("_")[-2:])
    nature = next(one.nature for one in plan(90, 0) if (one.patient, one.number) == (patient, number))
    volume, mask = scan(nature, 0, patient, number, 16, 1.5)
    assert (row["volume"][..., 0] == volume).all() and (row["mask"][..., 0] == mask).all()


def test_graded_keeps_the_median_three_without_label(tmp_path, read, report, monkeypatch):
    monkeypatch.setattr(Builder.builder_configs["graded"], "patients", 40)
    monkeypatch.setattr(Builder.builder_configs["graded"], "size", 8)
    builder = prepare("nodule_phantom/graded", data_dir=tmp_path)
    rows = sum(read(builder).values(), [])
    unlabelled = [row for row in rows if row["label"] == -1]
    assert len(rows) == len(plan(40, 0)) and 0 < len(unlabelled) < len(rows)
    assert all((np.median(row["ratings"]) == 3) == (row["label"] == -1) for row in rows)
    assert report(builder)["median_rating_3"] == {"nodules": len(unlabelled), "kept": True}


def test_readers_follow_the_latent_malignancy_and_differ():
    nodules = plan(1400, 0)
    latent, ratings = np.array([one.nature.malignancy for one in nodules]), np.stack([one.ratings for one in nodules])
    assert stats.spearmanr(latent, np.median(ratings, axis=1)).statistic > 0.9
    assert 0.1 < (ratings.max(axis=1) == ratings.min(axis=1)).mean() < 0.5
    for trait in ("diameter", "lobulation", "spiculation", "margin"):
        values = [getattr(one.nature, trait) for one in nodules]
        assert 0.2 < stats.spearmanr(latent, values).statistic < 0.95
    calcified = latent[[one.nature.calcification != "none" for one in nodules]]
    assert len(calcified) > 50 and calcified.max() < 3


def probe(model, features, labels, test):
    pipeline = make_pipeline(StandardScaler(), model).fit(features[~test], labels[~test])
    return balanced_accuracy_score(labels[test], pipeline.predict(features[test]))


def test_brightness_and_raw_voxels_do_not_give_the_label_away(demo):
    volumes, labels, test = demo
    mean = volumes.mean(axis=(1, 2, 3))[:, None]
    assert probe(LogisticRegression(class_weight="balanced"), mean, labels, test) < 0.62
    ridge = RidgeClassifier(alpha=1000.0, class_weight="balanced")
    voxels = probe(ridge, volumes.reshape(len(volumes), -1), labels, test)
    assert 0.55 < voxels < 0.72
