"""lidc_nodules on small files: labels by rule, masks by half of the readers, whole patients, what is refused."""

import numpy as np
import pytest
from nodule_crops import Crops

from tfds_builders import prepare
from tfds_builders.common.damage import DamagedInput, TooMuchDamage
from tfds_builders.lidc_nodules.crops import make_nodule, read_arrays
from tfds_builders.lidc_nodules.lidc_nodules_dataset_builder import Builder


@pytest.fixture
def crops(tmp_path):
    return Crops(tmp_path / "manual")


def make_row(**changes):
    return dict(index="0", patient_id="P", nodule="1", readers="4", malignancy_ratings="3|3|2|5") | changes


def test_a_label_follows_its_statistic():
    nodule = make_nodule(make_row(), 1)
    assert nodule.label("median") is None and nodule.label("mean") == "malignant"
    assert make_nodule(make_row(malignancy_ratings="2"), 1).label("median") == "benign"


def test_a_pixel_is_of_the_nodule_if_half_of_its_readers_marked_it():
    votes = np.array([[[0, 1, 2, 4]]], np.uint8)
    for readers, inside in ((4, [0, 0, 1, 1]), (3, [0, 0, 1, 1]), (2, [0, 1, 1, 1]), (1, [0, 1, 1, 1])):
        assert make_nodule(make_row(readers=str(readers)), 1).mask(votes).ravel().tolist() == inside


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": "7"}, "index is 7, but there are 7 images: it must be from 0 to 6"),
        ({"index": "x"}, "no whole number"),
        ({"malignancy_ratings": "3|6"}, "malignancy_ratings are 3|6: each must be from 1 to 5"),
        ({"readers": "0"}, "at least one reader"),
        ({"patient_id": ""}, "needs patient_id"),
    ],
)
def test_a_row_that_cannot_be_used_is_damage(changes, message):
    with pytest.raises(DamagedInput) as error:
        make_nodule(make_row(**changes), 7)
    assert message in str(error.value)


def test_arrays_of_another_form_are_refused(tmp_path, crops):
    path = crops.write() / "nodules_3x64x64.npz"
    np.savez(path, image=crops.images[:, :, :32], mask_votes=crops.votes)
    with pytest.raises(ValueError, match=r"`image` is uint8 \(100, 3, 32, 64\); it must be uint8 \('N', 3, 64, 64\)"):
        read_arrays(path)
    np.savez(path, image=crops.images)
    with pytest.raises(ValueError, match="no file of `image` and `mask_votes`"):
        read_arrays(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="no file of"):
        read_arrays(path)


def test_configs_say_which_nodules_they_keep():
    nodules = [make_nodule(make_row(readers=str(r), malignancy_ratings=m), 1) for r, m in ((1, "2"), (4, "3|3|3|3"))]
    kept = {name: [c.keeps(nodule) for nodule in nodules] for name, c in Builder.builder_configs.items()}
    assert kept["64"] == [True, False] and kept["64_all"] == [True, True]
    assert kept["64_3readers"] == [False, False] and kept["64_mean_3readers_all"] == [False, True]


@pytest.mark.slow
def test_prepared_nodules_keep_patients_whole(tmp_path, crops, read, report):
    crops.images[5] = crops.images[0]
    builder = prepare("lidc_nodules/64_all", data_dir=tmp_path / "data", manual_dir=crops.write())
    splits = read(builder)
    found = {example["image_id"].decode(): example for examples in splits.values() for example in examples}
    assert len(found) == 100 and set(found["P-003_0"]["views"].shape) == {3, 64, 1}
    np.testing.assert_array_equal(found["P-003_0"]["views"][..., 0], crops.images[15])
    # Four readers: two marks of the middle and the last plane are half.
    assert found["P-003_0"]["mask"].sum(axis=(1, 2, 3)).tolist() == [0, 100, 100]
    assert [found[f"P-003_{n}"]["label"] for n in range(5)] == [1, 0, -1, 0, 1]
    patients = [{example["patient_id"] for example in examples} for examples in splits.values()]
    assert len(set.union(*patients)) == 20 == sum(map(len, patients))
    assert report(builder)["joined_groups"] == [["P-000", "P-001"]]


@pytest.mark.slow
def test_damage_and_doubles_are_told(tmp_path, crops):
    crops.rows[3] = crops.rows[3].replace("3,P", "300,P", 1)
    with pytest.raises(TooMuchDamage, match="labels.csv, line 5: index is 300"):
        prepare("lidc_nodules", data_dir=tmp_path / "data", manual_dir=crops.write())
    crops.rows[3] = crops.rows[2]
    with pytest.raises(ValueError, match="the nodule P-000_2 is there 2 times: keep one of the rows"):
        prepare("lidc_nodules", data_dir=tmp_path / "data", manual_dir=crops.write())
    (crops.folder / "labels.csv").unlink()
    with pytest.raises(FileNotFoundError, match="labels.csv not found in .*their form stands in README.md"):
        prepare("lidc_nodules", data_dir=tmp_path / "data", manual_dir=crops.folder)
