"""RSNA Pneumonia on small data in the official format: contents, patients by the mapping file, layouts, damage."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from chest_sets import MAPPING, Rsna, dicom
from dicom_files import radiograph, to_bytes

from tfds_builders import prepare
from tfds_builders.common.splits import split_of
from tfds_builders.rsna_pneumonia import official as names

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path) -> Rsna:
    return Rsna(tmp_path / "manual")


@pytest.fixture
def build(files, tmp_path):
    """Function: writes the files and prepares them."""

    def prepared(how="folders", config="64", out="data", **options):
        return prepare(f"rsna_pneumonia/{config}", data_dir=tmp_path / out, manual_dir=files.write(how), **options)

    return prepared


def by_id(splits):
    return {example["image_id"].decode(): example for examples in splits.values() for example in examples}


def homes(splits, key):
    places = {}
    for split, examples in splits.items():
        for example in examples:
            places.setdefault(example[key].decode(), set()).add(split)
    return places


def name_of(number):
    return f"{number:08x}-aaaa"


def test_every_image_arrives_with_its_values(files, build, read):
    builder = build()
    found = by_id(read(builder))
    assert found.keys() == {name_of(number) for number in range(90)}
    labels = builder.info.features["label"].names
    assert labels == ["Normal", "No Lung Opacity / Not Normal", "Lung Opacity"]
    for number in range(90):
        example = found[name_of(number)]
        assert example["label"] == number % 3 and example["target"] == (number % 3 == 2)
        assert example["view"] == (b"PA", b"AP")[number % 2]
        assert example["patient_id"].decode() == f"{number // 3:08d}"
        assert example["nih_image_id"].decode() == f"{number // 3:08d}_{number:03d}"
        assert len(example["boxes"]["box"]) == (1 + number % 2 if number % 3 == 2 else 0)
        assert example["image"].shape == (64, 64, 1) and example["image"].dtype == np.uint8
    boxes = found[name_of(5)]["boxes"]["box"]
    wanted = [[152, 264, 152 + 379, 264 + 213], [152, 562, 152 + 453, 562 + 256]]
    assert np.allclose(boxes, np.array(wanted) / 1024)


def test_pixels_are_those_of_the_file_and_nothing_of_a_person_is_stored(files, build, read):
    builder = build(config="full")
    found = by_id(read(builder))
    wanted = np.random.default_rng(4).integers(0, 256, (24, 32), dtype=np.uint8)
    assert (found[name_of(4)]["image"][..., 0] == wanted).all()
    beside = [path.read_text() for path in Path(builder.data_dir).glob("*.json")]
    assert name_of(4) in repr(found) and builder.name in "".join(beside)
    for stored in (repr(found), *beside):  # the records are compressed: they are searched as they are read
        assert "Doe^Jane" not in stored and "19500101" not in stored


def test_monochrome1_is_inverted(files, build, read):
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32), dtype=np.uint8)
    files.train[f"{name_of(1)}.dcm"] = to_bytes(radiograph(pixels, 8, PhotometricInterpretation="MONOCHROME1"))
    example = by_id(read(build(config="full")))[name_of(1)]
    assert (example["image"][..., 0] == 255 - pixels).all() and example["view"] == b"unknown"


def test_patients_of_the_mapping_are_whole(build, read, report):
    builder = build()
    assert all(len(splits) == 1 for splits in homes(read(builder), "patient_id").values())
    assert report(builder)["warnings"] == [] and report(builder)["images_without_nih_patient"] == 0
    assert len(report(builder)["inputs"][MAPPING]["sha256"]) == 64


def test_without_the_mapping_it_is_said_that_patients_may_cross(files, build, read, report, caplog):
    files.mapping = None
    with caplog.at_level(logging.WARNING):
        builder = build()
    message = f"{MAPPING} is not in manual_dir, so the patients are not known"
    assert message in caplog.text and message in report(builder)["warnings"][0]
    assert report(builder)["images_without_nih_patient"] == 90
    found = by_id(read(builder))
    assert all(example["patient_id"].decode() == name for name, example in found.items())
    assert {example["nih_image_id"] for example in found.values()} == {b"unknown"}


@pytest.mark.parametrize("how", ["zips", "whole"])
@pytest.mark.parametrize("config", ["64", "64_unlabelled"])
def test_every_layout_gives_the_same(files, build, read, tmp_path, how, config):
    first = by_id(read(build(config=config)))
    files.folder = tmp_path / how
    second = by_id(read(build(how, config=config, out="other")))
    assert first.keys() == second.keys()
    assert all((example["image"] == second[name]["image"]).all() for name, example in first.items())


def test_the_unpacked_competition(files, build, read):
    parent = files.folder
    parent.mkdir()
    files.folder = parent / "rsna-pneumonia-detection-challenge"
    mapping, files.mapping = files.mapping, None
    files.write("folders")
    (parent / MAPPING).write_text(json.dumps(mapping))
    files.folder, files.mapping = parent, mapping
    builder = prepare("rsna_pneumonia/64", data_dir=parent.parent / "data", manual_dir=parent)
    assert len(by_id(read(builder))) == 90


def test_unlabelled_images_are_a_split_that_shares_no_patient_with_the_measured_ones(files, build, report):
    import tensorflow_datasets as tfds

    builder = build(config="64_unlabelled")
    stored = tfds.builder_from_directory(builder.data_dir)
    splits = {split: list(stored.as_data_source(split)) for split in stored.info.splits}
    assert splits.keys() == {"train", "validation", "test", "unlabelled"}
    extra = splits["unlabelled"]
    assert all(e["label"] == e["target"] == -1 and len(e["boxes"]["box"]) == 0 for e in extra)
    measured = {e["patient_id"] for split in ("validation", "test") for e in splits[split]}
    assert extra and not measured & {e["patient_id"] for e in extra}
    # The last one is not in the mapping, so its patient is its own.
    assert f"{99:08x}-bbbb" in {e["image_id"].decode() for e in extra}
    left_out = report(builder)["unlabelled_left_out_patient_in_validation_or_test"]
    assert left_out > 0 and left_out + len(extra) == 10
    assert report(builder)["images_without_nih_patient"] == 1


def test_unlabelled_images_go_by_the_patients_that_identical_images_join(files, build, report):
    import tensorflow_datasets as tfds

    drawn = [split_of(f"{patient:08d}", 2018) for patient in range(30)]
    test = drawn.index("test")
    twin = drawn.index("train", test)
    files.train[f"{name_of(3 * twin)}.dcm"] = files.train[f"{name_of(3 * test)}.dcm"]
    files.test["0000ffff-bbbb.dcm"] = dicom(777, ViewPosition="PA")
    files.map("0000ffff-bbbb", twin, 777)
    # The one that is in no mapping is a copy of a measured image.
    files.test[f"{99:08x}-bbbb.dcm"] = files.train[f"{name_of(3 * test + 1)}.dcm"]
    before = report(build(config="64_unlabelled"))
    stored = tfds.builder_from_directory(
        prepare("rsna_pneumonia/64_unlabelled", data_dir=files.folder.parent / "data").data_dir
    )
    homes_of = {e["image_id"].decode(): split for split in stored.info.splits for e in stored.as_data_source(split)}
    assert {homes_of[name_of(3 * patient + n)] for patient in (test, twin) for n in range(3)} == {"test"}
    assert not {"0000ffff-bbbb", f"{99:08x}-bbbb"} & homes_of.keys()
    left_out = before["unlabelled_left_out_patient_in_validation_or_test"]
    assert left_out + stored.info.splits["unlabelled"].num_examples == before["counts"]["unlabelled"] == 11


def test_counts_are_compared_with_the_published_ones(build, report):
    found = report(build(config="64_unlabelled"))
    counts = found["counts"]
    assert (counts["images"], counts["rows"], counts["boxes"], counts["unlabelled"]) == (90, 105, 45, 10)
    assert (counts["target 1"], counts["Normal"], counts["PA"], counts["AP"]) == (30, 30, 45, 45)
    assert "images: 90, published 26684" in found["differs_from_published"]
    published = names.PUBLISHED
    assert published["target 1"] + published["target 0"] == published["PA"] + published["AP"] == published["images"]
    assert published["rows"] == published["target 0"] + published["boxes"]


@pytest.mark.parametrize(
    "missing", ["stage_2_train_images", "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"]
)
def test_what_is_missing_is_named(files, tmp_path, missing):
    (files.write("zips") / f"{missing}.zip").unlink()
    with pytest.raises(FileNotFoundError, match=f"^{missing}(.zip)? not found in .*kaggle.com"):
        prepare("rsna_pneumonia/64", data_dir=tmp_path / "data", manual_dir=files.folder)


def test_a_missing_image_is_named_before_the_headers_are_read(files, build, monkeypatch):
    del files.train[f"{name_of(7)}.dcm"]
    monkeypatch.setattr("tfds_builders.rsna_pneumonia.rsna_pneumonia_dataset_builder.read_views", None)
    with pytest.raises(FileNotFoundError, match=f"1 of 90 images of the tables are not in .*: {name_of(7)}"):
        build()


def relabel(number, *rows):
    def change(files):
        files.labels = [row for row in files.labels if not row.startswith(name_of(number))]
        files.labels += [f"{name_of(number)},{row}" for row in rows]

    return change


def reclass(number, *classes):
    def change(files):
        files.classes = [row for row in files.classes if not row.startswith(name_of(number))]
        files.classes += [f"{name_of(number)},{name}" for name in classes]

    return change


def put(number, data):
    return lambda files: files.train.update({f"{name_of(number)}.dcm": data})


DAMAGES = {
    "two targets": (relabel(2, ",,,,0", "1,1,5,5,1"), f"{name_of(2)}: Target is '0' and '1'"),
    "no target": (relabel(2, "1,1,5,5,"), "Target is ''"),
    "target without box": (relabel(2, ",,,,1"), "Target 1, the class 'Lung Opacity' and 0 boxes do not go together"),
    "box without target": (relabel(0, "1,1,5,5,0"), "Target 0, the class 'Normal' and 1 boxes do not go together"),
    "target of a normal image": (relabel(0, "1,1,5,5,1"), "Target 1, the class 'Normal'"),
    "box of nothing": (relabel(2, "1,1,0,5,1"), "the box x '1', y '1', width '0', height '5' has no area"),
    "box of words": (relabel(2, "a,1,5,5,1"), "the box x 'a'"),
    "no class": (reclass(2), "its class in stage_2_detailed_class_info.csv is none"),
    "two classes": (reclass(2, "Normal", "Lung Opacity"), "is 'Lung Opacity' and 'Normal'"),
    "unknown class": (reclass(2, "Cold"), "is 'Cold'"),
    "empty file": (put(2, b""), f"{name_of(2)} is empty"),
    "cut file": (put(2, dicom(2)[:-200]), f"{name_of(2)}"),
    "no DICOM": (put(2, b"<html>" + b" " * 200), f"{name_of(2)} is text of a web page"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(files, build, damage):
    spoil, message = DAMAGES[damage]
    spoil(files)
    with pytest.raises(ValueError, match=message):
        build()


def test_the_same_row_twice_is_one_box(tmp_path):
    from tfds_builders.rsna_pneumonia.official import read_labels

    labels, classes = tmp_path / "labels.csv", tmp_path / "classes.csv"
    labels.write_text("patientId,x,y,width,height,Target\na,1,1,5,5,1\na,9,9,5,5,1\na,1,1,5,5,1\n")
    classes.write_text("patientId,class\na,Lung Opacity\na,Lung Opacity\n")
    (row,), damaged = read_labels(labels, classes)
    assert len(row.boxes) == 2 and row.boxes[0] != row.boxes[1] and row.rows == 3 and not damaged


def test_few_damaged_images_are_left_out_and_listed(files, build, read, report):
    for damage in ("no class", "cut file"):
        DAMAGES[damage][0](files)
    put(5, dicom(5)[:-200])(files)
    builder = build(max_damaged=0.1)
    assert not {name_of(2), name_of(5)} & by_id(read(builder)).keys()
    assert len(report(builder)["damaged"]) == 2 and report(builder)["inputs_read"] == 90


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "is no list of objects with subset_img_id and img_id"),
        ('[{"img_id": "00000001_000.png"}]', "no list of objects .*'subset_img_id'"),
        ('{"a": 1}', "no list of objects"),
        ("[]", "img_id None"),
        ('[{"subset_img_id": "a", "img_id": "1.2.3"}]', "img_id '1.2.3' is no name of an NIH image"),
    ],
)
def test_wrong_mapping(files, tmp_path, text, message):
    (files.write("folders") / MAPPING).write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare("rsna_pneumonia/64", data_dir=tmp_path / "data", manual_dir=files.folder)


def test_a_table_of_another_encoding_is_named(files, tmp_path):
    path = files.write("folders") / "stage_2_train_labels.csv"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(ValueError, match="stage_2_train_labels.csv is no table of UTF-8 text"):
        prepare("rsna_pneumonia/64", data_dir=tmp_path / "data", manual_dir=files.folder)


@pytest.mark.parametrize("syntax", ["JPEGBaselineProcess1", "JPEGLosslessProcess14_1"])
def test_compressed_images(files, build, read, tmp_path, syntax):
    from dicom_files import compressed

    compressed.folder = tmp_path
    data = dicom(3, ViewPosition="PA")
    put(3, compressed(data, syntax))(files)
    image = by_id(read(build(config="full")))[name_of(3)]["image"][..., 0]
    pixels = np.random.default_rng(3).integers(0, 256, (24, 32), dtype=np.uint8)
    assert np.corrcoef(image.ravel(), pixels.ravel())[0, 1] > 0.9
