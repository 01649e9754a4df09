"""CheXpert on small data in the official format: labels after each policy, views, splits, releases, damage."""

import math

import numpy as np
import pytest
from chest_sets import CHEXPERT_HEADER, CheXpert

from tfds_builders import prepare
from tfds_builders.chexpert import official as names

pytestmark = pytest.mark.slow

LABELS = CHEXPERT_HEADER.split(",")[5:]


@pytest.fixture
def files(tmp_path) -> CheXpert:
    return CheXpert(tmp_path / "manual")


@pytest.fixture
def build(files, tmp_path):
    """Function: writes the files and prepares them."""

    def prepared(how="zip", config="64", out="data", **options):
        return prepare(f"chexpert/{config}", data_dir=tmp_path / out, manual_dir=files.write(how), **options)

    return prepared


def by_id(splits):
    return {example["image_id"].decode(): example for examples in splits.values() for example in examples}


def ids(splits):
    return {split: {example["image_id"].decode() for example in examples} for split, examples in splits.items()}


NAN = math.nan
# value in the table, value kept, label after each policy
POLICY_TABLE = [
    ("Atelectasis", "1.0", 1, dict(ignore=1, zeros=1, ones=1, mixed=1)),
    ("Atelectasis", "0.0", 0, dict(ignore=0, zeros=0, ones=0, mixed=0)),
    ("Atelectasis", "", -2, dict(ignore=0, zeros=0, ones=0, mixed=0)),
    ("Atelectasis", "-1.0", -1, dict(ignore=NAN, zeros=0, ones=1, mixed=1)),
    ("Edema", "-1.0", -1, dict(ignore=NAN, zeros=0, ones=1, mixed=1)),
    ("Cardiomegaly", "-1.0", -1, dict(ignore=NAN, zeros=0, ones=1, mixed=NAN)),
    ("Consolidation", "-1.0", -1, dict(ignore=NAN, zeros=0, ones=1, mixed=NAN)),
    ("Pleural Effusion", "-1.0", -1, dict(ignore=NAN, zeros=0, ones=1, mixed=NAN)),
    ("Pneumonia", "-1", -1, dict(ignore=NAN, zeros=0, ones=1, mixed=NAN)),
    ("No Finding", "1", 1, dict(ignore=1, zeros=1, ones=1, mixed=1)),
]


@pytest.mark.parametrize("policy", ["ignore", "zeros", "ones", "mixed"])
def test_labels_after_each_policy(files, build, read, policy):
    images = {}
    for number, (observation, value, raw, wanted) in enumerate(POLICY_TABLE):
        labels = [""] * 14
        labels[LABELS.index(observation)] = value
        name = files.add("train", 1000 + number, "view1_frontal.jpg", labels)
        images[name.removesuffix(".jpg")] = (observation, raw, wanted[policy])
    config = "64" if policy == "ignore" else f"64_{policy}"
    builder = build(config=config)
    assert list(builder.info.metadata["label_names"]) == LABELS and builder.info.metadata["policy"] == policy
    found = by_id(read(builder))
    for image, (observation, raw, wanted) in images.items():
        place = LABELS.index(observation)
        example = found[image]
        assert example["labels"].dtype == np.float32 and example["labels_raw"].dtype == np.int8
        assert example["labels_raw"][place] == raw and np.array_equal(example["labels"][place], wanted, equal_nan=True)
        others = np.arange(14) != place
        assert (example["labels_raw"][others] == -2).all() and (example["labels"][others] == 0).all()


def test_every_frontal_row_arrives_with_its_values(files, build, read):
    found = by_id(read(build()))
    rows = {name: row for part in files.tables.values() for name, row in part.items() if "frontal" in name}
    assert found.keys() == {name.removesuffix(".jpg") for name in rows}
    for name, row in rows.items():
        example = found[name.removesuffix(".jpg")]
        assert example["image"].shape == (64, 64, 1)
        _, patient, study, _ = name.split("/")
        assert example["patient_id"].decode() == patient and example["study_id"].decode() == f"{patient}/{study}"
        assert example["sex"].decode() == row[1].lower() and example["age"] == 68
        assert example["orientation"] == b"frontal" and example["view"].decode() == row[4]
        assert [float(value or -2) for value in row[5:]] == example["labels_raw"].tolist()


def test_laterals_are_a_config_of_their_own(files, build, read, report):
    frontal, everything = build(), build(config="64_all")
    found = by_id(read(everything))
    assert found.keys() == {name.removesuffix(".jpg") for name in files.images}
    assert found["train/patient00003/study1/view2_lateral"]["orientation"] == b"lateral"
    assert found["train/patient00003/study1/view2_lateral"]["view"] == b"unknown"
    laterals = sum("lateral" in name for name in files.images)
    assert (report(frontal)["lateral_images_left_out"], report(everything)["lateral_images_left_out"]) == (laterals, 0)
    first, second = ids(read(frontal)), ids(read(everything))
    assert all(first[split] <= second[split] for split in first)


