"""ISIC 2016, 2017 and 2018 on small data in the official formats: contents, official splits, masks, counts, errors."""

import csv

import numpy as np
import pytest
from isic_years import CLASSES_2018, photographs, table_2018, year_2016, year_2017, year_2018
from official_format import jpeg

from tfds_builders import prepare

pytestmark = pytest.mark.slow

YEARS = {2016: year_2016, 2017: year_2017, 2018: year_2018}


@pytest.fixture
def make(tmp_path):
    """Function: the small official files of a year, not yet written."""
    return lambda year: YEARS[year](tmp_path / "manual")


@pytest.fixture
def build(tmp_path):
    """Function: writes the files of a year and prepares them."""

    def prepared(files, year, config="64", **options):
        return prepare(f"isic{year}/{config}", data_dir=tmp_path / "data", manual_dir=files.write(), **options)

    return prepared


def ids(examples):
    return {example["image_id"].decode() for example in examples}


def stems(images):
    return {name[:-4] for name in images if name.endswith(".jpg")}


@pytest.mark.parametrize("year", YEARS)
def test_official_splits_are_disjoint_and_whole(make, build, read, year):
    files = make(year)
    splits = read(build(files, year))
    stem = {2016: "ISBI2016_ISIC_Part3_{}_Data", 2017: "ISIC-2017_{}_Data", 2018: "ISIC2018_Task3_{}_Input"}[year]
    training = stems(files.archives[stem.format("Training")])
    test = stems(files.archives[stem.format("Test_v2" if year == 2017 else "Test")])
    assert ids(splits["test"]) == test
    if year == 2016:
        assert ids(splits["train"]) | ids(splits["validation"]) == training
        assert ids(splits["validation"]) and not ids(splits["train"]) & ids(splits["validation"])
    else:
        assert ids(splits["train"]) == training
        assert ids(splits["validation"]) == stems(files.archives[stem.format("Validation")])
    lesions = [{example["lesion_id"] for example in examples} for examples in splits.values()]
    assert sum(map(len, lesions)) == len(set.union(*lesions))
    assert all(example["image"].shape == (64, 64, 3) for example in splits["test"])


def test_2016_words_and_numbers_are_the_same_labels(make, build, read, report):
    builder = build(make(2016), 2016)
    splits = read(builder)
    for example in [*splits["train"], *splits["validation"]]:
        assert example["label"] == (int(example["image_id"][-7:]) % 4 == 0)
    assert [sum(example["label"] for example in splits["test"]), len(splits["test"])] == [2, 8]
    assert report(builder)["differs_from_published"] == [
        "training: 40 images, published 900", "training: 30 benign, published 727",
        "training: 10 malignant, published 173", "test: 8 images, published 379", "test: 6 benign, published 304",
        "test: 2 malignant, published 75",
    ]  # fmt: skip


def test_2016_copies_in_training_stay_together(make, build, read):
    files = make(2016)
    for i in range(12):
        files.archives["ISBI2016_ISIC_Part3_Training_Data"][f"ISIC_{i:07d}.jpg"] = jpeg(5)
    splits = read(build(files, 2016))
    copies = {f"ISIC_{i:07d}" for i in range(12)}
    assert sum(bool(copies & ids(examples)) for examples in splits.values()) == 1


def test_2017_tasks(make, build, read):
    for example in read(build(make(2017), 2017))["train"]:
        place = int(example["image_id"][-7:]) % 3
        assert example["label"] == place
        assert (example["melanoma"], example["seborrheic_keratosis"]) == (place == 0, place == 1)


def test_2018_lesions_and_labels(make, build, read, report):
    builder = build(make(2018), 2018)
    splits = read(builder)
    for example in splits["train"]:
        number = int(example["image_id"][-7:])
        assert example["label"] == number % 7 and example["lesion_id"].decode() == f"HAM_{number // 2:07d}"
        assert example["confirmation"] == b"histopathology"
    assert sorted(example["label"] for example in splits["test"]) == [0, 1, 2, 3]
    assert all(example["lesion_id"] == example["image_id"] for example in splits["test"])
    assert report(builder)["splits"]["train"]["groups"] == 7
    assert report(builder)["images_not_in_the_tables"] == {"training": 0, "validation": 0, "test": 0}


