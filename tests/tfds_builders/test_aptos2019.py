"""APTOS 2019 on small data in the official format: contents, splits, the unlabelled test set, layouts, damage."""

import numpy as np
import pytest
from fundus_sets import Aptos, labelled_id, unlabelled_id
from own_table import picture

from tfds_builders import prepare
from tfds_builders.aptos2019.aptos2019_dataset_builder import CLASSES, PUBLISHED, read_labels
from tfds_builders.common.images import read_pixels, square
from tfds_builders.common.parts import kin_of_measured
from tfds_builders.common.splits import split_of

SEED = 2019


@pytest.fixture
def files(tmp_path) -> Aptos:
    return Aptos(tmp_path / "manual")


@pytest.fixture
def build(files, tmp_path):
    """Function: writes the files and prepares them."""

    def prepared(how="folders", config="64", out="data", **options):
        return prepare(f"aptos2019/{config}", data_dir=tmp_path / out, manual_dir=files.write(how), **options)

    return prepared


def by_id(splits):
    return {
        example["image_id"].decode(): (split, example) for split, examples in splits.items() for example in examples
    }


def drawn(split):
    """Numbers of the labelled images that the split draws."""
    return [number for number in range(100) if split_of(labelled_id(number), SEED) == split]


def test_published_numbers_are_whole():
    assert sum(PUBLISHED[name] for name in CLASSES) == PUBLISHED["images"] == 3662


def test_a_table_says_grades_and_what_is_none(tmp_path):
    (tmp_path / "train.csv").write_text("id_code,diagnosis\na,4\nb,5\nc,\nd,0\ne,2.0\n")
    records, damaged = read_labels(tmp_path / "train.csv")
    assert [(record.image_id, *record.kinds) for record in records] == [("a", "Proliferative DR"), ("d", "No DR")]
    assert [item.path.rsplit(" ")[-1] for item in damaged] == ["b", "c", "e"]
    assert damaged[0].reason == "diagnosis is '5': a whole number from 0 to 4 is wanted"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id_code,grade\na,1\n", "train.csv has no column diagnosis"),
        ("id_code,diagnosis\na,1\na,2\n", "line 3: id_code a occurs twice"),
        ("id_code,diagnosis\n,1\n", "line 2: the column id_code is blank"),
        ("id_code,diagnosis\na\n", "line 2: the row has fewer values"),
        ("id_code,diagnosis\n", "has a header but no rows"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, message):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "train.csv")


def test_kin_of_measured():
    # The first two rows draw their splits; a row with a split of its own goes where it shares a group with 'test'.
    assert kin_of_measured(["", "", "train", "train"], ["a", "b", "a", "b"], ["test", "train", "", ""]) == {2}
    assert kin_of_measured(["", "train"], ["a", "a"], ["validation", "test"]) == {1}
    assert kin_of_measured(["train"], ["a"], ["test"]) == set()


@pytest.mark.slow
def test_every_image_arrives_with_its_grade(build, read):
    builder = build()
    splits = read(builder)
    found = by_id(splits)
    assert found.keys() == {labelled_id(number) for number in range(100)}
    assert builder.info.features["label"].names == list(CLASSES)
    for number in range(100):
        split, example = found[labelled_id(number)]
        assert example["label"] == number % 5 and split == split_of(labelled_id(number), SEED)
        assert example["group"] == example["image_id"]
        wanted = square(read_pixels(picture(number), "x", 3)[0], 64)
        assert example["image"].dtype == np.uint8 and (example["image"] == wanted).all()


@pytest.mark.slow
def test_full_images_are_the_official_files(build):
    import tensorflow_datasets as tfds

    stored = tfds.builder_from_directory(build(config="full").data_dir)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    rows = [row for split in stored.info.splits for row in stored.as_data_source(split, decoders=undecoded)]
    files = {row["image_id"].decode(): row["image"] for row in rows}
    assert files == {labelled_id(number): picture(number) for number in range(100)}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zips", "whole", "unpacked"])
def test_every_layout_gives_the_same(files, build, read, tmp_path, how):
    first = by_id(read(build(config="64_unlabelled")))
    files.folder = tmp_path / how
    second = by_id(read(build(how, config="64_unlabelled", out="other")))
    assert first.keys() == second.keys() and len(first) == 110
    for name, (split, example) in first.items():
        assert split == second[name][0] and (example["image"] == second[name][1]["image"]).all()


