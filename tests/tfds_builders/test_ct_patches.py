"""ct_patches on small series: what is cut, what is left out, splits, damage, and the real series."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tensorflow_datasets as tfds
from dicom_files import ct_slices, to_bytes, write_all
from opening import assert_opens

from aiseeme_jax.data import open_split, without
from tfds_builders.__main__ import main
from tfds_builders.common.damage import TooMuchDamage
from tfds_builders.ct_patches import Builder

pytestmark = pytest.mark.slow

SPACING = (4.0, 2.0, 2.0)
SHAPE = (18, 50, 50)


def body(seed: int = 0, shape=SHAPE) -> np.ndarray:
    """A cylinder of tissue with noise, in air."""
    y, x = np.ogrid[: shape[1], : shape[2]]
    inside = (y - shape[1] / 2) ** 2 + (x - shape[2] / 2) ** 2 < (0.45 * shape[1]) ** 2
    noise = np.random.default_rng(seed).normal(0, 10, shape)
    return (np.where(inside, 40, -1000) + noise).clip(-1020, 3000).astype(np.int16)


def add(folder, number: int, patient: str | None = None, volume=None, spacing=SPACING, **options):
    slices = ct_slices(
        body(number) if volume is None else volume, spacing, series=f"1.2.{number}", patient=patient or f"P{number}",
        PatientIdentityRemoved=options.pop("removed", "YES"), **options,
    )  # fmt: skip
    return write_all(slices, folder / f"s{number}")


def prepare(folder, out, config="32_2mm", max_damaged=0.0, **download):
    builder = Builder(data_dir=out, config=config, max_damaged=max_damaged)
    settings = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False, **download)
    builder.download_and_prepare(download_dir=out / "downloads", download_config=settings)
    return builder


def read(builder):
    stored = tfds.builder_from_directory(builder.data_dir)
    assert_opens(stored)
    return {split: list(stored.as_data_source(split)) for split in stored.info.splits}


@pytest.fixture
def folder(tmp_path):
    """Eight series of seven patients; one series in a zip file."""
    folder = tmp_path / "manual"
    for number in range(1, 8):
        add(folder, number)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for one in ct_slices(body(50), SPACING, series="1.2.50", patient="P3", PatientIdentityRemoved="YES"):
            archive.writestr(str(one.InstanceNumber), to_bytes(one))
    return folder


def test_whole(folder, tmp_path, report):
    builder = prepare(folder, tmp_path / "data")
    splits, said = read(builder), report(builder)
    examples = [example for split in splits.values() for example in split]
    assert len(examples) == 8 * 16 == len({example["image_id"] for example in examples})
    # Nothing of the first pass is left.
    assert all(path.is_file() for path in Path(builder.data_dir).iterdir())
    for example in examples:
        assert example["volume"].shape == (32, 32, 32, 1) and example["volume"].dtype == np.int16
        assert np.mean(example["volume"] > -900) >= 0.45
        assert np.allclose(example["original_spacing"], SPACING)
    # There is nothing to validate or test on.
    assert list(splits) == ["train"] and said["empty_splits"] == ["validation", "test"]
    assert {example["patient_id"] for example in examples} == {f"P{number}".encode() for number in range(1, 8)}
    assert said["series_found"] == 8 and said["patients_found"] == 7 and said["damaged"] == []
    assert sum(one["images"] for one in said["splits"].values()) == 128
    first = next(one for one in said["series"] if one["series_uid"] == "1.2.1")
    assert (first["slices"], first["spacing_mm"], first["patches"]) == (18, list(SPACING), 16)


def test_patches_are_where_they_say_and_the_same_every_time(tmp_path):
    """In a volume whose HU tell the place, the middle of a patch is its centre."""
    z, y, x = (np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True))
    add(tmp_path / "a", 1, volume=np.rint(z[:, None, None] * 4 + y[:, None] + x).astype(np.int16) - 100)
    for config in ("32", "64", "32_2mm"):
        first, again = (read(prepare(tmp_path / "a", tmp_path / f"{config}{run}", config))["train"] for run in "ab")
        assert [one["image_id"] for one in first] == [one["image_id"] for one in again]
        assert all((one["volume"] == two["volume"]).all() for one, two in zip(first, again, strict=True))
        for one in first:
            x, y, z = one["centre"] - (-10, -20, -30)
            assert abs(one["volume"].mean() - (4 * z + y + x - 100)) < 1
    fine = {one["image_id"]: one for one in read(Builder(data_dir=tmp_path / "64a", config="64"))["train"]}
    for one in first:
        blocks = fine[one["image_id"]]["volume"].reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
        assert abs(one["volume"][..., 0] - blocks).max() <= 0.5


def test_a_hospitals_patient_id_is_not_stored(tmp_path):
    add(tmp_path / "a", 1, patient="Doe^Jane 4711", removed=None)
    add(tmp_path / "a", 2, patient="Doe^Jane 4711", removed="NO")
    add(tmp_path / "a", 3, patient=" ", removed=None)
    examples = read(prepare(tmp_path / "a", tmp_path / "data"))
    patients = {(e["series_uid"], e["patient_id"]) for split in examples.values() for e in split}
    of = dict(patients)
    assert len(of) == len(patients) == 3 and of[b"1.2.1"] == of[b"1.2.2"] and of[b"1.2.3"] == b"1.2.3"
    beside = [path.read_text() for path in (tmp_path / "data").rglob("*.json")]
    assert "1.2.1" in repr(examples) and "1.2.1" in "".join(beside)
    for stored in (repr(examples), *beside):  # the records are compressed: they are searched as they are read
        assert "Doe^Jane" not in stored


def test_names_of_folders_and_files_are_not_stored(tmp_path, report, caplog):
    named = tmp_path / "Doe^Jane" / "scans"
    for number in (1, 2, 3, 4):
        add(named / "Doe^Jane", number)
    with zipfile.ZipFile(named / "Doe^Jane.zip", "w") as archive:
        for one in ct_slices(body(5), SPACING, series="1.2.5"):
            archive.writestr(f"Doe^Jane/{one.InstanceNumber}", to_bytes(one))
    data = bytearray((named / "Doe^Jane.zip").read_bytes())
    data[data.index(b"PK\x01\x02") - 1000] ^= 255  # a pixel of the last slice
    (named / "Doe^Jane.zip").write_bytes(data)
    (named / "Doe^Jane" / "s2" / "IM0010").unlink()
    (named / "Doe^Jane" / "s3" / "IM0010").write_bytes((named / "Doe^Jane" / "s3" / "IM0010").read_bytes()[:-1000])
    (named / "Doe^Jane" / "s4" / "Doe.dcm").write_bytes(b"nothing")
    (named / "Doe^Jane" / "scan9.mhd").write_text("nothing")
    with pytest.raises(TooMuchDamage, match="Doe"):
        prepare(named, tmp_path / "data")
    builder = prepare(named, tmp_path / "data", max_damaged=0.9)
    damaged = {item["path"]: item["reason"] for item in report(builder)["damaged"]}
    assert damaged.keys() == {
        "file 1 of those without a readable header", "series 1.2.2", "series 1.2.3", "series 1.2.5", "series scan9"
    }  # fmt: skip
    assert damaged["series 1.2.3"].startswith("file 11 cannot be read")
    assert "(Bad CRC-32 for file)" in damaged["series 1.2.5"] and damaged["series scan9"].startswith(
        "scan9.mhd is no MetaImage"
    )
    stored = [path.read_text() for path in (tmp_path / "data").rglob("*.json")]
    assert any("damaged" in text for text in stored) and not any("Doe" in text for text in stored)
    assert not any(str(tmp_path) in text for text in stored)
    assert str(named / "Doe^Jane" / "s3" / "IM0010") in caplog.text


def test_left_out_series_are_listed(tmp_path, report):
    add(tmp_path / "a", 1)
    add(tmp_path / "a", 2, spacing=(6.0, 2.0, 2.0))
    add(tmp_path / "a", 3, volume=body()[:6])
    add(tmp_path / "a", 4, volume=np.full(SHAPE, -1000, np.int16))
    add(tmp_path / "a", 5, rows=(1, 0, 0), columns=(0, 0, -1))
    builder = prepare(tmp_path / "a", tmp_path / "data")
    said = {one["series_uid"]: one["notes"][-1] for one in report(builder)["series_without_patches"]}
    assert said["1.2.2"].startswith("slices 6 mm apart") and "smaller than 32" in said["1.2.3"]
    assert said["1.2.4"].startswith("only 0 of 16 patches") and said["1.2.5"].startswith("no axial slices")
    assert report(builder)["damaged"] == [] and len(report(builder)["series"]) == 1


def test_the_same_scan_under_two_names_is_listed(tmp_path, report):
    for number in (0, 1):
        add(tmp_path / "a", number, volume=body(7))
    add(tmp_path / "a", 5)
    said = report(prepare(tmp_path / "a", tmp_path / "data"))
    assert said["identical_series"] == [["1.2.0", "1.2.1"]] and said["joined_groups"] == [["P0", "P1"]]
    split = open_split("ct_patches/32_2mm", "train", tmp_path / "data")
    assert len(set(split.groups)) == said["splits"]["train"]["groups"] == 2


def test_the_same_scan_of_patients_by_other_names_is_found_and_kept_out(tmp_path, capsys):
    add(tmp_path / "a", 1)
    add(tmp_path / "a", 2)
    add(tmp_path / "b", 2, patient="Q2", spacing=(4.5, 2.0, 2.0), removed="NO")
    for name in "ab":
        prepare(tmp_path / name, tmp_path / name, "32" if name == "a" else "32_2mm")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b" / "ct_patches")
    names = ["ct_patches/32", "other/32_2mm", "--data_dir", str(tmp_path / "a")]
    assert main(["check", *names, "--exclude", str(tmp_path / "ids.txt")]) == 1
    assert "same series: 256 pairs" in capsys.readouterr().out
    split = open_split("ct_patches/32", "train", tmp_path / "a")
    (tmp_path / "series.txt").write_text("1.2.2\n")
    for file in ("ids.txt", "series.txt"):
        left = without(split, [str(tmp_path / file)])
        assert left.excluded == 16 and set(left.groups) == {"P1"}


def test_training_reads_what_is_stored(tmp_path):
    """As one string of bytes, not as 64-bit numbers, which take thirty times as long to read."""
    add(tmp_path / "a", 1)
    builder = prepare(tmp_path / "a", tmp_path / "data", "32")
    split = open_split("ct_patches/32", "train", tmp_path / "data")
    stored = [example["volume"] for example in read(builder)["train"]]
    assert split.images().dtype == np.int16 and (split.images() == np.stack(stored)).all()
    stored_as = builder.info.features["volume"].get_serialized_info()
    assert stored_as.shape == () and stored_as.np_dtype == np.object_


def test_metaimage_volumes(tmp_path, report):
    image = SimpleITK.GetImageFromArray(body()[:, ::-1])
    image.SetSpacing(SPACING[::-1])
    image.SetDirection((-1.0, 0, 0, 0, -1, 0, 0, 0, 1))
    (tmp_path / "a" / "b").mkdir(parents=True)
    SimpleITK.WriteImage(image, str(tmp_path / "a" / "b" / "scan7.mhd"))
    SimpleITK.WriteImage(image, str(tmp_path / "a" / "scan7.mha"))
    (tmp_path / "a" / "b" / "._scan7.mhd").write_bytes(b"\0\5\x16\7")  # macOS leaves such files
    builder = prepare(tmp_path / "a", tmp_path / "data", max_damaged=0.5)
    (rows,) = read(builder).values()
    assert len(rows) == 16 and {one["patient_id"] for one in rows} == {b"scan7"}
    (damaged,) = report(builder)["damaged"]
    assert "a second series of the name scan7" in damaged["reason"]


def metaimage(path, voxels):
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(SPACING[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def test_segmentations_and_scaled_copies_beside_a_scan_are_left_out(tmp_path, report):
    """Also one that has the scan's name and comes before it, as LUNA16's lung masks do, or a DICOM series' UID."""
    scan, mask = body(3), (body(3) > 0).astype(np.uint8) * 3
    add(tmp_path / "a", 1)
    for name, voxels in {
        "subset0/1.3.1.mhd": scan, "seg-lungs/1.3.1.mhd": mask, "seg-lungs/1.2.1.mha": mask, "lungs.mha": mask,
        "scaled.mha": (scan + 1024) / np.float32(1200), "grey.mha": ((scan + 1024) / 16).clip(0, 255).astype(np.uint8),
    }.items():  # fmt: skip
        metaimage(tmp_path / "a" / name, voxels)
    builder = prepare(tmp_path / "a", tmp_path / "data")
    said = report(builder)
    notes = {one["series_uid"]: one["notes"] for one in said["series"] + said["series_without_patches"]}
    assert {one["series_uid"] for one in said["series"]} == {"1.2.1", "1.3.1"} and said["damaged"] == []
    assert notes["1.3.1"] == ["1.3.1.mhd is left out: no Hounsfield units: only the values 0, 3, as of a segmentation"]
    assert notes["1.2.1"][0].startswith("1.2.1.mha is left out: no Hounsfield units")
    assert notes.keys() - {"1.2.1", "1.3.1"} == {"lungs", "scaled", "grey"}
    assert "no value below -100 (from " in notes["grey"][0] and "only the values 0, 1, as of" in notes["scaled"][0]
    stored = {one["series_uid"]: one for one in read(builder)["train"]}
    assert (stored[b"1.3.1"]["volume"] < -900).any() and stored[b"1.3.1"]["patient_id"] == b"1.3.1"


