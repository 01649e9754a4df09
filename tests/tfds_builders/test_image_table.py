"""The builder of own images: names of classes, splits, files, and what a wrong table is told."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicom_files import radiograph, to_bytes
from image_files import with_orientation
from opening import assert_opens
from own_table import OwnTable, clinic, picture

from aiseeme_jax.data import open_split
from tfds_builders import prepare
from tfds_builders.__main__ import main
from tfds_builders.common.storage import ImageStorage
from tfds_builders.image_table.rows import SPLITS, class_names, read_rows


@pytest.fixture
def table(tmp_path) -> OwnTable:
    return clinic(tmp_path / "clinic")


@pytest.fixture
def build(tmp_path):
    """Function: prepares the tables of a folder."""
    return lambda folder, config="64", **options: prepare(
        f"image_table/{config}", data_dir=tmp_path / "data", manual_dir=folder, **options
    )


def by_id(splits):
    return {
        example["image_id"].decode(): (split, example) for split, examples in splits.items() for example in examples
    }


def stored(builder, splits=("train", "validation", "test")):
    import tensorflow_datasets as tfds

    prepared = tfds.builder_from_directory(builder.data_dir)
    assert_opens(prepared)
    return prepared.info, {split: list(prepared.as_data_source(split)) for split in splits}


def test_every_row_arrives_with_the_users_names(table, build, report):
    builder = build(table.write())
    info, splits = stored(builder)
    names = info.features["label"].names
    assert names == ["melanoma", "naevus"] and info.metadata["group"] == "group"
    found = by_id(splits)
    assert found.keys() == {row["path"] for row in table.rows}
    for row in table.rows:
        split, example = found[row["path"]]
        assert example["label"] == (names.index(row["label"]) if row["label"] else -1)
        assert example["group"].decode() == (row["group"] or row["path"])
        assert example["image"].shape == (64, 64, 3) and example["image"].dtype == np.uint8
    assert report(builder)["unlabelled"] == report(builder)["rows_without_group"] == 2


def test_groups_are_whole_and_what_has_no_label_is_for_training(table, build):
    _, splits = stored(build(table.write()))
    groups = [{example["group"] for example in examples} for examples in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 42
    found = by_id(splits)
    assert found["loose/1.png"][0] == found["loose/2.png"][0] == "train"


def test_the_training_code_reads_it(table, build, tmp_path):
    from aiseeme_jax import data

    build(table.write("north.csv"), "north_64_grey")
    split = data.open_split("image_table/north_64_grey", "train", tmp_path / "data")
    assert split.class_names == ("melanoma", "naevus") and set(split.labels) == {-1, 0, 1}
    assert split.read(np.arange(2)).shape == (2, 64, 64, 1)
    assert "loose/1.png" in split.groups and "patient 1" in split.groups


def test_a_table_without_labels(table, build, tmp_path):
    from aiseeme_jax import data

    for row in table.rows:
        del row["label"], row["group"]
    info, splits = stored(build(table.write()), ["train"])
    assert list(info.splits) == ["train"] and info.features["label"].names == []
    assert len(splits["train"]) == len(table.rows) and {example["label"] for example in splits["train"]} == {-1}
    assert data.open_split("image_table/64", "train", tmp_path / "data").class_names == ()


def test_findings_and_attributes_arrive_in_the_training_code(tmp_path, build, report):
    (tmp_path / "own").mkdir()
    table = OwnTable(tmp_path / "own")
    cells = [("1", "no", "61", "F"), ("0", "", "", "m"), ("", "", "7.5", ""), ("TRUE", "Yes", "40.0", "F")]
    for number, (oedema, effusion, age, sex) in enumerate(cells):
        values = {"label_oedema": oedema, "label_pleural effusion": effusion, "attr_age": age, "attr_sex": sex}
        table.add(f"{number}.png", **values, split=("train", "validation", "", "test")[number])
    builder = build(table.write())
    opened = {part: open_split("image_table/64", part, tmp_path / "data") for part in SPLITS}
    train = opened["train"]
    assert train.kind == "findings" and train.class_names == ("oedema", "pleural effusion")
    # The image without a known finding is for training.
    place = {part: sorted(split.ids.tolist()) for part, split in opened.items()}
    assert place == {"train": ["0.png", "2.png"], "validation": ["1.png"], "test": ["3.png"]}
    rows = {name: (split, row) for split in opened.values() for row, name in enumerate(split.ids.tolist())}
    found = [rows[f"{number}.png"] for number in range(4)]
    nan = np.nan
    np.testing.assert_array_equal([split.labels[row] for split, row in found], [[1, 0], [0, nan], [nan, nan], [1, 1]])
    np.testing.assert_array_equal(
        [split.attributes["age"][row] for split, row in found], np.float32([61, nan, 7.5, 40])
    )
    assert [split.attributes["sex"][row] for split, row in found] == ["F", "m", "", "F"]
    assert set(train.attributes) == {"age", "sex"}
    assert report(builder)["unlabelled"] == 1
    assert report(builder)["splits"]["train"]["classes"] == {"oedema": 1, "pleural effusion": 0}


def test_a_class_and_findings_may_stand_side_by_side(tmp_path, build):
    (tmp_path / "own").mkdir()
    table = OwnTable(tmp_path / "own")
    for number, split in enumerate(("train", "validation", "test")):
        table.add(f"{number}.png", label="a" if number else "b", label_fluid="1", split=split)
    build(table.write())
    chosen = {
        name: open_split("image_table/64", "test", tmp_path / "data", labels=name) for name in ("label", "labels")
    }
    assert chosen["label"].class_names == ("a", "b") and chosen["label"].labels.tolist() == [0]
    assert chosen["labels"].class_names == ("fluid",) and chosen["labels"].labels.tolist() == [[1.0]]


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_images_and_masks_are_padded_or_cropped_to_the_square(tmp_path, build, fit):
    """Of 96 x 192 pixels: padded to 192, cropped to the 96 in the middle; the mask is the image's left half."""
    (tmp_path / "own").mkdir()
    table = OwnTable(tmp_path / "own")
    for number, split in enumerate(("train", "validation", "test")):
        table.add(f"{number}.png", picture(number, height=96, width=192), split=split, mask=f"m{number}.png")
        mask = np.zeros((96, 192), np.uint8)
        mask[:, :96] = 255
        table.files[f"m{number}.png"] = cv2.imencode(".png", mask)[1].tobytes()
    _, splits = stored(build(table.write(), f"64_{fit}_mask"))
    (example,) = splits["test"]
    pixels = cv2.imdecode(np.frombuffer(table.files["2.png"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    if fit == "crop":
        # 96 pixels become 64: blocks of 3 x 3 become 2 x 2.
        expected = cv2.resize(pixels[:, 48:144], (64, 64), interpolation=cv2.INTER_AREA)
        inside = np.zeros((64, 64), bool)
        inside[:, :32] = True
    else:
        expected, inside = np.zeros((64, 64, 3)), np.zeros((64, 64), bool)
        expected[16:48] = pixels.reshape(32, 3, 64, 3, 3).mean(axis=(1, 3))
        inside[16:48, :32] = True
    np.testing.assert_allclose(example["image"], expected, atol=1)
    np.testing.assert_array_equal(example["mask"][..., 0] == 255, inside)
    opened = open_split(f"image_table/64_{fit}_mask", "test", tmp_path / "data")
    assert opened.storage == ImageStorage(64, 3, fit=fit)
    np.testing.assert_array_equal(opened.storage.read(table.files["2.png"], "one"), example["image"])


def test_given_splits_hold_for_the_whole_group(table, build):
    table.rows[1]["split"] = "test"
    assert table.rows[1]["group"] == table.rows[2]["group"]
    table.rows[-1]["split"] = "validation"
    found = by_id(stored(build(table.write()))[1])
    assert found["photos/p1_0.png"][0] == found["photos/p1_1.png"][0] == "test"
    assert found["loose/2.png"][0] == "validation"


def test_all_splits_given_may_leave_one_out(table, build):
    for number, row in enumerate(table.rows):
        row |= {"split": "Test" if number % 2 else "train", "group": ""}
    assert set(stored(build(table.write()), ["train"])[0].splits) == {"train", "test"}


def test_few_groups_ask_for_splits(table, build):
    table.rows = table.rows[:3]
    with pytest.raises(ValueError, match="the 2 labelled groups leave no labelled image for .*the column split"):
        build(table.write())


def test_identical_images_stay_together_or_are_named(table, build):
    for row in table.rows[:12:3]:
        table.files[row["path"]] = picture(999)
    found = by_id(stored(build(table.write()))[1])
    assert len({found[row["path"]][0] for row in table.rows[:12:3]}) == 1


def test_a_split_whose_images_repeat_is_refused_with_all_of_them_or_kept(table, build, report, tmp_path, capsys):
    """Two images are in training and in test, in groups that have a split each; a third is in training alone."""
    from aiseeme_jax import data

    for number, row in enumerate(table.rows):
        row |= {"split": ("train", "test")[number % 2], "group": "", "label": "naevus"}
    names = [row["path"] for row in table.rows]
    for one, other in ((0, 1), (2, 5), (4, 6)):
        table.files[names[other]] = table.files[names[one]]
    folder = table.write()
    with pytest.raises(
        ValueError,
        match=f"2 images .*{names[0]} .train. and {names[1]} .test.; {names[2]} .train. and "
        f"{names[5]} .test.. All are listed in .*_repeated.json.* --keep_splits",
    ):
        build(folder)
    listed = json.loads((tmp_path / "data" / "image_table_64_repeated.json").read_text())
    assert listed == [[f"{names[0]} (train)", f"{names[1]} (test)"], [f"{names[2]} (train)", f"{names[5]} (test)"]]
    command = ["prepare", "image_table/64", "--data_dir", str(tmp_path / "data"), "--manual_dir", str(folder)]
    assert main([*command, "--keep_splits"]) == 0
    assert "warning: images in several of the given splits" in capsys.readouterr().out
    found = by_id(stored(build(folder), ("train", "test"))[1])
    assert {name: split for name, (split, _) in found.items()} == {row["path"]: row["split"] for row in table.rows}
    said = report(build(folder))
    assert said["identical_across_splits"] == [sorted([names[0], names[1]]), sorted([names[2], names[5]])]
    (warning,) = data.open_split("image_table/64", "test", tmp_path / "data").warnings
    assert warning.startswith("image_table/64: images in several of the given splits")
    assert f"{names[2]} (train) and {names[5]} (test)" in warning and said["warnings"] == [warning.split(": ", 1)[1]]


def test_a_kept_split_sends_what_it_does_not_name_where_its_group_is(table, build):
    """A row without a split goes with its own patient, and one that a copy ties to two splits is not trained on."""
    table.rows[0]["split"], table.rows[3]["split"] = "train", "test"
    for place in (3, 6):
        table.files[table.rows[place]["path"]] = table.files[table.rows[0]["path"]]
    table.add("p2_again.png", group=table.rows[3]["group"])
    found = by_id(stored(build(table.write(), keep_splits=True))[1])
    splits = [found[table.rows[place]["path"]][0] for place in (0, 3, 6, -1)]
    assert splits == ["train", "test", "test", "test"]


def test_only_own_tables_have_splits_to_keep(tmp_path):
    with pytest.raises(ValueError, match="derm_phantom has no use for keep_splits"):
        prepare("derm_phantom/tiny", data_dir=tmp_path, keep_splits=True)


def test_one_image_with_two_labels_is_warned_of(table, build, report):
    table.rows[3]["group"] = table.rows[0]["group"]
    for place in (0, 3):
        table.rows[place]["split"] = "test"
    table.rows[3]["label"] = {"naevus": "melanoma", "melanoma": "naevus"}[table.rows[0]["label"]]
    names = [table.rows[place]["path"] for place in (0, 3)]
    table.files[names[1]] = table.files[names[0]]
    said = report(build(table.write()))
    assert said["identical_images_of_several_labels"] == [names]
    (warning,) = said["warnings"]
    assert "different labels" in warning and all(f"{name} (" in warning for name in names)


def test_files_are_found_whatever_form_the_system_stores_their_names_in(table, build):
    table.add("f/e\u0301.png", label="naevus", group="x")
    folder = table.write()
    text = (folder / "images.csv").read_text()
    (folder / "images.csv").write_text(text.replace("e\u0301", "\u00e9"))
    assert "f/\u00e9.png" in by_id(stored(build(folder))[1])


def test_a_missing_file_is_told_with_those_whose_names_look_alike(table, build):
    table.rows[0]["path"] = "Photos/P0_0.PNG"
    with pytest.raises(
        ValueError, match=r"no file Photos/P0_0.PNG in .*; there is 'photos/p0_0.png', which looks like"
    ):
        build(table.write())


def test_labels_and_groups_are_stored_tidy(tmp_path):
    rows = [f"{number}.png,{number}.0,{number}.0\n" for number in range(11)]
    (tmp_path / "t.csv").write_text("path,label,group\n" + "".join(rows) + "11.png,,\n")
    found, _ = read_rows(tmp_path / "t.csv")
    numbers = [str(number) for number in range(11)]
    assert [row.group for row in found] == [*numbers, ""] and class_names(row.label for row in found) == numbers
    labels = ("\u200bna\u0308vus \u00a0 cell", "1.0", "1.5", "\u200b")
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels)))
    assert [row.label for row in read_rows(tmp_path / "t.csv")[0]] == ["n\u00e4vus cell", "1.0", "1.5", ""]


