"""Kermany's pneumonia: what names and folders mean, patients kept whole, the published split, wrong files."""

import logging

import numpy as np
import pytest
from cxr_sets import grey, kaggle, mendeley

from tfds_builders import prepare
from tfds_builders.common.parts import carve, cross_counts, torn_groups
from tfds_builders.kermany_pneumonia.names import CLASSES, read_names

pytestmark = pytest.mark.slow


@pytest.fixture
def build(tmp_path):
    """Function: writes the files of a set and prepares them."""

    def prepared(files, config="64", zipped=True, **options):
        folder = files.write(zipped)
        return prepare(f"kermany_pneumonia/{config}", data_dir=tmp_path / "data", manual_dir=folder, **options)

    return prepared


def by_id(splits):
    return {
        example["image_id"].decode(): (split, example) for split, examples in splits.items() for example in examples
    }


def patients(examples):
    return {example["patient_id"].decode() for example in examples}


@pytest.mark.parametrize(
    ("name", "patient", "label"),
    [
        ("train/PNEUMONIA/person1_bacteria_2.jpeg", "person1", "bacterial"),
        ("chest_xray/val/PNEUMONIA/person12_virus_921_1.jpeg", "person12", "viral"),
        ("test/NORMAL/IM-0001-0001.jpeg", "IM-0001", "normal"),
        ("test/NORMAL/IM-0003-0001-0002.jpeg", "IM-0003", "normal"),
        ("train/NORMAL/NORMAL2-IM-0003-0001.jpeg", "NORMAL2-IM-0003", "normal"),
        ("CellData/chest_xray/train/NORMAL/NORMAL-28501-0001.jpeg", "28501", "normal"),
        ("CellData/chest_xray/test/PNEUMONIA/BACTERIA-28501-0002.jpeg", "28501", "bacterial"),
        ("CellData/chest_xray/test/PNEUMONIA/VIRUS-7-0002.jpeg", "7", "viral"),
    ],
)
def test_names(name, patient, label):
    (file,) = read_names([name]).files
    assert (file.patient_id, file.label, file.path) == (patient, label, name)
    assert file.folder == name.split("/")[-3] and file.image_id == name.split("/")[-1][:-5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train/PNEUMONIA/scan_1.jpeg", "its name is none of person<ID>_bacteria"),
        ("train/PNEUMONIA/person1_fungus_2.jpeg", "its patient is not known"),
        ("train/PNEUMONIA/xperson1_virus_2.jpeg", "its patient is not known"),
        ("train/NORMAL/person1_virus_2.jpeg", "its name says viral, its folder NORMAL"),
        ("train/PNEUMONIA/IM-0001-0001.jpeg", "its name says normal, its folder PNEUMONIA"),
        ("spare/NORMAL/IM-0001-0001.jpeg", "does not lie in {train,val,test}/{NORMAL,PNEUMONIA}/"),
        ("train/COVID/IM-0001-0001.jpeg", "does not lie in"),
        ("NORMAL/IM-0001-0001.jpeg", "does not lie in"),
        ("IM-0001-0001.jpeg", "does not lie in"),
    ],
)
def test_what_fits_no_rule_is_damaged(name, message):
    listing = read_names([name])
    assert not listing.files and message in listing.damaged[0].reason and listing.damaged[0].path == name


def test_copies_and_other_images_are_passed_over():
    names = ["train/NORMAL/IM-0001-0001.jpeg", "chest_xray/train/NORMAL/IM-0001-0001.jpeg", "CellData/OCT/x/CNV-1.jpeg"]
    listing = read_names(names)
    assert [file.path for file in listing.files] == names[:1]
    assert (listing.copies, listing.others, listing.damaged) == (1, 1, [])
    twice = read_names(["train/NORMAL/IM-0001-0001.jpeg", "test/NORMAL/IM-0001-0001.jpeg"])
    assert len(twice.files) == 1 and "there is another IM-0001-0001, test/NORMAL" in twice.damaged[0].reason


def test_torn_groups_and_counts():
    torn = torn_groups(["a", "a", "b", "c", "c", "c"], ["test", "train", "train", "train", "val", "val"])
    assert torn == {"test and train": {"patients": 1, "images": 2}, "train and val": {"patients": 1, "images": 3}}
    assert cross_counts([("b", "x"), ("a", "y"), ("b", "x")]) == {"a": {"y": 1}, "b": {"x": 2}}
    drawn = carve([str(number) for number in range(4000)], 3)
    assert drawn.count("validation") == pytest.approx(500, abs=70) and set(drawn) == {"train", "validation"}