@pytest.mark.slow
def test_identical_images_are_one_group_and_their_grades_are_compared(files, build, read, report):
    test, train = drawn("test")[0], next(n for n in drawn("train") if n % 5 != drawn("test")[0] % 5)
    other = next(n for n in drawn("train") if n % 5 == train % 5 and n != train)
    last = next(n for n in drawn("train") if n % 5 == train % 5 and n not in (train, other))
    files.train[f"{labelled_id(train)}.png"] = files.train[f"{labelled_id(test)}.png"]
    files.train[f"{labelled_id(other)}.png"] = files.train[f"{labelled_id(last)}.png"]
    builder = build()
    found = by_id(read(builder))
    assert found[labelled_id(train)][0] == found[labelled_id(test)][0]
    pair, harmless = (sorted(map(labelled_id, numbers)) for numbers in ((train, test), (other, last)))
    said = report(builder)
    assert said["joined_groups"] == said["identical_images"] == sorted([pair, harmless])
    assert said["identical_images_of_several_labels"] == [pair]
    assert said["identical_across_splits"] == []


@pytest.mark.slow
def test_unlabelled_images_are_in_train_less_the_copies_of_measured_ones(files, build, read, report):
    copies = {unlabelled_id(n): drawn(split)[0] for n, split in enumerate(("test", "validation", "train"))}
    for name, number in copies.items():
        files.test[f"{name}.png"] = files.train[f"{labelled_id(number)}.png"]
    builder = build(config="64_unlabelled")
    found, left_out = by_id(read(builder)), [unlabelled_id(0), unlabelled_id(1)]
    extra = {name: entry for name, entry in found.items() if name.startswith("f")}
    assert extra.keys() == set(map(unlabelled_id, range(10))) - set(left_out)
    assert all(split == "train" and example["label"] == -1 for split, example in extra.values())
    for number in range(100):
        assert found[labelled_id(number)][0] == split_of(labelled_id(number), SEED)
    said = report(builder)
    assert said["unlabelled_left_out_as_copies_of_validation_or_test"] == left_out
    assert said["counts"]["unlabelled"] == 10 and said["identical_images_of_several_labels"] == []
    assert "unlabelled: 10, published 1928" in said["differs_from_published"]
    assert said["splits"]["train"]["images"] == len(drawn("train")) + 8


@pytest.mark.slow
def test_an_unlabelled_copy_does_not_move_the_labelled_image(files, build, read):
    # Of all names the smallest, which a joined group is called by.
    assert split_of("0", SEED) == "train"
    files.tests.append("0")
    for split in ("validation", "test"):
        (number, *_), files.test = drawn(split), dict(files.test)
        files.test["0.png"] = files.train[f"{labelled_id(number)}.png"]
        found = by_id(read(build(config="64_unlabelled", out=split)))
        assert found[labelled_id(number)][0] == split and "0" not in found


@pytest.mark.slow
def test_counts_are_compared_with_the_published_ones(build, report):
    said = report(build())
    assert said["counts"] == {"images": 100, **dict.fromkeys(CLASSES, 20)}
    assert said["published_counts"]["Severe"] == 193
    assert "images: 100, published 3662" in said["differs_from_published"]
    assert sum(part["images"] for part in said["splits"].values()) == 100


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["train_images", "train.csv", "test_images", "test.csv"])
def test_what_is_missing_is_named(files, tmp_path, missing):
    (files.write("zips") / f"{missing}.zip").unlink()
    arguments = {"data_dir": tmp_path / "data", "manual_dir": files.folder}
    with pytest.raises(FileNotFoundError, match=f"^{missing}(.zip)? not found in .*kaggle.com/c/aptos2019"):
        prepare("aptos2019/64_unlabelled", **arguments)
    if missing.startswith("test"):
        assert prepare("aptos2019/64", **arguments).is_prepared()


@pytest.mark.slow
def test_an_image_without_its_file_is_named(files, build):
    del files.train[f"{labelled_id(7)}.png"]
    with pytest.raises(FileNotFoundError, match=f"1 of 100 images of the tables are not in .*: {labelled_id(7)}"):
        build()


@pytest.mark.slow
def test_few_damaged_ones_are_listed_many_are_an_error(files, build, report, read, tmp_path):
    files.train[f"{labelled_id(3)}.png"] = picture(3)[:-20]
    files.grades[labelled_id(4)] = "9"
    with pytest.raises(ValueError, match=r"2 of 100 inputs are damaged.*diagnosis is '9'.*is cut short"):
        build()
    assert {path.name for path in (tmp_path / "data").rglob("*")} <= {"aptos2019_64_damaged.json"}
    builder = build(max_damaged=0.1)
    reasons = [item["reason"] for item in report(builder)["damaged"]]
    assert len(reasons) == 2 and report(builder)["inputs_read"] == 100
    assert not {labelled_id(3), labelled_id(4)} & by_id(read(builder)).keys()
