"""LUNA16 on ten small subsets in the official format: folds, patches, patients with two scans, damage."""

import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK
import tensorflow_datasets as tfds
from luna_set import ORIGIN, SHAPE, Luna, ten_folds

from tfds_builders.common.damage import TooMuchDamage
from tfds_builders.luna16 import Builder
from tfds_builders.luna16.cutting import choose
from tfds_builders.luna16.official import Nodule

pytestmark = pytest.mark.slow


@pytest.fixture
def luna(tmp_path) -> Luna:
    return ten_folds(tmp_path / "manual")


def prepare(folder, out, config="32", max_damaged=0.0, **download):
    builder = Builder(data_dir=out, config=config, max_damaged=max_damaged)
    settings = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False, **download)
    builder.download_and_prepare(download_dir=out / "downloads", download_config=settings)
    return builder


def test_whole(luna, tmp_path, read, report):
    builder = prepare(luna.write(), tmp_path / "data")
    splits, said = read(builder), report(builder)
    folds = {split: {int(example["fold"]) for example in rows} for split, rows in splits.items()}
    assert folds == {"train": set(range(8)), "validation": {8}, "test": {9}}
    assert said["splits"]["train"]["classes"] == {"non_nodule": 24, "nodule": 8}
    assert said["counts"] == {"scans": 10, "nodules": 10}
    assert said["rows"] == {
        "annotations.csv": 10,
        "candidates_V2.csv": 70,
    }
    assert said["nodules_of_the_scans_found"] == 10 and said["left_out"] == [] and not said["patients_known"]
    assert said["differs_from_published"] == ["scans: 10, published 888", "nodules: 10, published 1186"]
    names = builder.info.features["label"].names
    for example in (example for rows in splits.values() for example in rows):
        uid, fold = example["series_uid"].decode(), int(example["fold"])
        assert uid == f"1.3.{fold}" and example["patient_id"] == example["series_uid"]
        sign = np.array([-1, -1, 1] if fold == 3 else [1, 1, 1])
        centre = ORIGIN + np.array([30, 28, 30]) * sign
        distance = np.linalg.norm(example["centre"] - centre)
        volume = example["volume"][..., 0]
        assert volume.shape == (32, 32, 32) and volume.dtype == np.int16
        if names[example["label"]] == "nodule":
            assert distance < 1e-3 and example["diameter_mm"] == 9.0
            # The ball is in the middle, and the mark at x + 12 mm: also of a flipped scan, left is left.
            inside = np.argwhere((volume > -400) & (volume < 375))
            assert (volume[14:18, 14:18, 14:18] == 50).all() and len(inside) > 200
            bright = np.argwhere(volume > 375)
            assert abs(bright.mean(0) - (15.5, 15.5, 27.5)).max() < 0.6
        else:
            assert distance >= 9 / 2 + 5 - 1e-3 and np.isnan(example["diameter_mm"])
    notes = {one["series_uid"]: one["notes"] for one in said["series"]}
    assert [uid for uid, lines in notes.items() if lines] == ["1.3.3"] and "flipped" in notes["1.3.3"][0]


def test_other_folds(luna, tmp_path, read):
    splits = read(prepare(luna.write(), tmp_path / "data", "32_fold0"))
    assert {int(e["fold"]) for e in splits["test"]} == {0} and {int(e["fold"]) for e in splits["validation"]} == {9}
    assert len(Builder.builder_configs) == 44 and Builder.builder_configs["64"].test_fold == 9


def test_patients_with_two_scans_are_never_in_two_splits(luna, tmp_path, read, report):
    luna.add(9, "1.3.99")
    rows = [("A", "1.3.1"), ("A", "1.3.9"), ("B", "1.3.2"), ("B", "1.3.3"), ("C", "1.3.8"), ("C", "1.3.99")]
    (luna.folder / "PatientId_SeriesUID.csv").write_text("".join(f"{a},{b}\n" for a, b in rows))
    shutil.rmtree(luna.folder / "subset8")
    builder = prepare(luna.write(), tmp_path / "data", "32_part")
    stored = tfds.builder_from_directory(builder.data_dir)
    patients = {split: {e["patient_id"] for e in stored.as_data_source(split)} for split in stored.info.splits}
    assert patients["test"] == {b"A", b"C"} and b"B" in patients["train"] and b"A" not in patients["train"]
    (left,) = report(builder)["left_out"]
    assert left["series_uid"] == "1.3.1" and "another scan of patient A is in test" in left["reason"]
    assert report(builder)["empty_splits"] == ["validation"]
    assert report(builder)["subsets"] == [0, 1, 2, 3, 4, 5, 6, 7, 9]


