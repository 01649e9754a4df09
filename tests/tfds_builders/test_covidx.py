"""COVIDx: lines of the lists, official and cross-source splits, the table that shows the shortcut, wrong lists."""

import logging

import pytest
from cxr_sets import covidx, grey

from tfds_builders import prepare
from tfds_builders.common.damage import DamagedInput
from tfds_builders.covidx.lists import LABELS, Row, read_line

pytestmark = pytest.mark.slow


@pytest.fixture
def build(tmp_path):
    """Function: writes the files of a version and prepares them."""

    def prepared(files, config="64_9B", zipped=True, **options):
        folder = files.write(zipped)
        return prepare(f"covidx/{config}", data_dir=tmp_path / "data", manual_dir=folder, **options)

    return prepared


def of(splits, feature):
    return {split: {example[feature].decode() for example in examples} for split, examples in splits.items()}


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("3 SARS-10.jpeg negative cohen", ("SARS-10.jpeg", "3", "negative", "cohen")),
        ("COVID_1 COVID (1) b.png positive sirm", ("COVID (1) b.png", "COVID_1", "positive", "sirm")),
        ("p COVID  (2).png positive rnsa ", ("COVID  (2).png", "p", "positive", "rsna")),
        ("p a b.png negative", ("a b.png", "p", "negative", "unknown")),
        ("p a.png negative unknown", ("a.png", "p", "negative", "unknown")),
        ("p positive negative.png positive bimcv", ("positive negative.png", "p", "positive", "bimcv")),
    ],
)
def test_lines(line, row):
    assert read_line(line, LABELS["B"], "train") == Row(*row, "train")


@pytest.mark.parametrize(
    "line", ["x", "x y", "positive", "p positive rsna", "p a.png normal rsna", "p a.png maybe", "p a b c d"]
)
def test_wrong_lines(line):
    with pytest.raises(DamagedInput, match="is not 'patient file label source' with a label of negative, positive"):
        read_line(line, LABELS["B"], "train")


