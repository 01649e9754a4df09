"""The LIDC-IDRI builder on small DICOM series and hand-written XML: contents, labels, splits, damage."""

import json
import re
import shutil

import numpy as np
import pydicom
import pytest
from lidc_collection import PIXEL, PLACES, SIDE, STEP, Collection, ball, draw_series, rated, sessions
from lidc_series import LUNG, NODULE, make_series, message, write_series
from opening import assert_opens
from scipy.ndimage import map_coordinates

from tfds_builders import prepare
from tfds_builders.common.series import read_series
from tfds_builders.lidc_idri.annotations import parse
from tfds_builders.lidc_idri.nodules import find_nodules

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The series' files, drawn once."""
    made = Collection(tmp_path_factory.mktemp("drawn"))
    draw_series(made)
    return made.folder


@pytest.fixture
def collection(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return Collection(tmp_path)


@pytest.fixture
def examples():
    """Function: every example of a prepared data set by its image id, with the name of its split."""
    import tensorflow_datasets as tfds

    def read(builder):
        stored = tfds.builder_from_directory(builder.data_dir)
        assert_opens(stored)
        found = [(example, split) for split in stored.info.splits for example in stored.as_data_source(split)]
        return {example["image_id"].decode(): example | {"split": split} for example, split in found}

    return read


def test_every_nodule_arrives_with_its_values(collection, examples, report):
    builder = collection.prepare("64_all")
    found = examples(builder)
    labels = {"1.2.1_00": 1, "1.2.2_00": 0, "1.2.2_01": -1, "1.2.3_00": -1, "1.2.3_01": 1, "1.2.4_00": 0}
    assert {name: example["label"] for name, example in found.items()} == labels
    one = found["1.2.1_00"]
    assert one["volume"].shape == one["mask"].shape == (64, 64, 64, 1)
    assert one["volume"].dtype == np.int16 and one["mask"].dtype == np.uint8 and one["has_mask"]
    assert one["ratings"][:, -1].tolist() == [5, 4, 4, 1, 0, 0, 0, 0]
    assert one["ratings"][0].tolist() == list(rated(5))
    assert (one["malignancy_median"], one["malignancy_mean"], one["readers"]) == (4, 3.5, 4)
    assert one["patient_id"] == b"LIDC-IDRI-0001" and one["series_uid"] == b"1.2.1"
    np.testing.assert_allclose(one["original_spacing"], (STEP, PIXEL, PIXEL))
    # In the world, x and y run from minus half of the image.
    np.testing.assert_allclose(one["centre"], (24 - SIDE / 2, 20 - SIDE / 2, -38.0), atol=1e-4)
    assert one["diameter_mm"] == pytest.approx(8 * 2**0.5)
    assert builder.info.metadata["rating_names"][-1] == "malignancy"
    counts = report(builder)
    assert counts["xml"]["annotations"] == 4 + 3 + 4 + 4 + 1 + 1 == counts["found"]["annotations"]
    assert counts["found"] == dict(nodules=6, annotations=17, patients_with_nodules=3, kept=6, larger_than_the_patch=0)
    assert counts["dicom"]["series_found"] == 5 and counts["dicom"]["series_with_nodules"] == 4
    assert counts["damaged"] == [] and counts["published_counts"]["annotations"] == 6859
    assert counts["differs_from_published"][0] == "ct_series: 5, published 1018"
    assert counts["counts"] == dict(ct_series=5, patients=4, annotations=17, patients_with_nodules=3, nodules=6)


def test_voxels_and_mask_show_the_outlines(collection, examples):
    """Against the drawn nodule, sampled here; all four readers outlined the same, so it has a nodule's density."""
    one = examples(collection.prepare())["1.2.1_00"]
    volume, mask = one["volume"][..., 0], one["mask"][..., 0]
    drawn = np.zeros((16, SIDE, SIDE))
    for level, radius in enumerate((2, 4, 2)):
        drawn[7 + level, 20 - radius + 1 : 20 + radius, 24 - radius + 1 : 24 + radius] = 1
    offsets = np.arange(64) - 31.5
    places = np.stack(np.meshgrid(8 + offsets / STEP, 20 + offsets, 24 + offsets, indexing="ij"))
    nearest = np.floor(places + 0.5).astype(int).clip(0, np.array(drawn.shape)[:, None, None, None] - 1)
    assert (mask == drawn[tuple(nearest)]).all() and mask.sum() == 2 * (9 + 49 + 9)
    share = map_coordinates(drawn, places, order=1)
    inside = volume > (LUNG + NODULE) / 2
    assert inside[share > 0.6].all() and not inside[share < 0.4].any()
    assert volume.min() == -1000 and (volume[:8] == -1000).all()


def test_policies_decide_which_nodules_and_labels(collection, examples, report):
    kept = {}
    for config in ("32", "32_mean", "32_3readers", "32_mean_3readers_all"):
        builder = collection.prepare(config, out=config)
        kept[config] = {name: example["label"] for name, example in examples(builder).items()}
    assert kept["32"] == {"1.2.1_00": 1, "1.2.2_00": 0, "1.2.3_01": 1, "1.2.4_00": 0}
    assert kept["32_mean"] == kept["32"] | {"1.2.3_00": 1}
    assert kept["32_3readers"] == {"1.2.1_00": 1, "1.2.2_00": 0}
    assert kept["32_mean_3readers_all"] == {"1.2.1_00": 1, "1.2.2_00": 0, "1.2.2_01": -1, "1.2.3_00": 1}
    rules = report(builder)["labels_by_rule"]
    assert rules["median, 1 or more readers"] == dict(benign=2, malignant=2, undecided=2)
    assert rules["mean, 3 or more readers"] == dict(benign=1, malignant=2, undecided=1)
    listed = [row for one in report(builder)["series"] for row in one["nodules"]]
    assert {row["image_id"] for row in listed if row["kept"]} == kept["32_mean_3readers_all"].keys()


def test_a_small_cube_is_the_middle_of_the_large_one(collection, examples):
    large, small = (examples(collection.prepare(config, out=config)) for config in ("64", "32"))
    for name in large:
        for feature in ("volume", "mask"):
            assert (large[name][feature][16:48, 16:48, 16:48] == small[name][feature]).all()


def test_both_scans_of_a_patient_are_in_one_split(collection, examples, report):
    builder = collection.prepare("32_all")
    homes = {}
    for example in examples(builder).values():
        homes.setdefault(example["patient_id"], set()).add(example["split"])
    assert homes.keys() == {b"LIDC-IDRI-0001", b"LIDC-IDRI-0002", b"LIDC-IDRI-0003"}
    assert all(map(lambda splits: len(splits) == 1, homes.values()))
    assert sum(split["groups"] for split in report(builder)["splits"].values()) == 3


def test_planes_and_patches(collection, examples):
    planes = examples(collection.prepare("views", out="a"))["1.2.1_00"]
    assert planes["views"].shape == planes["mask"].shape == (9, 64, 64, 1) and planes["views"].dtype == np.int16
    inside = planes["mask"] == 1
    assert inside.any((1, 2, 3)).all() and planes["views"][inside].mean() > planes["views"][~inside].mean() + 300
    patches = examples(collection.prepare("patches", out="b"))["1.2.1_00"]
    overall, texture, shape = np.moveaxis(patches["patches"].astype(int), -1, 0)
    assert (texture + shape == overall).all() and patches["side_mm"].shape == (9,)
    # The middle slice's 7 pixels of 1 mm make the axial square.
    assert patches["side_mm"][0] == 7 and patches["mask"][0].mean() > 0.9


def test_files_in_zip_files_and_another_order_give_the_same(collection, examples):
    first = examples(collection.prepare("32_all", out="a"))
    shutil.make_archive(str(collection.folder / "LIDC-IDRI"), "zip", collection.folder / "LIDC-IDRI")
    shutil.rmtree(collection.folder / "LIDC-IDRI")
    again = examples(collection.prepare("32_all", out="b"))
    assert first.keys() == again.keys()
    assert all((first[name]["volume"] == again[name]["volume"]).all() for name in first)


def test_all_manifests_are_looked_into(collection, examples):
    folders = sorted((collection.folder / "LIDC-IDRI").iterdir())
    for number, folder in enumerate(folders):
        shutil.move(folder, collection.folder / f"manifest-{number}" / "LIDC-IDRI" / folder.name)
    (collection.folder / "LIDC-IDRI").rmdir()
    found = examples(collection.prepare("32"))
    assert found.keys() == {"1.2.1_00", "1.2.2_00", "1.2.3_01", "1.2.4_00"}


def test_the_way_of_grouping_is_a_choice(collection, examples, report):
    """Two outlines 3 mm and 3 voxels apart, slices 2 mm apart: two nodules in mm, one by SliceThickness, which is 9."""
    text = ball("1.2.4", "a", 2) + ball("1.2.4", "b", 5, 24, 29, (2, 2, 2))
    collection.texts["1/1.2.4.xml"] = message("1.2.4", [text])
    found = {}
    for config in ("32_all", "32_all_pylidc"):
        builder = collection.prepare(config, out=config)
        found[builder.info.metadata["clustering"]] = examples(builder)
    names = {how: {name for name in rows if name.startswith("1.2.4")} for how, rows in found.items()}
    assert names == {"mm": {"1.2.4_00", "1.2.4_01"}, "pylidc": {"1.2.4_00"}}
    assert sorted(found["pylidc"]["1.2.4_00"]["ratings"][:, -1].tolist())[-2:] == [2, 5]


def test_a_folder_without_series_says_what_was_passed_over(collection):
    folder = collection.write()
    shutil.rmtree(folder / "LIDC-IDRI")
    (folder / "LIDC-IDRI").mkdir()
    (folder / "LIDC-IDRI" / "scans.tar.gz").write_bytes(b"x" * 200)
    with pytest.raises(FileNotFoundError, match=r"holds no CT series. 1 files were passed over: packed \(1\). Unpack"):
        prepare("lidc_idri/64", data_dir=folder / "data", manual_dir=folder)


def test_without_the_list_of_patients_the_files_name_them(collection, examples):
    folder = collection.write()
    (folder / "PatientId_SeriesUID.csv").unlink()
    found = examples(prepare("lidc_idri/32", data_dir=folder / "data", manual_dir=folder))
    assert found["1.2.4_00"]["patient_id"] == b"LIDC-IDRI-0003"


def damaged_of(collection, report, **options):
    builder = collection.prepare("32", max_damaged=0.5, **options)
    (damaged,) = report(builder)["damaged"]
    return builder, damaged


def test_a_series_that_lacks_an_annotated_slice_is_left_out(collection, examples, report):
    # The first outlined slice and all below: no gap, so only the outline tells.
    for path in collection.path("1.2.1").iterdir():
        if pydicom.dcmread(path).ImagePositionPatient[2] <= PLACES[0]:
            path.unlink()
    builder, damaged = damaged_of(collection, report)
    assert "the slice 1.2.1.0 at -40 mm is missing, but has an outline" in damaged["reason"]
    assert "1.2.1_00" not in examples(builder)


def test_a_broken_slice_is_left_out_with_its_series(collection, report):
    path = sorted(collection.path("1.2.2").iterdir())[4]
    path.write_bytes(path.read_bytes()[:-500])
    _, damaged = damaged_of(collection, report)
    assert damaged["reason"].startswith(str(path.relative_to(collection.folder))) and "replace it" in damaged["reason"]


def test_an_outline_beyond_the_image_costs_its_nodule_only(collection, examples, report):
    collection.texts["1/1.2.3.xml"] = collection.texts["1/1.2.3.xml"].replace("<xCoord>14<", "<xCoord>48<")
    builder, damaged = damaged_of(collection, report)
    assert "1.2.3.xml: nodule 01 of 1.2.3" in damaged["path"]
    assert "mm leaves the image of 48x48 pixels" in damaged["reason"]


def test_a_damaged_xml_file_is_listed(collection, report):
    collection.texts["1/1.2.4.xml"] = collection.texts["1/1.2.4.xml"][:-20]
    builder, damaged = damaged_of(collection, report)
    assert "not well-formed XML" in damaged["reason"]
    assert report(builder)["series_not_in_the_xml"] == ["1.2.4"]


def test_another_patient_in_the_files_is_damage(collection, report):
    for path in collection.path("1.2.4").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "LIDC-IDRI-0009"
        dataset.save_as(path)
    _, damaged = damaged_of(collection, report)
    assert "PatientID differs from PatientId_SeriesUID.csv, which says LIDC-IDRI-0003" in damaged["reason"]


def test_too_much_damage_fails_and_leaves_nothing(collection):
    collection.texts["1/1.2.4.xml"] = "no XML"
    with pytest.raises(ValueError, match=r"1 of \d+ inputs are damaged, more than the 0.1% allowed.*1.2.4.xml"):
        collection.prepare("32")
    left = {path.name for path in (collection.folder / "data").rglob("*")}
    assert left <= {"lidc_idri_32_damaged.json"}
    assert json.loads((collection.folder / "data" / "lidc_idri_32_damaged.json").read_text())


def test_series_that_are_not_there_are_listed(collection, examples, report):
    for uid in ("1.2.2", "1.2.3", "1.2.5"):
        shutil.rmtree(collection.path(uid))
    builder = collection.prepare("32")
    assert report(builder)["series_not_found"] == ["1.2.2", "1.2.3", "1.2.5"]
    assert report(builder)["differs_from_published"][-1].startswith("3 series of the XML not found")
    assert examples(builder).keys() == {"1.2.1_00", "1.2.4_00"}


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "manifest-1600709154662.tcia").write_text("a list for the NBIA Data Retriever, no images")
    with pytest.raises(FileNotFoundError, match="LIDC-XML-only.zip, LIDC-IDRI not found in .*cancerimagingarchive"):
        prepare("lidc_idri/64", data_dir=tmp_path / "data", manual_dir=tmp_path)