def test_2018_without_the_labels_of_the_test(make, build, read, report):
    files = make(2018)
    del files.archives["ISIC2018_Task3_Test_GroundTruth"]
    builder = build(files, 2018)
    assert [example["label"] for example in read(builder)["test"]] == [-1] * 4
    assert "test: 4 images, published 1512" in report(builder)["differs_from_published"]
    assert not any(line.startswith("test") and "MEL" in line for line in report(builder)["differs_from_published"])


def test_2018_plain_tables(make, build, read):
    files = make(2018)
    for part in ("Training", "Validation", "Test"):
        stem = f"ISIC2018_Task3_{part}_GroundTruth"
        (text,) = files.archives.pop(stem).values()
        files.tables[f"{stem}.csv"] = text.decode()
    assert len(read(build(files, 2018))["train"]) == 14


MASK_CONFIGS = {2016: "64_mask", 2017: "full_mask", 2018: "segmentation_224"}


@pytest.mark.parametrize("year", YEARS)
def test_masks(make, build, read, report, year):
    builder = build(make(year), year, MASK_CONFIGS[year])
    for example in (example for examples in read(builder).values() for example in examples):
        inside = example["mask"][..., 0] == 255
        assert example["has_mask"] and inside.shape == example["image"].shape[:2]
        assert inside.mean() == pytest.approx(1 / 6, abs=0.03)
        assert (example["label"] == -1) == (year == 2018)
    number = report(builder)["splits"]["test"]["images"]
    assert any(line.startswith(f"test: {number} masks, ") for line in report(builder)["differs_from_published"])


def test_an_absent_mask_is_counted(make, build, report):
    files = make(2017)
    files.archives["ISIC-2017_Training_Part1_GroundTruth"].popitem()
    assert "training: 8 masks, published 2000" in report(build(files, 2017, "64_mask"))["differs_from_published"]


def test_2016_masks_of_part_3b(make, build, read):
    files = make(2016)
    for part in ("Training", "Test"):
        images = files.archives[f"ISBI2016_ISIC_Part3_{part}_Data"]
        masks = files.archives.pop(f"ISBI2016_ISIC_Part1_{part}_GroundTruth")
        files.archives[f"ISBI2016_ISIC_Part3B_{part}_Data"] = images | masks
    assert all(example["has_mask"] for example in read(build(files, 2016, "64_mask"))["test"])


def drop(name):
    return lambda files: (files.archives if name in files.archives else files.tables).pop(name)


def retext(name, old, new):
    return lambda files: files.tables.update({name: files.tables[name].replace(old, new)})


def empty_image(stem, name):
    return lambda files: files.archives[stem].update({name: b""})


def lose_image(stem, name):
    return lambda files: files.archives[stem].pop(name)