def test_damage_is_listed_and_too_much_of_it_fails(folder, tmp_path, report):
    (folder / "s1" / "IM0010").unlink()
    (folder / "s2" / "IM0003").write_bytes((folder / "s2" / "IM0003").read_bytes()[:-1000])
    (folder / "s3" / "extra.dcm").write_bytes(b"nothing")
    with pytest.raises(TooMuchDamage, match="1 of 9 inputs are damaged"):
        prepare(folder, tmp_path / "data")
    with pytest.raises(TooMuchDamage, match="3 of 9 inputs are damaged"):
        prepare(folder, tmp_path / "data", max_damaged=0.2)
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    builder = prepare(folder, tmp_path / "data", max_damaged=0.4)
    reasons = " | ".join(item["reason"] for item in report(builder)["damaged"])
    assert "1 slices are missing" in reasons and "file 4 cannot be read" in reasons and "no DICM mark" in reasons
    assert len(report(builder)["series"]) == 6


def test_if_all_series_are_damaged_and_may_be_the_reason_is_told(tmp_path):
    slices = ct_slices(body(1), SPACING, series="1.2.1", patient="P1", PatientIdentityRemoved="YES")
    for one in slices:
        one.ImagePositionPatient = slices[0].ImagePositionPatient
    write_all(slices, tmp_path / "a")
    with pytest.raises(ValueError, match="no patch could be cut .*; damaged: 18 different slices lie at one position"):
        prepare(tmp_path / "a", tmp_path / "data", max_damaged=1.0)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        prepare(tmp_path / "absent", tmp_path / "data")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    with pytest.raises(
        FileNotFoundError, match=r"holds no CT series. 1 files were passed over: no DICOM mark \(1\). A"
    ):
        prepare(tmp_path / "a", tmp_path / "data")
    add(tmp_path / "a", 1, spacing=(9.0, 2.0, 2.0))
    with pytest.raises(ValueError, match=r"no patch could be cut.*: slices 9 mm apart: more than 5 \(1 series\)"):
        prepare(tmp_path / "a", tmp_path / "data")