def test_excluded_findings_are_no_non_nodules():
    candidates = np.array([[0.0, 0, 0], [9.9, 0, 0], [10.1, 0, 0], [50, 0, 0], [70, 0, 0]])
    findings = [Nodule((0, 0, 0), 10.0), Nodule((72, 0, 0), 0.0)]
    chosen = choose(candidates, findings, 9, "uid", 0)
    assert sorted(chosen[:, 0]) == [10.1, 50]
    assert (choose(candidates[::-1], findings, 1, "uid", 0) == chosen[:1]).all()
    assert len(choose(candidates[:1], findings, 3, "uid", 0)) == 0 == len(choose(candidates[:0], findings, 3, "u", 0))
    drawn = {tuple(choose(candidates, findings, 1, f"{number}", 0)[0]) for number in range(20)}
    assert len(drawn) == 2


def test_damage_is_listed_and_too_much_of_it_fails(luna, tmp_path, report):
    raw = luna.folder / "subset2" / "1.3.2.raw"
    raw.write_bytes(raw.read_bytes()[:-100])
    (luna.folder / "subset4" / "1.3.4.raw").unlink()
    luna.annotations += [["1.3.7", "nan", 0, 0, 5], ["1.3.7", 500, 0, 0, 5], ["1.3.7", 0, 0, 0, 0]]
    luna.candidates += [["1.3.7", 0, 0, 0, 2], ["1.3.77", 0, 0, 0, 0]]
    with pytest.raises(TooMuchDamage, match="1 of 72 inputs"):
        prepare(luna.write(), tmp_path / "data")
    with pytest.raises(TooMuchDamage, match="6 of 24 inputs"):
        prepare(luna.folder, tmp_path / "data", max_damaged=0.2)
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    builder = prepare(luna.folder, tmp_path / "data", max_damaged=0.3)
    assert len(report(builder)["damaged"]) == 6 and len(report(builder)["left_out"]) == 1
    listed = [f"{item['path']} {item['reason']}" for key in ("damaged", "left_out") for item in report(builder)[key]]
    for part in ("1.3.2.mhd: 95900 bytes", "1.3.4.raw cannot be opened", "annotations.csv, line 12", "line 14",
                 "candidates_V2.csv, line 72", "1.3.77 named in the tables, in no subset",
                 "the nodule at (500, 0, 0) mm lies outside"):  # fmt: skip
        assert any(part in line for line in listed), (part, listed)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: shutil.rmtree(f / "subset2"), FileNotFoundError, "subset2.zip not found in"),
        (lambda f: (f / "annotations.csv").unlink(), FileNotFoundError, "annotations.csv not found in"),
        (lambda f: (f / "candidates_V2.csv").write_text("a,b\n1,2\n"), ValueError, "no column seriesuid, coordX"),
        (lambda f: (f / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n"), ValueError,
         "a header but no rows"),
        (lambda f: shutil.copy(f / "subset1" / "1.3.1.mhd", f / "subset2"), ValueError, "scan 1.3.1 is at .*subset1"),
        (lambda f: (f / "PatientId_SeriesUID.csv").write_text("a,b,c\n"), ValueError, "line 1: two columns"),
    ],
)  # fmt: skip
def test_structural_errors(luna, tmp_path, change, error, message):
    change(luna.write())
    with pytest.raises(error, match=message):
        prepare(luna.folder, tmp_path / "data")


def test_a_lung_mask_in_the_place_of_a_scan_is_damage(luna, tmp_path, report):
    mask = SimpleITK.GetImageFromArray(np.random.default_rng(0).choice([0, 3, 4, 5], SHAPE).astype(np.uint8))
    SimpleITK.WriteImage(mask, str(luna.folder / "subset2" / "1.3.2.mhd"))
    (damaged,) = report(prepare(luna.write(), tmp_path / "data", max_damaged=0.5))["damaged"]
    assert damaged["path"].endswith("1.3.2.mhd")
    assert damaged["reason"].startswith("no Hounsfield units: only the values 0, 3, 4, 5, as of a segmentation")


def test_zipped_candidates(luna, tmp_path, report):
    folder = luna.write()
    with zipfile.ZipFile(folder / "candidates_V2.zip", "w") as archive:
        archive.write(folder / "candidates_V2.csv", "candidates_V2/candidates_V2.csv")
    (folder / "candidates_V2.csv").unlink()
    assert report(prepare(folder, tmp_path / "data"))["rows"]["candidates_V2.csv"] == 70


def test_a_part_without_any_subset(tmp_path):
    with pytest.raises(FileNotFoundError, match="subset0.zip, .*subset9.zip, annotations.csv, .*_part take"):
        prepare(tmp_path, tmp_path / "data", "32_part")


def test_beam_gives_the_same(luna, tmp_path, read, report):
    import apache_beam as beam

    folder = luna.write()
    here = prepare(folder, tmp_path / "here")
    there = prepare(folder, tmp_path / "there", beam_runner="DirectRunner",
                    beam_options=beam.options.pipeline_options.PipelineOptions([]))  # fmt: skip
    assert report(here) == report(there)
    for split, rows in read(here).items():
        other = {example["image_id"]: example["volume"] for example in read(there)[split]}
        assert all((other[example["image_id"]] == example["volume"]).all() for example in rows)
