"""ChestX-ray14 on small data in the official format: contents, official lists, layouts, damage, missing archives."""

import math

import cv2
import numpy as np
import pytest
from chest_sets import NIH_HEADER, Nih

from tfds_builders import prepare
from tfds_builders.chestxray14 import official as names
from tfds_builders.common.radiographs import age_of, relative_box

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path) -> Nih:
    return Nih(tmp_path / "manual")


@pytest.fixture
def build(files, tmp_path):
    """Function: writes the files and prepares them."""

    def prepared(how="images", config="64", out="data", **options):
        return prepare(f"chestxray14/{config}", data_dir=tmp_path / out, manual_dir=files.write(how), **options)

    return prepared


def ids(splits):
    return {split: {example["image_id"].decode() for example in examples} for split, examples in splits.items()}


def stems(images):
    return {name.removesuffix(".png") for name in images}


def test_every_row_arrives_with_its_values(files, build, read):
    builder = build()
    examples = {e["image_id"].decode(): e for examples in read(builder).values() for e in examples}
    assert examples.keys() == stems(files.rows)
    labels = list(builder.info.metadata["label_names"])
    for name, row in files.rows.items():
        example = examples[name.removesuffix(".png")]
        marked = {label for label, value in zip(labels, example["labels"], strict=True) if value == 1}
        assert marked == set(row[1].split("|")) - {"No Finding"}
        assert set(np.unique(example["labels"])) <= {0, 1} and example["labels"].dtype == np.float32
        assert example["patient_id"].decode() == name[:8]
        assert (example["follow_up"], example["age"], example["view"].decode()) == (int(row[2]), int(row[4]), row[6])
        assert example["sex"] == {"F": b"female", "M": b"male"}[row[5]]
        assert example["image"].shape == (64, 64, 1) and example["image"].dtype == np.uint8
    pixels = cv2.imdecode(np.frombuffer(files.archives["images_001"]["images/00000001_000.png"], np.uint8), 0)
    assert (examples["00000001_000"]["image"][..., 0] == cv2.resize(pixels, (64, 64))).all()


def test_boxes_are_relative_and_named_as_the_labels(build, read, report):
    builder = build()
    examples = {e["image_id"]: e["boxes"] for examples in read(builder).values() for e in examples}
    names_of = builder.info.features["boxes"]["finding"].int2str
    two = examples[b"00000001_000"]
    assert [names_of(int(value)) for value in two["finding"]] == ["Infiltration", "Mass"]
    assert np.allclose(two["box"], [[0.12548828, 0.25, 0.37548828, 0.75], [0, 0, 1, 1]])
    # Cut at the border of the image.
    assert np.allclose(examples[b"00000002_000"]["box"], [[900 / 1024, 900 / 1024, 1000 / 1024, 1]])
    assert len(examples[b"00000003_000"]["box"]) == len(examples[b"00000003_000"]["finding"]) == 0
    assert report(builder)["counts"]["boxes"] == 3 and report(builder)["counts"]["images with boxes"] == 2


def test_official_lists_are_obeyed_and_validation_is_drawn_by_patient(files, build, read):
    splits = ids(read(build()))
    assert splits["test"] == stems(files.lists["test_list.txt"])
    assert splits["train"] | splits["validation"] == stems(files.lists["train_val_list.txt"])
    patients = {split: {name[:8] for name in images} for split, images in splits.items()}
    assert patients["validation"] and sum(map(len, patients.values())) == len(set.union(*patients.values())) == 60
    assert len(patients["train"]) > 3 * len(patients["validation"])


def test_neither_a_copy_of_a_test_image_nor_its_patient_is_trained_on(files, build, read, report):
    held_out, trained = files.lists["test_list.txt"][0], files.lists["train_val_list.txt"][0]
    contents = {name: data for members in files.archives.values() for name, data in members.items()}
    for members in files.archives.values():
        for name in members:
            if name.endswith(trained):
                members[name] = contents[next(other for other in contents if other.endswith(held_out))]
    builder = build()
    assert report(builder)["left_out_as_copies_of_held_out_images"] == [trained.removesuffix(".png")]
    splits = ids(read(builder))
    assert held_out.removesuffix(".png") in splits["test"]
    # Who has a test patient's image is that patient: the others of the two go too, and the test stays as published.
    patients = {name[:8] for name in splits["train"] | splits["validation"]}
    others = stems(name for name in files.lists["train_val_list.txt"] if name[:8] == trained[:8] and name != trained)
    assert others and set(report(builder)["left_out_with_such_copies"]) == others
    assert trained[:8] not in patients and len(patients) == 47
    assert splits["test"] == stems(files.lists["test_list.txt"])
    assert report(builder)["joined_groups"] == [[trained[:8], held_out[:8]]]


