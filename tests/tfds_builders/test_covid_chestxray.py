"""The ieee8023 collection: findings and policies, what is left out, masks, patients kept whole, wrong tables."""

import numpy as np
import pytest
from cxr_sets import collection, grey, png_mask

from tfds_builders import prepare
from tfds_builders.covid_chestxray.findings import CLASSES, label_of, path_of

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path):
    return collection(tmp_path / "manual")


@pytest.fixture
def build(tmp_path):
    """Function: writes the files and prepares them."""

    def prepared(files, config="64_covid", zipped=True, **options):
        folder = files.write(zipped)
        return prepare(f"covid_chestxray/{config}", data_dir=tmp_path / "data", manual_dir=folder, **options)

    return prepared


def by_id(splits):
    return {
        example["image_id"].decode(): (split, example) for split, examples in splits.items() for example in examples
    }


def row(name, patient="900", finding="COVID-19", view="PA", modality="X-ray", licence=""):
    return f"{patient},,,,{finding},{view},{modality},,images,{name},{licence},,\n"


@pytest.mark.parametrize(
    ("finding", "path", "covid", "pneumonia"),
    [
        ("COVID-19", "Pneumonia/Viral/COVID-19", "COVID-19", "viral"),
        ("COVID-19, ARDS", "Pneumonia/Viral/COVID-19", "COVID-19", "viral"),
        ("Pneumonia/Viral/COVID-19", "Pneumonia/Viral/COVID-19", "COVID-19", "viral"),
        ("SARS", "Pneumonia/Viral/SARS", "other", "viral"),
        ("Pneumonia/Viral/Influenza/H1N1", "Pneumonia/Viral/Influenza/H1N1", "other", "viral"),
        ("Mycoplasma Bacterial Pneumonia", "Pneumonia/Bacterial/Mycoplasma", "other", "bacterial"),
        ("Bacterial", "Pneumonia/Bacterial", "other", "bacterial"),
        ("Pneumocystis", "Pneumonia/Fungal/Pneumocystis", "other", "fungal"),
        ("Lipoid", "Pneumonia/Lipoid", "other", "other"),
        ("Pneumonia", "Pneumonia", "other", "other"),
        ("Tuberculosis", "Tuberculosis", "other", "other"),
        ("ARDS", "ARDS", "other", "other"),
        ("No Finding", "No Finding", "other", "no finding"),
    ],
)
def test_findings(finding, path, covid, pneumonia):
    assert path_of(finding) == path
    assert (label_of(path, "covid"), label_of(path, "pneumonia")) == (covid, pneumonia)