@pytest.mark.parametrize(
    "text",
    [
        "\n\npath,label\na.png,x\n",
        "path,label,,\na.png,x,,\n\n",
        "\ufeff\ufeffpath,label\na.png,x\n",
        ",,\npath,label,\na.png,x\n",
    ],
)
def test_what_is_blank_in_a_table_holds_nothing(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    (row,), header = read_rows(tmp_path / "t.csv")
    assert (row.path, row.label, header) == ("a.png", "x", ("path", "label"))
    assert row.line == 1 + text.splitlines().index(next(line for line in text.splitlines() if "a.png" in line))


def test_a_given_split_holds_for_all_patients_whom_an_identical_image_ties(table, build, report):
    """A copy is no reason to leave an image out, or to train on the other images of its patient."""
    table.rows[0]["split"] = "test"
    table.rows[-1]["split"] = table.rows[-2]["split"] = "validation"
    table.files["photos/p3_0.png"] = table.files["photos/p0_0.png"]
    builder = build(table.write())
    splits = stored(builder)[1]
    found = by_id(splits)
    assert {found[f"photos/{name}.png"][0] for name in ("p0_0", "p3_0", "p3_1")} == {"test"}
    assert found["photos/p3_1.png"][1]["group"] == b"patient 3"
    assert len(found) == len(table.rows) and "left_out_as_copies_of_held_out_images" not in report(builder)


def test_joined_groups_are_one_group_to_all_readers(table, build, report, tmp_path):
    """The stored group stays the user's; report, metadata and training code count alike."""
    from aiseeme_jax import data

    table.files["photos/p0_0.png"] = table.files["photos/p2_0.png"]
    builder = build(table.write())
    info, splits = stored(builder)
    assert report(builder)["joined_groups"] == [["patient 0", "patient 2"]]
    assert info.metadata["joined_groups"] == {"patient 2": "patient 0"}
    assert by_id(splits)["photos/p2_0.png"][1]["group"] == b"patient 2"
    for name, counts in report(builder)["splits"].items():
        split = data.open_split("image_table/64", name, tmp_path / "data")
        assert len(set(split.groups)) == counts["groups"]
        if "photos/p2_0.png" in split.ids:
            (tmp_path / "ids.txt").write_text("patient 2\n")
            left = data.without(split, [str(tmp_path / "ids.txt")])
            assert left.excluded == 2 and not {"photos/p0_0.png", "photos/p2_0.png"} & {*left.ids}


def test_tables_stand_side_by_side(table, build, tmp_path):
    build(table.write())
    table.rows = [{"path": row["path"]} for row in table.rows]
    info, _ = stored(build(table.write("dr-x.2_new.csv"), "dr-x.2_new_64"), ["train"])
    assert info.features["label"].names == []
    folders = {path.name for path in (tmp_path / "data" / "image_table").iterdir()}
    assert folders >= {"64", "dr-x.2_new_64"}


def test_another_table_of_the_same_name_is_not_taken_for_the_first(table, build, tmp_path):
    import tensorflow_datasets as tfds

    from tfds_builders.image_table import Builder

    assert build(table.write()).data_dir == build(table.folder).data_dir
    table.rows[0]["label"] = "wart"
    table.write()
    with pytest.raises(ValueError, match="was made from another images.csv.*rename the table"):
        build(table.folder)
    settings = tfds.download.DownloadConfig(manual_dir=table.folder)
    with pytest.raises(ValueError, match="was made from another images.csv"):
        Builder(data_dir=tmp_path / "data", config="64").download_and_prepare(download_config=settings)


def test_kinds_of_files(table, build, report):
    grey16 = np.linspace(0, 4095, 32 * 32).astype(np.uint16).reshape(32, 32)
    table.add("a.jpg", picture(1, ".jpg"))
    table.add("b.tif", picture(2, ".tiff"))
    table.add("c.png", cv2.imencode(".png", grey16)[1].tobytes())
    table.add("IM0001", to_bytes(radiograph(grey16)))
    builder = build(table.write(), "full_grey")
    found = by_id(stored(builder)[1])
    for name in ("a.jpg", "b.tif", "c.png", "IM0001"):
        assert found[name][1]["image"].shape[2] == 1
    assert (found["c.png"][1]["image"] == np.round(grey16[..., None] / 4095 * 255)).mean() > 0.99
    assert (found["IM0001"][1]["image"] == found["c.png"][1]["image"]).all()
    assert report(builder)["converted"]["DICOM"] == 1
    colour = by_id(stored(build(table.folder, "64"))[1])["IM0001"][1]["image"]
    assert colour.shape == (64, 64, 3) and (colour[..., 0] == colour[..., 2]).all()


def test_grey_stored_as_colour_is_one_channel(table, build):
    grey = np.repeat(cv2.resize(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, (32, 24))[..., None], 3, axis=2)
    table.add("x.png", cv2.imencode(".png", grey)[1].tobytes())
    image = by_id(stored(build(table.write(), "full_grey"))[1])["x.png"][1]["image"]
    assert image.shape == (24, 32, 1) and (image == grey[..., :1]).all()


def test_no_metadata_is_stored(table, build):
    import tensorflow_datasets as tfds

    for path, suffix in (("a.jpg", ".jpg"), ("b.png", ".png")):
        table.add(path, picture(7, suffix) + b"John Smith", split="test")
    table.add("c.jpg", b"\xff\xd8\xff\xfe\x00\x0cJohn Smith" + picture(7, ".jpg")[2:], split="test")
    prepared = tfds.builder_from_directory(build(table.write(), "full").data_dir)
    rows = prepared.as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
    files = {row["image_id"].decode(): row["image"] for row in rows}
    assert files["a.jpg"] == files["c.jpg"] == picture(7, ".jpg") and files["b.png"] == picture(7)


def test_masks(table, build):
    inside = np.zeros((24, 32), np.uint8)
    inside[8:16, 8:24] = 255
    table.files["masks/p0.png"] = cv2.imencode(".png", inside)[1].tobytes()
    table.rows[0]["mask"] = "masks/p0.png"
    folder = table.write()
    found = by_id(stored(build(folder, "full_mask"))[1])
    assert found["photos/p0_0.png"][1]["has_mask"] and not found["photos/p1_0.png"][1]["has_mask"]
    assert (found["photos/p0_0.png"][1]["mask"][..., 0] == inside).all()
    assert not found["photos/p1_0.png"][1]["mask"].any()
    # Masks of 0 and 1 would be blank.
    (folder / "masks/p0.png").write_bytes(cv2.imencode(".png", inside // 255)[1].tobytes())
    with pytest.raises(ValueError, match="masks/p0.png holds values up to 1"):
        build(folder, "64_mask")
    (folder / "masks/p0.png").unlink()
    with pytest.raises(ValueError, match="line 2: there is no mask masks/p0.png"):
        build(folder, "64_mask")
    assert len(by_id(stored(build(folder))[1])) == len(table.rows)


def test_a_mask_is_taken_as_drawn_on_the_picture_as_it_is_shown(table, build, report):
    values, inside = np.full((24, 32, 3), 200, np.uint8), np.zeros((32, 24), np.uint8)
    inside[2:12, 2:12] = 255
    values[-12:-2, -12:-2] = 20
    files = {
        "half.tif": (with_orientation("TIFF", values, 3), inside.T),
        "quarter.jpg": (with_orientation("JPEG", values, 6), inside),
        "stored.png": (with_orientation("PNG", values, 8), inside.T),
    }
    for name, (data, mask) in files.items():
        table.add(name, data, mask=f"{name}.mask.png", split="train")
        table.files[f"{name}.mask.png"] = cv2.imencode(".png", mask)[1].tobytes()
    builder = build(table.write(), "full_mask", max_damaged=0.05)
    found = by_id(stored(builder)[1])
    half = found["half.tif"][1]
    assert (half["mask"][..., 0] == inside.T).all() and (half["image"][half["mask"][..., 0] > 0] == 20).all()
    assert found["quarter.jpg"][1]["image"].shape == (32, 24, 3)
    assert (found["quarter.jpg"][1]["mask"][..., 0] == inside).all()
    said = report(builder)
    assert said["images_with_orientation_and_mask"] == ["half.tif", "quarter.jpg"]
    assert "2 images with a mask are turned after their EXIF orientation, such as half.tif" in said["warnings"][0]
    assert said["converted"]["orientation 6"] == said["converted"]["orientation 3"] == 1
    (left_out,) = said["damaged"]
    assert "32x24 but its image is 24x32 as it is shown: the image has the orientation 8" in left_out["reason"]


def test_a_bound_for_the_size_of_images(table, build, tmp_path):
    folder = table.write()
    with pytest.raises(ValueError, match="62 of 62 inputs .*32x24 pixels, more than the 0.0007 megapixels"):
        build(folder, max_megapixels=0.0007)
    build(folder, max_megapixels=0.001)
    with pytest.raises(ValueError, match="max_megapixels is 0"):
        build(folder, max_megapixels=0)
    with pytest.raises(ValueError, match="derm_phantom has no use for max_megapixels"):
        prepare("derm_phantom/tiny", data_dir=tmp_path, max_megapixels=1)


def test_masks_without_a_column(table, build):
    with pytest.raises(ValueError, match="no column mask"):
        build(table.write(), "64_mask")


def test_missing_and_broken_files_are_left_out_and_listed(table, build, report):
    table.files["photos/p1_0.png"] = b""
    folder = table.write()
    (folder / "photos/p3_0.png").unlink()
    with pytest.raises(
        ValueError,
        match=r"2 of 62 inputs .*line 6: there is no file photos/p3_0.png in .*p1_0.png is empty: replace the file by "
        r"a whole one.*_damaged.json. Repair the files, take their rows out of the table, or allow a larger share",
    ):
        build(folder)
    builder = build(folder, max_damaged=0.05)
    damaged = report(builder)["damaged"]
    assert {item["path"].split(": ")[-1].split(", ")[-1] for item in damaged} == {"line 6", "photos/p1_0.png"}
    assert len(by_id(stored(builder)[1])) == len(table.rows) - 2


def test_many_missing_files_are_told_before_any_is_read(table, build):
    table.files["photos/p1_0.png"] = b""
    folder = table.write()
    for row in table.rows[-11:]:
        (folder / row["path"]).unlink()
    with pytest.raises(ValueError, match=r"11 of 62 inputs are damaged, .*line 53: there is no file"):
        build(folder)


def test_a_table_of_which_no_file_is_there(table, build):
    table.rows, table.files = table.rows[:2], {}
    with pytest.raises(ValueError, match=r"2 of 2 inputs are damaged, .*line 2: there is no file photos/p0_0.png"):
        build(table.write())


def test_classes_that_a_split_lacks_are_warned_of(table, build, report, tmp_path, capsys):
    for number, row in enumerate(table.rows):
        row |= {"split": ("train", "validation", "test")[number % 3], "group": ""}
        row["label"] = "naevus" if row["split"] == "test" and row["label"] else row["label"]
    table.rows = [row for row in table.rows if row["label"] or row["split"] == "train"]
    assert report(build(table.write()))["warnings"] == ["test has no image of melanoma"]
    command = ["prepare", "image_table/64", "--data_dir", str(tmp_path / "data"), "--manual_dir", str(table.folder)]
    assert main(command) == 0
    assert "\nwarning: test has no image of melanoma\n" in capsys.readouterr().out


def test_splits_without_labels_are_not_warned_of(table, build, report):
    for row in table.rows:
        row["split"] = "train" if row["label"] else "validation"
    assert report(build(table.write()))["warnings"] == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_dialects(tmp_path, delimiter, encoding):
    text = delimiter.join(["path", "label"]) + "\r\n" + delimiter.join(["ä/1.png", "Nävus"]) + "\r\n" + delimiter
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    (row,), header = read_rows(tmp_path / "t.csv")
    assert (row.path, row.label, row.line, header) == ("ä/1.png", "Nävus", 2, ("path", "label"))


def test_excel_says_its_delimiter_and_windows_its_paths(tmp_path):
    (tmp_path / "t.csv").write_text(f'sep=;\npath;label\na\\b.png;"x;y"\n"{tmp_path}/./c.png";z\n')
    rows, _ = read_rows(tmp_path / "t.csv")
    assert [(row.path, row.label, row.line) for row in rows] == [("a/b.png", "x;y", 3), ("c.png", "z", 4)]


WRONG = {
    "no column path": (
        "file,label\na.png,x\n",
        "no use for the column 'file' and has no column path.*columns are file, label; wanted are path",
    ),
    "a column by another name": ("path,patient\na.png,1\n", "no use for the column 'patient'.*group"),
    "a column twice": ("path,label,label\na.png,x,y\n", "the column label twice"),
    "empty": ("", "columns are none"),
    "no rows": ("path\n", "no rows"),
    "too many values": ("path,label\na.png,x,y\n", "line 2: 3 values for 2 columns"),
    "too few values": ("path,label\na.png\n", "line 2: 1 values for 2 columns"),
    "quotes": ('path\n"a"b.png\n', "line 2: .*check the quotation marks"),
    "climbing": ("path\n../a.png\n", r"line 2: ../a.png leads out of the table's folder"),
    "climbing with backslashes": ("path\na\\..\\..\\b.png\n", "line 2: .* leads out of the table's folder"),
    "absolute": ("path\n/etc/a.png\n", "line 2: /etc/a.png lies outside the table's folder"),
    "a drive": ("path\nC:\\a.png\n", "line 2: .* names a drive"),
    "climbing mask": ("path,mask\na.png,../b.png\n", "line 2: ../b.png leads out"),
    "blank path": ("path,label\n,x\n", "line 2: path is blank"),
    "doubled path": ("path\na.png\n./a.png\n", "line 3: a.png is in line 2 already"),
    "split": ("path,split\na.png,dev\n", "line 2: split is 'dev': train, validation, test"),
    "nan label": ("path,label\na.png,NaN\n", "line 2: label is 'NaN': leave the cell blank"),
    "nan group": ("path,group\na.png,n/a\n", "line 2: group is 'n/a': leave the cell blank"),
    "torn group": (
        "path,group,split\na.png,p,train\nb.png,p,\nc.png,p,test\n",
        r"group p is in train \(line 2\) and test \(line 4\)",
    ),
    "spelling": (
        "path,label\na.png,Naevus\nb.png,naevus\n",
        r"labels 'Naevus' \(line 2\) and 'naevus' \(line 3\) look alike",
    ),
    "groups alike": (
        "path,group\na.png,7\nb.png,12\nc.png,7.0\nd.png,007\n",
        r"images.csv: the groups '7' \(line 2\) and '7.0' \(line 4\) and '007' \(line 5\) look alike: [^;]*$",
    ),
    "spaces": (
        "path,label\na.png,basal cell\nb.png,basal\u00a0cell\nc.png,basal  cell\nd.png,basal cell\u200b\n",
        r"'basal cell' \(line 2\) and 'basal\\xa0cell' \(line 3\) and 'basal  cell' \(line 4\) and 'basal cell\\u200b'",
    ),
    "a state": ("path,label_oedema\na.png,2\n", "line 2: label_oedema is '2': 1, 0, yes, no, true, false or blank"),
    "no name of a finding": ("path,label_\na.png,1\n", "no use for the column 'label_'"),
    "an attribute that is a feature": ("path,attr_mask\na.png,1\n", "no use for the column 'attr_mask'"),
    "an attribute of no name": ("path,attr_a b\na.png,1\n", "no use for the column 'attr_a b'"),
    "row numbers": (",path\n0,a.png\n1,b.png\n", "first column has no name and may be the number of the row"),
    "nameless": ("path,,label\na.png,,x\nb.png,5,y\n", "its column 2 has no name, and holds '5' in line 3"),
    "doubled in another form": ("path\n\u00e9.png\ne\u0301.png\n", "line 3: \u00e9.png is in line 2 already"),
    "line break": ('path,label\na.png,"x\ny"\n', "line 3: label .* holds a line break"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables(tmp_path, build, case):
    text, message = WRONG[case]
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    """Each kind of fault once, with its lines."""
    rows = "".join(f"/other/{number}.png,dev\n/other/{number}.png,\n" for number in range(8))
    (tmp_path / "t.csv").write_text("path,split\n" + rows)
    with pytest.raises(ValueError) as error:
        read_rows(tmp_path / "t.csv")
    said = str(error.value)
    assert "line 2: split is 'dev' (likewise lines 4, 6, 8, 10, 12 and 2 more): train, validation, test" in said
    assert (
        "line 3: /other/0.png lies outside the table's folder" in said and "(likewise lines 5, 7, 9, 11, 13 and" in said
    )
    assert said.count("move the images there") == 1


@pytest.mark.parametrize("data", ["path\nä.png\n".encode("cp1252"), "path\na.png\n".encode("utf-16")])
def test_other_encodings_are_refused_with_the_way_out(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(ValueError, match="save it as 'CSV UTF-8'"):
        read_rows(tmp_path / "t.csv")


def test_missing_table_and_unknown_configs(tmp_path, build):
    with pytest.raises(FileNotFoundError, match="north.csv not found in .*column path"):
        build(tmp_path, "north_64")
    for name in ("65", "north", "_64", "a b_64"):
        with pytest.raises(ValueError, match=f"no config '{name}': it has 64, .*NAME_64"):
            build(tmp_path, name)


def test_order_of_classes():
    assert class_names(["10", "9", "", "9"]) == ["9", "10"]
    assert class_names(["b", "10", "9"]) == ["10", "9", "b"]
    assert class_names(["-1", "10", "2.5", "2"]) == ["-1", "2", "2.5", "10"]
    assert class_names([]) == []


def write_nodules(source, folder):
    """The middle slices of the nodules that three readers or more rated, and a table: the median of the ratings below 3
    is benign, above 3 malignant, 3 not known; one group per patient.
    """
    crops = np.load(source / "nodules_3x64x64.npz")["image"][:, 1]
    table = OwnTable(folder)
    with open(source / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["readers"]) >= 3:
                median = float(row["malignancy_median"])
                label = "benign" if median < 3 else "malignant" if median > 3 else ""
                data = cv2.imencode(".png", crops[int(row["index"])])[1].tobytes()
                table.add(f"{row['index']}.png", data, label=label, group=row["patient_id"])
    return table.write("lidc_nodules.csv")


@pytest.mark.slow
def test_real_nodules(real_data, tmp_path, build, report):
    folder = tmp_path / "nodules"
    folder.mkdir()
    builder = build(write_nodules(real_data / "lidc_nodules", folder), "lidc_nodules_64_grey")
    found = report(builder)
    counts = [split["classes"] for split in found["splits"].values()]
    assert sum(classes["benign"] for classes in counts) == 427
    assert sum(classes["malignant"] for classes in counts) == 373
    assert found["unlabelled"] == 480 and found["damaged"] == []
    _, splits = stored(builder)
    patients = [{example["group"] for example in examples} for examples in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 665


@pytest.mark.slow
def test_tfds_build_takes_the_tables_name(table, tmp_path):
    command = [Path(sys.executable).parent / "tfds", "build", "tfds_builders/image_table", "--config", "north_64"]
    result = subprocess.run(
        [*command, "--data_dir", tmp_path / "data", "--manual_dir", table.write("north.csv")],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "data/image_table/north_64/2.1.0/label.labels.txt").read_text() == "melanoma\nnaevus\n"


@pytest.mark.slow
def test_a_beam_runner_prepares_the_same(table, build, tmp_path, report):
    import apache_beam as beam
    import tensorflow_datasets as tfds

    from tfds_builders.image_table import Builder

    here = build(table.write())
    builder = Builder(data_dir=tmp_path / "beam", config="64")
    options = beam.options.pipeline_options.PipelineOptions(["--direct_running_mode=in_memory"])
    settings = tfds.download.DownloadConfig(manual_dir=table.folder, beam_options=options)
    builder.download_and_prepare(download_dir=tmp_path / "downloads", download_config=settings)
    assert report(builder) == report(here)
    (info, there), (_, splits) = stored(builder), stored(here)
    assert info.features["label"].names == ["melanoma", "naevus"]
    other = by_id(there)
    for image, (split, example) in by_id(splits).items():
        assert other[image][0] == split and other[image][1]["label"] == example["label"]
        assert (other[image][1]["image"] == example["image"]).all()