def test_refused_xml_files_are_named_with_what_is_wrong(collection):
    # Of the last only non-nodules are known, which have no outlines.
    del collection.texts["1/1.2.5.xml"]
    for name, text in collection.texts.items():
        collection.texts[name] = re.sub(r"<xCoord>(\d+)<", r"<xCoord>\1.0<", text)
    with pytest.raises(ValueError) as error:
        collection.prepare("32_all")
    said = str(error.value)
    assert "4 XML files cannot be used: " in said
    assert "1/1.2.1.xml: xCoord or yCoord is no whole number" in said and "cancerimagingarchive" not in said


def test_series_of_another_collection_are_refused(collection):
    collection.texts = {"1/1.xml": message("1.9", sessions("1.9", (5,)))}
    with pytest.raises(ValueError, match="none of the 5 CT series of .*LIDC-IDRI is one of the 1 of"):
        collection.prepare("64")


@pytest.mark.parametrize("rows", ["LIDC-IDRI-0001\n", "a,b\n,c\n", ""])
def test_a_list_of_patients_with_other_columns_is_refused(collection, rows):
    folder = collection.write()
    (folder / "PatientId_SeriesUID.csv").write_text(rows)
    with pytest.raises(ValueError, match="PatientId_SeriesUID.csv, .*two columns"):
        prepare("lidc_idri/64", data_dir=folder / "data", manual_dir=folder)