@pytest.mark.parametrize("policy", CLASSES)
def test_labels_and_patients(files, build, read, report, policy):
    builder = build(files, f"64_{policy}")
    splits = read(builder)
    names = builder.info.features["label"].names
    assert names == list(CLASSES[policy])
    found = by_id(splits)
    assert found.keys() == files.archives["images"].keys()
    wanted = {
        "covid": ("COVID-19", "other", "other", "COVID-19"),
        "pneumonia": ("viral", "bacterial", "no finding", "viral"),
    }
    for name, (_, example) in found.items():
        number = int(name.split(".")[0].split()[1])
        assert names[example["label"]] == wanted[policy][number // 2 % 4]
        assert example["patient_id"].decode() == str(number // 2) and example["license"] == b"CC BY 4.0"
        assert example["view"].decode() == ("PA", "AP", "AP Supine")[number % 3]
        assert example["image"].shape == (64, 64, 1) and "mask" not in example
    groups = [{example["patient_id"] for example in examples} for examples in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == report(builder)["frontal_patients"] == 60


def test_what_is_left_out_is_counted(files, build, read, report):
    files.texts["metadata.csv"] += "".join(
        [
            row("ct.jpg", view="Axial", modality="CT"),
            row("ct.nii.gz", view="Coronal", modality="CT"),
            row("l.jpg", view="L", finding="todo"),
            row("v.jpg", view="?"),
            row("w.jpg", view=""),
            row("x.jpg", view="Oblique"),
            row("absent.jpg"),
            row("todo.jpg", finding="todo", patient="901"),
            row("unknown.jpg", finding="Unknown"),
            row("blank.jpg", finding=""),
            row("kept.jpg", finding="SARS", patient=""),
        ]
    )
    files.archives["images"] |= {f"{name}.jpg": grey(900) for name in ("todo", "unknown", "blank", "kept", "unlisted")}
    builder = build(files)
    made = report(builder)
    assert made["left_out"] == {
        "CT": 2, "lateral view": 1, "view not given": 2, "view Oblique": 1, "not in the archive of images": 1,
        "finding todo": 1, "finding Unknown": 1, "finding blank": 1,
    }  # fmt: skip
    assert made["rows_of_the_table"] == 131 and made["frontal_images"] == 124 and made["frontal_patients"] == 63
    assert made["frontal_images_not_in_the_archive"] == ["absent.jpg"] and made["images_not_in_the_table"] == 1
    assert made["findings"]["Pneumonia/Viral/SARS"] == 1 and made["findings"]["Pneumonia/Viral/COVID-19"] == 60
    assert sum(made["label_by_view"]["COVID-19"].values()) == 60
    assert made["label_by_file_type"]["other"].keys() == {".jpg", ".jpeg", ".png"}
    _, example = by_id(read(builder))["kept.jpg"]
    assert (example["patient_id"], example["license"]) == (b"kept.jpg", b"unknown")


def test_masks(files, build, read, report):
    # Two images that one mask could be of.
    files.archives["images"] |= {"case 0.png": grey(901, ".png"), "none.jpg": grey(902)}
    files.texts["metadata.csv"] += row("case 0.png", patient="0") + row("none.jpg")
    files.archives["lung_masks"]["elsewhere.png"] = png_mask(24, 32)
    builder = build(files, "full_covid_mask")
    found = by_id(read(builder))
    for name, (_, example) in found.items():
        number = int("".join(filter(str.isdigit, name)) or 1)
        masked = name not in ("none.jpg", "case 0.jpg", "case 0.png") and number // 2 % 4 in (0, 3)
        assert example["has_mask"] == masked and example["mask"].shape == example["image"].shape
        assert (example["mask"] == 255).mean() == (pytest.approx(1 / 6, abs=0.03) if masked else 0)
    assert report(builder)["images_with_mask"] == 59 and report(builder)["masks_not_used"] == 2


def test_folders_give_the_same_and_masks_are_optional(files, build, read, tmp_path):
    zipped = by_id(read(build(files)))
    other = collection(tmp_path / "folder")
    del other.archives["lung_masks"]
    folder = other.write(zipped=False)
    unpacked = by_id(read(prepare("covid_chestxray/64_covid", data_dir=tmp_path / "other", manual_dir=folder)))
    assert {name: split for name, (split, _) in zipped.items()} == {
        name: split for name, (split, _) in unpacked.items()
    }
    with pytest.raises(FileNotFoundError, match="lung_masks not found in .*for the configs with masks"):
        prepare("covid_chestxray/64_covid_mask", data_dir=tmp_path / "other", manual_dir=folder)


def retext(old, new):
    return lambda files: files.texts.update({"metadata.csv": files.texts["metadata.csv"].replace(old, new)})


WRONG = {
    "column": (retext("patientid", "patient"), "metadata.csv has no column patientid"),
    "twice": (retext("case 1.PNG", "case 0.jpg"), "filename case 0.jpg occurs twice"),
    "finding": (
        retext("0,0,M,65,COVID-19", "0,0,M,65,Influenca"), "case 0.jpg: the finding 'Influenca' is neither a path below"
    ),
    "image": (lambda files: files.archives["images"].update({"case 0.jpg": grey(0)[:150]}), "is cut short"),
    "no table": (lambda files: files.texts.clear(), "metadata.csv not found in .*Put metadata.csv and images/"),
    "no images": (lambda files: files.archives.pop("images"), "images not found in"),
    "nothing": (retext("X-ray", "CT"), "the tables name no image that can be used"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_left(files, build, tmp_path, case):
    spoil, message = WRONG[case]
    spoil(files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(files)
    assert {path.name for path in (tmp_path / "data").rglob("*")} <= {"covid_chestxray_64_covid_damaged.json"}


def test_a_mask_of_another_image_is_damage(files, build, report):
    files.archives["lung_masks"]["case 0.png"] = png_mask(30, 30)
    builder = build(files, "64_covid_mask", max_damaged=0.1)
    (damaged,) = report(builder)["damaged"]
    assert "the mask belongs to another image" in damaged["reason"]


def test_real_archive(real_data, tmp_path, read, report):
    builder = prepare("covid_chestxray/64_covid_mask", data_dir=tmp_path, manual_dir=real_data / "covid_chestxray")
    made, splits = report(builder), read(builder)
    assert (made["frontal_images"], made["frontal_patients"], made["rows_of_the_table"]) == (571, 340, 758)
    # 571 frontal images less 51 without a finding; of the 418 masks one is of an image of those.
    assert made["left_out"] == {
        "lateral view": 57, "CT": 84, "view not given": 39, "not in the archive of images": 7,
        "finding Unknown": 1, "finding todo": 50,
    }  # fmt: skip
    assert sum(map(len, splits.values())) == 520
    assert (made["images_with_mask"], made["masks_not_used"], made["damaged"]) == (417, 1, [])
    groups = [{example["patient_id"] for example in examples} for examples in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert all(min(part["classes"].values()) > 5 for part in made["splits"].values())
    shares = [np.mean(example["mask"] > 0) for example in splits["test"] if example["has_mask"]]
    assert 0.2 < np.mean(shares) < 0.7
