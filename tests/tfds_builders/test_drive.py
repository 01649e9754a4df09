"""DRIVE on small data in the official format: splits, masks, the release without test manuals, layouts, damage."""

import zipfile

import numpy as np
import pytest
from fundus_sets import HEIGHT, WIDTH, Drive, gif_of, photograph, vessels, write_members

from tfds_builders import prepare
from tfds_builders.common.archives import Archive
from tfds_builders.drive.drive_dataset_builder import SUFFIXES, find_records, find_unused

VALIDATION = {"21_training", "32_training", "37_training"}


@pytest.fixture
def files(tmp_path) -> Drive:
    return Drive(tmp_path / "manual")


@pytest.fixture
def build(files, tmp_path):
    """Function: writes the files and prepares them."""

    def prepared(how="zips", config="full_mask", out="data", **options):
        return prepare(f"drive/{config}", data_dir=tmp_path / out, manual_dir=files.write(how), **options)

    return prepared


def ids(examples):
    return {example["image_id"].decode() for example in examples}


def number_of(example):
    return int(example["image_id"][:2])


def test_names_say_part_and_mask(tmp_path):
    names = ["images/21_training.tif", "images/3_test.TIF", "1st_manual/21_manual1.gif", "2nd_manual/3_manual2.gif"]
    write_members(tmp_path, dict.fromkeys([*names, "mask/21_training_mask.gif", "images/eye.tif", "notes.txt"], b"x"))
    archive = Archive(tmp_path, SUFFIXES)
    (training,), (test,) = (find_records(part, archive) for part in ("training", "test"))
    assert (training.image_id, training.split, training.mask) == ("21_training", "", ("training", "21_manual1"))
    assert (test.image_id, test.split, test.mask) == ("3_test", "test", None)
    assert find_unused({"training": archive, "test": archive}) == ["eye"]


@pytest.mark.slow
def test_splits_images_and_masks_are_the_official_ones(build, read, report):
    builder = build()
    splits = read(builder)
    assert ids(splits["test"]) == {f"{number:02d}_test" for number in range(1, 21)}
    assert ids(splits["validation"]) == VALIDATION
    assert ids(splits["train"]) == {f"{number}_training" for number in range(21, 41)} - VALIDATION
    for example in (example for examples in splits.values() for example in examples):
        assert example["image"].shape == (HEIGHT, WIDTH, 3) and example["mask"].shape == (HEIGHT, WIDTH, 1)
        assert (example["image"] == photograph(number_of(example))).all()
        assert example["has_mask"] and example["mask"].dtype == np.uint8
        assert (example["mask"][..., 0] == 255 * vessels(number_of(example))).all()
        assert example["group"] == example["image_id"] and "label" not in example
    said = report(builder)
    assert said["differs_from_published"] == said["warnings"] == said["images_not_used"] == []
    assert said["images_with_mask"] == 40 and said["inputs"].keys() == {"training", "test"}


@pytest.mark.slow
def test_small_masks_are_majorities_of_the_vessels(build, read):
    splits = read(build(config="64_mask"))
    for example in splits["test"]:
        mask = example["mask"]
        assert mask.shape == (64, 64, 1) and set(np.unique(mask)) == {0, 255}
        assert abs((mask > 0).mean() - vessels(number_of(example)).mean()) < 0.02


@pytest.mark.slow
def test_without_masks_none_is_stored_nor_asked_for(files, build, read, report):
    files.members = {name: data for name, data in files.members.items() if name.endswith(".tif")}
    builder = build(config="64")
    assert read(builder)["test"][0].keys() == {"image", "image_id", "group"}
    assert report(builder)["counts"] == {"training": 20, "test": 20}
    assert report(builder)["differs_from_published"] == []


@pytest.mark.slow
def test_the_release_without_test_manuals(files, build, read, report):
    files.without_test_manuals()
    builder = build(config="64_mask")
    splits = read(builder)
    assert not any(example["has_mask"] or example["mask"].any() for example in splits["test"])
    assert all(example["has_mask"] for example in [*splits["train"], *splits["validation"]])
    assert report(builder)["differs_from_published"] == ["test, masks: 0, published 20"]
    assert "no test image has a manual segmentation" in report(builder)["warnings"][0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["folders", "DRIVE.zip", "datasets.zip", "DRIVE"])
def test_every_layout_gives_the_same(files, build, read, tmp_path, how):
    first = read(build(config="64_mask"))
    files.folder = tmp_path / "other_manual"
    second = read(build(how, config="64_mask", out="other"))
    for split, examples in first.items():
        others = {number_of(example): example for example in second[split]}
        assert len(examples) == len(others)
        for example in examples:
            other = others[number_of(example)]
            assert (example["image"] == other["image"]).all() and (example["mask"] == other["mask"]).all()


@pytest.mark.slow
def test_a_training_copy_of_a_test_image_is_left_out(files, build, read, report):
    files.members["training/images/30_training.tif"] = files.members["test/images/04_test.tif"]
    builder = build(config="64")
    assert "30_training" not in ids(read(builder)["train"])
    assert report(builder)["left_out_as_copies_of_held_out_images"] == ["30_training"]


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["training", "test"])
def test_what_is_missing_is_named(files, tmp_path, missing):
    (files.write("zips") / f"{missing}.zip").unlink()
    with pytest.raises(FileNotFoundError, match=f"^{missing}.zip not found in .*drive.grand-challenge.org"):
        prepare("drive/64", data_dir=tmp_path / "data", manual_dir=files.folder)
    assert not (tmp_path / "data" / "drive").exists()


@pytest.mark.slow
def test_zip_files_in_a_zip_file_are_an_error_that_says_what_to_do(files, tmp_path):
    folder = files.write("zips")
    with zipfile.ZipFile(folder / "datasets.zip", "w") as outer:
        for part in ("training", "test"):
            outer.write(folder / f"{part}.zip", f"{part}.zip")
            (folder / f"{part}.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"datasets.zip holds no image NN_training.tif.*unpack the outer one"):
        prepare("drive/64", data_dir=tmp_path / "data", manual_dir=folder)


def put(name, data):
    return lambda files: files.members.update({name: data})


def cut(name):
    return lambda files: files.members.update({name: files.members[name][:-40]})


DAMAGES = {
    "empty image": (put("training/images/22_training.tif", b""), "image .*22_training is empty"),
    "cut image": (cut("test/images/05_test.tif"), "05_test cannot be decoded"),
    "cut mask": (cut("training/1st_manual/23_manual1.gif"), "23_manual1 cannot be decoded"),
    "mask of another image": (
        put("test/1st_manual/06_manual1.gif", gif_of(vessels(6)[:, :30])),
        "06_manual1 is 30x58 but its image is 56x58: the mask belongs to another image",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_listed(files, build, read, report, damage):
    spoil, message = DAMAGES[damage]
    spoil(files)
    with pytest.raises(ValueError, match=f"1 of 40 inputs are damaged.*{message}"):
        build(config="64_mask")
    builder = build(config="64_mask", max_damaged=0.1)
    assert len(report(builder)["damaged"]) == 1 and sum(map(len, read(builder).values())) == 39