# Joining of outlines and slices


def read_back(text, folder, change=None):
    datasets = make_series(text, "P", PIXEL, SIDE, margin=2)
    for number, dataset in enumerate(datasets):
        if change:
            change(number, dataset)
    write_series(datasets, folder)
    return find_nodules(read_series(sorted(folder.iterdir())), parse(text.encode(), "a.xml"))


def test_slices_are_found_by_uid_not_by_position(tmp_path):
    """All positions of the files moved by 100 mm: the UIDs still tell."""

    def move(_, dataset):
        dataset.ImagePositionPatient[2] += 100

    (one,), notes, _ = read_back(message("1.2.1", sessions("1.2.1", (5,))), tmp_path, move)
    assert one.box.corner[0] == 2 and one.box.voxels.sum() == 9 + 49 + 9 and not notes


def test_position_decides_where_one_uid_names_two_slices(tmp_path):
    """As in LIDC-IDRI-0396."""
    text = message("1.2.1", sessions("1.2.1", (5,)))
    (one,), notes, _ = read_back(text.replace("1.2.1.2<", "1.2.1.1<"), tmp_path)
    assert [int(plane.sum()) for plane in one.box.voxels] == [9, 49, 9]
    assert notes == ["2 outlines joined to their slices by position, not by SOP Instance UID"]