T16, T17 = "ISBI2016_ISIC_Part3_Training_GroundTruth.csv", "ISIC-2017_Validation_Part3_GroundTruth.csv"
LESIONS, TRUTH = "ISIC2018_Task3_Training_LesionGroupings.csv", "ISIC2018_Task3_Training_GroundTruth"
WRONG = {
    "2016 header": (2016, retext(T16, "ISIC_0000000,malignant", "image,label"), "line 1: 'image,label' is not an ima"),
    "2016 columns": (2016, retext(T16, "malignant", "malignant,x"), "'ISIC_0000000,malignant,x' is not an image and a"),
    "2016 twice": (2016, retext(T16, "ISIC_0000001", "ISIC_0000000"), "ISIC_0000000 is listed twice"),
    "2016 no table": (2016, drop(T16), "ISBI2016_ISIC_Part3_Training_GroundTruth not found in .*#2016"),
    "2016 image": (2016, empty_image("ISBI2016_ISIC_Part3_Test_Data", "ISIC_0000041.jpg"), "ISIC_0000041 is empty"),
    "2017 column": (2017, retext(T17, "melanoma", "mel"), "has no column melanoma"),
    "2017 both": (2017, retext(T17, "0009,1.0,0.0", "0009,1.0,1.0"), "0009: melanoma=1.0, seb.*1 at most once"),
    "2017 nan": (2017, retext(T17, "0009,1.0,0.0", "0009,nan,0.0"), "0009: melanoma=nan, seb.*0 and 1 are wanted"),
    "2017 image": (2017, lose_image("ISIC-2017_Test_v2_Data", "ISIC_0000012.jpg"), "1 of 18 images .* ISIC_0000012"),
    "2017 test": (2017, drop("ISIC-2017_Test_v2_Data"), "ISIC-2017_Test_v2_Data not found"),
    "2018 lesions": (2018, drop(LESIONS), "ISIC2018_Task3_Training_LesionGroupings not found"),
    "2018 lesion": (2018, retext(LESIONS, "ISIC_0000003", "ISIC_0000333"), "0003: not in .*LesionGroupings.csv"),
    "2018 one-hot": (
        2018,
        lambda files: files.archives[TRUTH].update({f"{TRUTH}.csv": table_2018({"ISIC_0000000": "SCC"}).encode()}),
        "ISIC_0000000 is not one-hot",
    ),
    "2018 two tables": (2018, lambda files: files.archives[TRUTH].update({"x.csv": b""}), "holds 2 CSV files, not one"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_left(make, build, tmp_path, case):
    year, spoil, message = WRONG[case]
    files = make(year)
    spoil(files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(files, year)
    assert {path.name for path in (tmp_path / "data").rglob("*")} <= {f"isic{year}_64_damaged.json"}


@pytest.mark.parametrize("year", YEARS)
def test_absent_masks_are_asked_for(make, build, year):
    files = make(year)
    files.archives = {
        name: members for name, members in files.archives.items() if "Part1" not in name and "Task1_" not in name
    }
    with pytest.raises(FileNotFoundError, match="(Part1|Task1)_.*not found"):
        build(files, year, MASK_CONFIGS[year])


def test_few_damaged_rows_are_listed(make, build, read, report):
    files = make(2018)
    retext(LESIONS, "ISIC_0000003", "ISIC_0000333")(files)
    builder = build(files, 2018, max_damaged=0.1)
    assert len(read(builder)["train"]) == 13 and len(report(builder)["damaged"]) == 1
    assert report(builder)["images_not_in_the_tables"]["training"] == 1


def test_ham10000_is_the_training_set_of_2018(real_data, make, build, read, report):
    files = make(2018)
    with open(real_data / "isic2019" / "HAM10000_metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    stem = "ISIC2018_Task3_Training"
    del files.archives[f"{stem}_Input"], files.archives[f"{stem}_GroundTruth"]
    files.tables[f"{stem}_GroundTruth.csv"] = table_2018({row["image_id"]: row["dx"].upper() for row in rows})
    lines = "".join(f"{row['image_id']},{row['lesion_id']},{row['dx_type']}\n" for row in rows)
    files.tables[LESIONS] = "image,lesion_id,diagnosis_confirm_type\n" + lines
    for part, first in (("Validation", 9000000), ("Test", 9100000)):
        images = files.archives[f"ISIC2018_Task3_{part}_Input"] = photographs(first, 2)
        files.archives[f"ISIC2018_Task3_{part}_GroundTruth"] = {
            "t.csv": table_2018({name[:-4]: "NV" for name in images}).encode()
        }
    files.write()
    (files.folder / f"{stem}_Input.zip").symlink_to(real_data / "isic2019" / "ISIC_2019_Training_Input.zip")
    builder = build(files, 2018)
    found = report(builder)
    assert not any(line.startswith("training") for line in found["differs_from_published"])
    assert found["splits"]["train"]["classes"]["AKIEC"] == 327
    train = read(builder)["train"]
    assert len(train) == 10015 and len({example["lesion_id"] for example in train}) == 7470
    assert np.bincount([example["label"] for example in train], minlength=len(CLASSES_2018)).sum() == 10015