def test_the_official_valid_set_is_the_test_set_and_patients_are_whole(files, build, read):
    splits = read(build(config="64_ones_all"))
    assert {f"{name}.jpg" for name in ids(splits)["test"]} == set(files.tables["valid"])
    assert all(name.startswith("train/") for split in ("train", "validation") for name in ids(splits)[split])
    patients = [{example["patient_id"] for example in examples} for examples in splits.values()]
    assert all(patients) and sum(map(len, patients)) == len(set.union(*patients)) == 44


@pytest.mark.parametrize("how", ["bare", "folder", "batches"])
def test_every_release_gives_the_same(files, build, read, tmp_path, how):
    files.release = "CheXpert-v1.0" if how == "batches" else "CheXpert-v1.0-small"
    files.tables = CheXpert(tmp_path, files.release).tables
    first = by_id(read(build("zip", config="64_all")))
    (files.folder / f"{files.release}.zip").unlink()
    second = by_id(read(build(how, config="64_all", out="other")))
    assert first.keys() == second.keys()
    assert all((example["image"] == second[name]["image"]).all() for name, example in first.items())


def test_tables_beside_the_archive(files, build, read):
    folder = files.write("bare")
    texts, files.texts = files.texts(), lambda: {}
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    assert len(by_id(read(build("bare")))) == 44


def test_counts_are_compared_with_the_published_ones(files, build, report):
    found = report(build())
    assert found["counts"]["train patients"] == 40 and found["counts"]["valid studies"] == 4
    assert found["counts"]["train frontal PA"] == found["counts"]["train frontal AP"] == 20
    assert found["counts"]["uncertain Atelectasis"] == found["counts"]["train images"] == 53
    assert "train images: 53, published 223414" in found["differs_from_published"]
    assert found["images_not_in_the_tables"] == 0 and found["policy"] == "ignore"
    assert names.PUBLISHED["train images"] - 161590 - 29420 - 32387 == 17


@pytest.mark.parametrize("missing", ["nothing there", "a batch", "a table"])
def test_what_is_missing_is_named(files, tmp_path, missing):
    files.folder.mkdir()
    # TFDS itself refuses an empty folder.
    (files.folder / "notes.txt").write_text("x")
    if missing == "a batch":
        (files.write("batches") / "CheXpert-v1.0 batch 3 (train 2).zip").unlink()
        message = r"^CheXpert-v1.0 batch 3 \(train 2\) not found"
    elif missing == "a table":
        (files.write("folder") / files.release / "valid.csv").unlink()
        message = "^valid.csv not found"
    else:
        message = "^CheXpert-v1.0-small, train.csv, valid.csv not found in .*stanfordmlgroup"
    with pytest.raises(FileNotFoundError, match=message):
        prepare("chexpert/64", data_dir=tmp_path / "data", manual_dir=files.folder)


def test_a_missing_image_is_named(files, build):
    del files.images["train/patient00007/study1/view1_frontal.jpg"]
    with pytest.raises(FileNotFoundError, match="1 of 44 images .*: train/patient00007/study1/view1_frontal.jpg"):
        build()


def edit(column, value):
    def change(files):
        files.tables["train"]["train/patient00002/study1/view1_frontal.jpg"][column] = value

    return change


DAMAGES = {
    "label": (edit(7, "2.0"), "line 3: .*patient00002.*: Cardiomegaly is '2.0': 1, 0, -1 or blank is wanted"),
    "word": (edit(5, "yes"), "No Finding is 'yes'"),
    "nan": (edit(5, "nan"), "No Finding is 'nan'"),
    "age": (edit(2, "old"), "the age is 'old'"),
    "orientation": (edit(3, ""), "Frontal/Lateral is ''"),
    "path": (edit(0, "CheXpert-v1.0-small/train/x.jpg"), "the path is not …/train/patientNNNNN"),
    "path of the other part": (
        edit(0, "CheXpert-v1.0-small/valid/patient00002/study1/view1_frontal.jpg"),
        "the path is not …/train/patientNNNNN",
    ),
    "image": (
        lambda files: files.images.update({"train/patient00002/study1/view1_frontal.jpg": b"\xff\xd8"}),
        "view1_frontal.jpg is of no known format",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(files, build, damage):
    spoil, message = DAMAGES[damage]
    spoil(files)
    with pytest.raises(ValueError, match=message):
        build()


def test_few_damaged_rows_are_left_out_and_listed(files, build, read, report):
    edit(7, "2.0")(files)
    builder = build(max_damaged=0.1)
    assert "train/patient00002/study1/view1_frontal" not in by_id(read(builder))
    assert len(report(builder)["damaged"]) == 1 and report(builder)["inputs_read"] == 44


def test_a_patient_of_both_parts_is_refused(files, build):
    files.add("valid", 1, "view1_frontal.jpg", ["0.0"] * 14)
    with pytest.raises(ValueError, match="patient00001 is in train.csv and in valid.csv"):
        build(max_damaged=1.0)


def test_a_table_without_an_observation_is_refused(files, build):
    texts = files.texts()
    texts["valid.csv"] = texts["valid.csv"].replace(b"Edema", b"Oedema")
    files.texts = lambda: texts
    with pytest.raises(ValueError, match="CheXpert-v1.0-small.zip: CheXpert-v1.0-small/valid.csv has no column Edema"):
        build(max_damaged=1.0)