def test_new_rows_move_no_patient(files, build, read):
    before = ids(read(build()))
    for name in list(files.rows)[::7]:
        del files.rows[name]
    after = ids(read(build(out="less")))
    assert all(after[split] <= before[split] for split in before)


@pytest.mark.parametrize("how", ["tar.gz", "zip", "kaggle"])
def test_every_layout_gives_the_same(build, read, report, how):
    first = read(build())
    builder = build(how, out="other")
    second = read(builder)
    assert ids(first) == ids(second)
    images = [{e["image_id"]: e["image"].tobytes() for split in one.values() for e in split} for one in (first, second)]
    # `images` is still there: the twelve archives win where all are there.
    assert images[0] == images[1] and {f"images_{n:03d}" for n in range(1, 13)} <= report(builder)["inputs"].keys()


def test_names_of_the_official_download_script(files, build, read):
    folder = files.write("tar.gz")
    for number in range(1, 13):
        (folder / f"images_{number:03d}.tar.gz").rename(folder / f"images_{number:02d}.tar.gz")
    files.archives = {}
    assert sum(map(len, read(build("tar.gz")).values())) == len(files.rows)


def test_a_missing_archive_is_named(files, build):
    del files.archives["images_003"], files.archives["images_011"]
    with pytest.raises(FileNotFoundError, match=r"^images_003.tar.gz, images_011.tar.gz not found in .*64_part"):
        build("tar.gz")


def test_part_takes_the_archives_that_are_there(files, build, read, report):
    whole = ids(read(build("zip", out="whole")))
    for number in (3, 11):
        (files.folder / f"images_{number:03d}.zip").unlink()
        del files.archives[f"images_{number:03d}"]
    builder = build("zip", config="64_part")
    splits, found = ids(read(builder)), report(builder)
    there = {name[7:-4] for members in files.archives.values() for name in members}
    assert splits == {split: images & there for split, images in whole.items()}
    assert found["missing_archives"] == ["images_003", "images_011"]
    assert found["images_in_missing_archives"] == len(files.rows) - len(there)
    assert found["counts"]["images"] == len(files.rows)


def test_part_without_any_archive(files, build):
    files.archives = {}
    with pytest.raises(FileNotFoundError, match="images_001.tar.gz, images_002.tar.gz"):
        build("zip", config="64_part")


def test_an_image_missing_from_the_archives_is_named(files, build):
    del files.archives["images_001"]["images/00000002_001.png"]
    with pytest.raises(FileNotFoundError, match=r"1 of \d+ images of the tables are in no archive.*: 00000002_001\. "):
        build("zip")


def test_an_image_in_two_archives_is_named(files, build):
    files.archives["images_002"]["images/00000001_000.png"] = b"x"
    with pytest.raises(ValueError, match="00000001_000 is in .*images_001.zip and in .*images_002.zip"):
        build("zip")