@pytest.mark.parametrize("version", ["8A", "9B", "CXR-3B"])
def test_official_split(build, read, report, tmp_path, caplog, version):
    files = covidx(tmp_path / "manual", version)
    files.texts = {name.replace("xCXR", "x_CXR"): text for name, text in files.texts.items()}
    with caplog.at_level(logging.WARNING):
        builder = build(files, f"64_{version}")
    splits = read(builder)
    ids = of(splits, "image_id")
    assert ids["test"] == files.archives["test"].keys()
    assert ids["train"] | ids["validation"] == files.archives["train"].keys() and ids["validation"]
    patients = of(splits, "patient_id")
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == report(builder)["patients"] == 100
    names = builder.info.features["label"].names
    assert names == list(LABELS[version[-1]])
    for example in splits["test"]:
        patient = int(example["patient_id"][1:])
        assert names[example["label"]] == names[patient // 5 % len(names)]
        assert example["source"].decode() == ("rsna", "rsna", "ricord", "cohen", "actmed")[patient % 5]
        assert example["image"].shape == (64, 64, 1)
    assert report(builder)["misspelt_sources"] == 40
    assert any(line.startswith("test, ") for line in report(builder)["differs_from_published"])
    assert "cross the borders" not in caplog.text


def test_the_table_shows_the_shortcut(build, report, tmp_path):
    files = covidx(tmp_path / "manual")
    name = "train_COVIDx9B.txt"
    files.texts[name] = (
        files.texts[name].replace("positive rsna", "negative rsna").replace("positive rnsa", "negative rsna")
    )
    table = report(build(files))["label_by_source"]
    assert table["train"]["rsna"] == {"negative": 64}
    assert table["train"]["cohen"] == {"negative": 16, "positive": 16}
    assert table["test"]["rsna"] == {"negative": 8, "positive": 8}


def test_splits_by_source(build, read, report, tmp_path):
    files = covidx(tmp_path / "manual")
    # A patient of both kinds of sources: never in train and test.
    for name in ("both-0.jpg", "both-1.jpg"):
        files.archives["train"][name] = grey(800 + int(name[5]))
    files.texts["train_COVIDx9B.txt"] += "p0 both-0.jpg negative cohen\np3 both-1.jpg negative bimcv\n"
    folder = files.write()
    splits = {
        config: read(prepare(f"covidx/64_9B_{config}", data_dir=tmp_path / "data", manual_dir=folder))
        for config in ("cross", "cross_reversed")
    }
    for config, tested in (("cross", True), ("cross_reversed", False)):
        sources, patients = of(splits[config], "source"), of(splits[config], "patient_id")
        assert sources["test"] == ({"cohen", "actmed"} if tested else {"rsna", "ricord", "bimcv"})
        assert not sources["test"] & (sources["train"] | sources["validation"])
        assert sum(map(len, patients.values())) == len(set.union(*patients.values()))
    left_out = [report(prepare(f"covidx/64_9B_{config}", data_dir=tmp_path / "data"))["left_out"] for config in splits]
    # Of p0 two images of rsna and, in the other direction, one of cohen; of p3 one of bimcv, and two of cohen.
    assert left_out == [{"train image of a patient of the test": 3}] * 2
    # Both lists are used: of the test list's images 12 are of sources that are trained on.
    assert len(splits["cross"]["test"]) == 81 and len(splits["cross_reversed"]["test"]) == 121


def test_torn_patients_are_told(build, report, tmp_path, caplog):
    files = covidx(tmp_path / "manual")
    files.texts["test_COVIDx9B.txt"] = files.texts["test_COVIDx9B.txt"].replace("p80 ", "p1 ")
    with caplog.at_level(logging.WARNING):
        builder = build(files)
    assert report(builder)["patients_torn_by_the_official_split"] == {"test and train": {"patients": 1, "images": 4}}
    assert "1 patients (4 images) in test and train" in caplog.text


def test_a_patient_with_a_copy_of_a_test_image_is_left_out_and_a_torn_one_is_not(build, read, report, tmp_path):
    files = covidx(tmp_path / "manual")
    held_out = next(iter(files.archives["test"]))
    files.archives["train"] |= {"copy.jpg": files.archives["test"][held_out], "other.jpg": grey(801)}
    files.texts["train_COVIDx9B.txt"] += "twin copy.jpg negative rsna\ntwin other.jpg negative rsna\n"
    files.texts["test_COVIDx9B.txt"] = files.texts["test_COVIDx9B.txt"].replace("p81 ", "p1 ")
    builder = build(files)
    ids = of(read(builder), "image_id")
    assert report(builder)["left_out_as_copies_of_held_out_images"] == ["copy.jpg"]
    assert report(builder)["left_out_with_such_copies"] == ["other.jpg"]
    assert not {"copy.jpg", "other.jpg"} & set.union(*ids.values()) and held_out in ids["test"]
    assert {"COVID (1) 0.png", "COVID (1) 1.png"} <= ids["train"] | ids["validation"]
    assert report(builder)["patients_torn_by_the_official_split"]["test and train"]["patients"] == 1


def test_repeated_lines_count_once_and_folders_do(build, read, report, tmp_path):
    files = covidx(tmp_path / "manual")
    files.texts["train_COVIDx9B.txt"] += "\n" + files.texts["train_COVIDx9B.txt"].splitlines()[0]
    files.archives["train"]["unlisted.png"] = grey(700, ".png")
    builder = build(files, zipped=False)
    assert len(of(read(builder), "image_id")["test"]) == 40
    assert report(builder)["repeated_lines"] == 1
    assert report(builder)["images_not_in_the_lists"] == {"train": 1, "test": 0}


def retext(name, old, new):
    return lambda files: files.texts.update({name: files.texts[name].replace(old, new)})


TRAIN, TEST = "train_COVIDx9B.txt", "test_COVIDx9B.txt"
WRONG = {
    "label": (retext(TRAIN, "p0 0-0.jpg negative", "p0 0-0.jpg maybe"), "line 1: 'p0 0-0.jpg maybe rsna' is not 'pat"),
    "both lists": (
        retext(TEST, "p80 80-0.jpg", "p80 0-0.jpg"), r"line 1: 0-0.jpg .* is also in the list train \(negative, patie"
    ),
    "other version": (
        lambda files: files.texts.update({TRAIN: "p x.png normal rsna\n"}), "train_COVIDx9B.txt has no line 'patient"
    ),
    "no list": (lambda files: files.texts.pop(TEST), "test_COVIDx9B.txt not found in .*train_COVIDx….txt and test"),
    "no folder": (lambda files: files.archives.pop("test"), "test not found in"),
    "no image": (lambda files: files.archives["train"].pop("0-0.jpg"), "1 of 200 images .*train.zip.*0-0.jpg"),
    "damaged": (lambda files: files.archives["train"].update({"0-0.jpg": b""}), "0-0.jpg is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_left(build, tmp_path, case):
    spoil, message = WRONG[case]
    files = covidx(tmp_path / "manual")
    spoil(files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(files)
    assert {path.name for path in (tmp_path / "data").rglob("*")} <= {"covidx_64_9B_damaged.json"}


def test_a_split_by_source_needs_sources(build, tmp_path):
    files = covidx(tmp_path / "manual")
    for name, text in files.texts.items():
        files.texts[name] = "".join(f"{line.rsplit(maxsplit=1)[0]}\n" for line in text.splitlines())
    with pytest.raises(ValueError, match="no source for 200 of 200 images.*lists with four columns"):
        build(files, "64_9B_cross")