def test_beam_gives_the_same(folder, tmp_path, report):
    import apache_beam as beam

    (folder / "s1" / "IM0010").unlink()
    here = prepare(folder, tmp_path / "here", max_damaged=0.2)
    there = prepare(folder, tmp_path / "there", max_damaged=0.2, beam_runner="DirectRunner",
                    beam_options=beam.options.pipeline_options.PipelineOptions([]))  # fmt: skip
    assert report(here) == report(there)
    one, two = read(here), read(there)
    for split in one:
        by_id = {example["image_id"]: example for example in two[split]}
        assert len(by_id) == len(one[split])
        assert all((by_id[example["image_id"]]["volume"] == example["volume"]).all() for example in one[split])
    assert sorted(path.name.split("-")[0] for path in here.data_path.iterdir()) == sorted(
        path.name.split("-")[0] for path in there.data_path.iterdir()
    )


def test_real_series(real_data, tmp_path, report):
    builder = prepare(real_data / "ct_series", tmp_path / "data", "64")
    rows, said = read(builder)["train"], report(builder)
    assert len(rows) == 16 and {one["patient_id"] for one in rows} == {b"C3N-00247"}
    (series,) = said["series"]
    assert series["slices"] == 60 and series["spacing_mm"] == [3.0, 0.564453125, 0.564453125]
    assert series["positions_mm"] == [-222.0, -45.0] and series["hu_range"] == [-1024, 3071]
    assert said["dicom_files"] == 60 and said["damaged"] == []
    assert all(np.mean(one["volume"] > -900) > 0.45 for one in rows)