@pytest.mark.parametrize("missing", ["Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"])
def test_a_missing_table_is_named(files, tmp_path, missing):
    (files.write("images") / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{missing} not found in .*nihcc"):
        prepare("chestxray14/64", data_dir=tmp_path / "data", manual_dir=files.folder)


def test_the_other_table_version_and_no_boxes(files, tmp_path, read, report):
    files.header, files.boxes = NIH_HEADER.replace("Gender", "Sex").rstrip(","), []
    for row in files.rows.values():
        row.pop()
    folder = files.write("images")
    (folder / "Data_Entry_2017.csv").rename(folder / "Data_Entry_2017_v2020.csv")
    builder = prepare("chestxray14/64", data_dir=tmp_path / "data", manual_dir=folder)
    example = read(builder)["train"][0]
    assert example["sex"] in (b"female", b"male") and len(example["boxes"]["box"]) == 0
    assert "boxes" not in report(builder)["counts"]


def test_counts_are_compared_with_the_published_ones(files, build, report):
    found = report(build())
    test = len(files.lists["test_list.txt"])
    assert f"test_list.txt: {test}, published 25596" in found["differs_from_published"]
    assert found["counts"]["patients"] == 60 and found["counts"]["images"] == len(files.rows)
    assert found["counts"]["Infiltration"] == sum(row[1] == "Infiltration" for row in files.rows.values())
    assert sum(names.PUBLISHED[view] for view in ("PA", "AP")) == names.PUBLISHED["images"]
    assert names.PUBLISHED["train_val_list.txt"] + names.PUBLISHED["test_list.txt"] == names.PUBLISHED["images"]


def test_impossible_ages_are_unknown_and_counted(files, build, read, report):
    for name, age in (("00000001_000.png", "414"), ("00000002_000.png", ""), ("00000003_000.png", "058Y")):
        files.rows[name][4] = age
    builder = build()
    ages = {e["image_id"]: e["age"] for examples in read(builder).values() for e in examples}
    assert math.isnan(ages[b"00000001_000"]) and math.isnan(ages[b"00000002_000"]) and ages[b"00000003_000"] == 58
    assert report(builder)["impossible_ages"] == 1


@pytest.mark.parametrize(
    ("value", "years"), [("58", 58), ("006M", 0.5), ("2W", 14 / 365.25), ("3d", 3 / 365.25), ("122", 122)]
)
def test_ages(value, years):
    assert age_of(value) == pytest.approx(years)


def test_rgba_and_16_bit_images_become_grey(files, build, read, report):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    rgba = cv2.merge([grey, grey, grey, np.full_like(grey, 255)])
    files.archives["images_001"] |= {
        "images/00000001_000.png": cv2.imencode(".png", rgba)[1].tobytes(),
        "images/00000001_001.png": cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes(),
    }
    for config in ("64", "full"):
        builder = build(config=config, out=config)
        images = {e["image_id"]: e["image"] for examples in read(builder).values() for e in examples}
        assert np.abs(images[b"00000001_000"][..., 0].astype(int) - grey).max() <= 1
        assert np.abs(images[b"00000001_001"][..., 0].astype(int) - grey).max() <= 1
    assert report(builder)["converted"] == {"alpha": 1, "equal channels": 1, "16 bit": 1}


def test_full_keeps_the_official_bytes(files, build):
    import tensorflow_datasets as tfds

    builder = build("tar.gz", config="full")
    skip = {"image": tfds.decode.SkipDecoding()}
    example = tfds.builder_from_directory(builder.data_dir).as_data_source("test", decoders=skip)[0]
    members = {name: data for archive in files.archives.values() for name, data in archive.items()}
    assert example["image"] == members[f"images/{example['image_id'].decode()}.png"]


def edit(column, value, name="00000002_000.png"):
    def change(files):
        files.rows[name][column] = value

    return change


DAMAGES = {
    "finding": (edit(1, "Effusion|Cold"), "line 4: 00000002_000.png: the finding 'Cold' is none of Atelectasis"),
    "nothing and something": (edit(1, "No Finding|Mass"), "the finding 'No Finding' is none of"),
    "no finding at all": (edit(1, ""), "the finding '' is none of"),
    "age": (edit(4, "old"), "the age is 'old'"),
    "patient": (edit(3, "x"), "Patient ID is 'x': a whole number"),
    "patient of another image": (edit(3, "5"), "line 4: .*Patient ID is 5, but the image is named after patient 2"),
    "follow-up": (edit(2, ""), "Follow-up # is ''"),
    "path": (edit(0, "../00000002_000.png"), "Image Index is '../00000002_000.png'"),
    "unlisted": (
        lambda files: files.lists["train_val_list.txt"].remove("00000002_000.png"),
        "00000002_000.png: in neither train_val_list.txt nor test_list.txt",
    ),
    "empty image": (
        lambda files: files.archives["images_001"].update({"images/00000002_000.png": b""}),
        "00000002_000 is empty",
    ),
    "cut image": (
        lambda files: files.archives["images_001"].update(
            {"images/00000002_000.png": files.archives["images_001"]["images/00000002_000.png"][:-20]}
        ),
        "00000002_000 is cut short",
    ),
    "box of nothing": (
        lambda files: files.boxes.append("00000002_000.png,Mass,10,10,0,5,,,"),
        r"BBox_List_2017.csv, line 5: the box .* width '0', .* has no area in 1024x1024",
    ),
    "box of another finding": (
        lambda files: files.boxes.append("00000002_000.png,Cold,10,10,5,5,,,"),
        "the finding 'Cold' is none of",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(files, build, damage):
    spoil, message = DAMAGES[damage]
    spoil(files)
    with pytest.raises(ValueError, match=message):
        build()


def test_the_same_box_twice_is_one(tmp_path):
    from tfds_builders.chestxray14.official import read_boxes

    row = "00000001_000.png,Mass,0,0,1024,1024,,,\n"
    (tmp_path / "b.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + row + row)
    boxes, damaged = read_boxes(tmp_path / "b.csv")
    assert len(boxes["00000001_000"]) == 1 and not damaged


def test_few_damaged_rows_are_left_out_and_listed(files, build, read, report):
    for damage in ("finding", "empty image", "box of nothing"):
        DAMAGES[damage][0](files)
    builder = build(max_damaged=0.1)
    assert {item["path"].split(": ")[-1] for item in report(builder)["damaged"]} >= {"00000002_000.png"}
    assert "00000002_000" not in set.union(*ids(read(builder)).values())
    assert report(builder)["inputs_read"] == len(files.rows) + 1


def tear(files):
    files.lists["train_val_list.txt"].remove("00000001_001.png")
    files.lists["test_list.txt"].append("00000001_001.png")


WRONG = {
    "columns": (lambda f: setattr(f, "header", NIH_HEADER.replace("Patient ID", "Id")), "has no column Patient ID"),
    "sex": (lambda f: setattr(f, "header", NIH_HEADER.replace("Gender", "G")), "has no column Patient Gender"),
    "twice": (edit(0, "00000001_000.png", "00000001_001.png"), "Image Index 00000001_000.png occurs twice"),
    "both lists": (lambda f: f.lists["test_list.txt"].append("00000001_000.png"), "00000001_000 is in .*train_val"),
    "torn patient": (
        tear,
        "patient 00000001 has 00000001_000 in train_val_list.txt and 00000001_001 in test_list.txt",
    ),
    "empty list": (lambda f: f.lists["test_list.txt"].clear(), "test_list.txt is no list of PNG files"),
    "list of other things": (lambda f: f.lists["test_list.txt"].append("<html>"), "test_list.txt is no list of PNG"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_tables_are_refused_at_once(files, build, wrong):
    spoil, message = WRONG[wrong]
    spoil(files)
    with pytest.raises(ValueError, match=message):
        build(max_damaged=1.0)


@pytest.mark.parametrize("values", [("a", "1", "2", "3"), ("nan", "1", "2", "3"), ("1024", "0", "5", "5")])
def test_boxes_that_are_none(values):
    with pytest.raises(ValueError, match="has no area"):
        relative_box(*values, 1024)


def test_a_beam_runner_prepares_the_same(files, tmp_path, read, report):
    import apache_beam as beam
    import tensorflow_datasets as tfds

    from tfds_builders.chestxray14 import Builder

    folder = files.write("tar.gz")
    here = prepare("chestxray14/64", data_dir=tmp_path / "a", manual_dir=folder)
    builder = Builder(data_dir=tmp_path / "b", config="64")
    options = beam.options.pipeline_options.PipelineOptions(["--direct_running_mode=in_memory"])
    settings = tfds.download.DownloadConfig(manual_dir=folder, beam_options=options)
    builder.download_and_prepare(download_dir=tmp_path / "downloads", download_config=settings)
    assert report(builder) == report(here)
    for split, examples in read(here).items():
        other = {example["image_id"]: example for example in read(builder)[split]}
        assert other.keys() == {example["image_id"] for example in examples}
        for example in examples:
            same = other[example["image_id"]]
            assert (example["image"] == same["image"]).all()
            assert np.array_equal(example["boxes"]["box"], same["boxes"]["box"])