@pytest.mark.parametrize("make", [kaggle, mendeley])
def test_patients_are_whole(make, build, read, report, tmp_path, caplog):
    files = make(tmp_path / "manual")
    builder = build(files)
    splits = read(builder)
    found = by_id(splits)
    used = {name for name in files.archives["chest_xray"] if "OCT" not in name}
    assert found.keys() == {name.split("/")[-1][:-5] for name in used}
    groups = [patients(examples) for examples in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == report(builder)["patients"]
    assert report(builder)["counts"]["images"] == len(used)
    assert f"images: {len(used)}, published 5856" in report(builder)["differs_from_published"]
    assert builder.info.features["label"].names == list(CLASSES)
    assert all(example["image"].shape == (64, 64, 1) for _, example in found.values())
    assert not [record for record in caplog.records if "cross the borders" in record.message]


def test_labels_are_those_of_the_names(build, read, tmp_path):
    found = by_id(read(build(kaggle(tmp_path / "manual"))))
    for name, (_, example) in found.items():
        word = "bacterial" if "bacteria" in name else "viral" if "virus" in name else "normal"
        assert CLASSES[example["label"]] == word
    split, example = found["person3_virus_103"]
    assert example["folder"] == b"test" and split == found["person3_bacteria_3"][0]
    assert found["person4_bacteria_7_1"][1]["patient_id"] == b"person4"


def test_published_split_with_its_warning(build, read, report, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        builder = build(kaggle(tmp_path / "manual"), "64_published")
    splits = read(builder)
    assert {example["folder"] for example in splits["test"]} == {b"test"} and len(splits["test"]) == 20
    assert not patients(splits["train"]) & patients(splits["validation"])
    assert {example["folder"] for example in [*splits["train"], *splits["validation"]]} == {b"train", b"val"}
    torn = {"test and training": {"patients": 20, "images": 40}}
    assert report(builder)["patients_torn_by_the_published_split"] == torn
    assert "20 patients (40 images) in test and training" in caplog.text


def test_published_split_without_torn_patients(build, report, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        builder = build(mendeley(tmp_path / "manual"), "64_published")
    assert report(builder)["patients_torn_by_the_published_split"] == {}
    assert report(builder)["left_out"] == {"second copies": 0, "other images (OCT)": 1}
    assert "cross the borders" not in caplog.text


def test_folder_and_zip_give_the_same(build, read, tmp_path):
    zipped = by_id(read(build(kaggle(tmp_path / "manual"))))
    folder = kaggle(tmp_path / "folder").write(zipped=False)
    other = by_id(read(prepare("kermany_pneumonia/64", data_dir=tmp_path / "other", manual_dir=folder)))
    assert {name: split for name, (split, _) in zipped.items()} == {name: split for name, (split, _) in other.items()}
    assert all((example["image"] == other[name][1]["image"]).all() for name, (_, example) in zipped.items())


def test_few_damaged_files_are_listed_many_are_an_error(build, report, tmp_path):
    files = kaggle(tmp_path / "manual")
    files.archives["chest_xray"] |= {"train/NORMAL/scan.jpeg": grey(1), "test/NORMAL/IM-0900-0001.jpeg": grey(2)[:200]}
    with pytest.raises(ValueError, match=r"chest_xray.zip: train/NORMAL/scan.jpeg: its name is none of"):
        build(files)
    builder = prepare(
        "kermany_pneumonia/64", data_dir=tmp_path / "data", manual_dir=tmp_path / "manual", max_damaged=0.1
    )
    reasons = [item["reason"] for item in report(builder)["damaged"]]
    assert len(reasons) == 2 and "is cut short" in "".join(reasons)


def test_no_archive(tmp_path):
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "archive.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"chest_xray.zip not found in .*Put the archive of https"):
        prepare("kermany_pneumonia/64", data_dir=tmp_path / "data", manual_dir=tmp_path / "manual")
    assert not (tmp_path / "data" / "kermany_pneumonia").exists()


def test_real_archive(real_data, tmp_path, read, report):
    builder = prepare("kermany_pneumonia/64", data_dir=tmp_path, manual_dir=real_data / "kermany")
    splits = read(builder)
    counts = report(builder)["counts"]
    assert [counts[name] for name in ("images", *CLASSES)] == [5856, 1583, 2780, 1493]
    groups = [patients(examples) for examples in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == report(builder)["patients"] == 3118
    # NORMAL2-IM-0095 and NORMAL2-IM-0096 are one photograph.
    assert sum(part["groups"] for part in report(builder)["splits"].values()) == 3117
    pixels = [{example["image"].tobytes() for example in examples} for examples in splits.values()]
    assert not pixels[0] & pixels[1] and not pixels[0] & pixels[2] and not pixels[1] & pixels[2]
    shares = np.array([len(examples) for examples in splits.values()]) / 5856
    assert np.abs(shares - [0.7, 0.1, 0.2]).max() < 0.02
    # The folders of this copy were drawn by image.
    torn = report(builder)["patients_torn_by_the_published_split"]
    assert torn == {"test and training": {"patients": 453, "images": 1870}}