def test_a_scan_lying_the_other_way_is_turned_with_its_masks(tmp_path):
    """Prone: the image's x and y run against the patient's."""
    text = message("1.2.1", sessions("1.2.1", (5,)))
    datasets = make_series(text, "P", PIXEL, SIDE, margin=2)
    for dataset in datasets:
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
    write_series(datasets, tmp_path)
    series = read_series(sorted(tmp_path.iterdir()))
    (one,), _, _ = find_nodules(series, parse(text.encode(), "a.xml"))
    assert one.centre == pytest.approx((3, SIDE - 1 - 20, SIDE - 1 - 24))
    z, y, x = one.box.corner
    depth, height, width = one.box.voxels.shape
    voxels = series.oriented().voxels[z : z + depth, y : y + height, x : x + width]
    assert (voxels[one.box.voxels] > -400).all() and (voxels[~one.box.voxels] < -400).all()


def test_a_beam_runner_prepares_the_same(collection, examples, report):
    import apache_beam as beam
    import tensorflow_datasets as tfds

    from tfds_builders.lidc_idri import Builder

    here = collection.prepare("32_all", out="a")
    builder = Builder(data_dir=collection.folder / "b", config="32_all")
    options = beam.options.pipeline_options.PipelineOptions(["--direct_running_mode=in_memory"])
    settings = tfds.download.DownloadConfig(manual_dir=collection.folder, beam_options=options)
    builder.download_and_prepare(download_dir=collection.folder / "downloads", download_config=settings)
    assert report(builder) == report(here)
    first, second = examples(here), examples(builder)
    assert first.keys() == second.keys()
    for name, example in first.items():
        assert all((np.asarray(example[key]) == np.asarray(second[name][key])).all() for key in example)
