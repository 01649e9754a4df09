"""CT series: found, ordered by position, and refused with a reason where a volume cannot be trusted."""

import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SERIES, ct_slices, plain, to_bytes, write_all

from tfds_builders.common import geometry
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.locations import OPEN_ZIPS, Files, Location
from tfds_builders.common.series import find_series, read_series
from tfds_builders.common.slices import placed
from tfds_builders.common.spacing import slice_spacing

HU = np.random.default_rng(0).integers(-1000, 2000, (6, 8, 10)).astype(np.int16)


def read(slices, folder):
    return read_series(write_all(slices, folder))


def test_order_is_that_of_positions(tmp_path):
    slices = ct_slices(HU)
    for number, one in enumerate(slices):
        one.InstanceNumber = (number * 5) % 7
    series = read(slices, tmp_path)
    assert series.voxels.dtype == np.int16 and (series.voxels == HU).all()
    assert series.spacing == (2.0, 0.5, 0.5) and series.origin == (-10.0, -20.0, -30.0)
    assert series.positions.tolist() == [-30, -28, -26, -24, -22, -20]
    assert series.sop_uids == tuple(one.SOPInstanceUID for one in slices)
    assert (series.direction == geometry.ALIGNED).all() and series.notes == ()
    assert (series.series_uid, series.patient_id, series.deidentified) == (SERIES, "P1", False)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ((1, 0, 0), (0, 1, 0)),
        ((-1, 0, 0), (0, -1, 0)),
        ((1, 0, 0), (0, -1, 0)),
        ((0, 1, 0), (0, 0, -1)),
        ((0.8, 0.6, 0), (-0.6, 0.8, 0)),
    ],
)
def test_world_of_a_voxel_is_the_same_however_the_patient_lay(tmp_path, rows, columns):
    slices = ct_slices(HU, rows=rows, columns=columns)
    series = read(slices, tmp_path)
    assert (series.voxels == HU).all() and np.allclose(np.linalg.det(series.direction), -1)
    # PS3.3 C.7.6.2.1.1: position of the pixel of column 4 and row 3 of slice 2.
    corner = np.array(slices[2].ImagePositionPatient, float)
    expected = corner + 4 * 0.5 * np.array(rows) + 3 * 0.5 * np.array(columns)
    world = geometry.to_world((2, 3, 4), series.origin, series.spacing, series.direction)
    assert np.allclose(world, expected)
    turned = series.oriented()
    place = geometry.to_voxel(expected, turned.origin, turned.spacing, turned.direction)
    assert np.allclose(place, np.rint(place)) and turned.voxels[tuple(np.rint(place).astype(int))] == HU[2, 3, 4]
    assert all(row[abs(row).argmax()] > 0 for row in turned.direction) and (np.diff(turned.positions) > 0).all()
    index = int(np.rint(place[0]))
    assert turned.sop_uids[index] == slices[2].SOPInstanceUID
    assert np.isclose(turned.positions[index], corner @ turned.direction[0])


def test_rescaling_is_each_slices_own_and_padding_is_lowest(tmp_path):
    slices = ct_slices(HU)
    slices[1].RescaleSlope, slices[1].RescaleIntercept = 2, -500
    stored = np.full((8, 10), -2000, np.int16)
    stored[2:5] = 40
    signed = plain(stored, **{
        tag: slices[2].get(tag) for tag in ("SOPClassUID", "SeriesInstanceUID", "PatientID", "ImagePositionPatient",
                                            "ImageOrientationPatient", "PixelSpacing", "InstanceNumber")
    }, RescaleSlope=1, RescaleIntercept=-24)  # fmt: skip
    signed.add_new("PixelPaddingValue", "US", 63536)
    slices[2] = signed
    series = read(slices, tmp_path)
    assert (series.voxels[0] == HU[0]).all()
    assert (series.voxels[1] == np.maximum((HU[1].astype(int) + 1024) * 2 - 500, -1024)).all()
    assert (series.voxels[2, 2:5] == 16).all() and (series.voxels[2, :2] == -1024).all()


def test_duplicates(tmp_path):
    slices = ct_slices(HU)
    same, other = ct_slices(HU)[2], ct_slices(HU + 1)[4]
    same.InstanceNumber, other.InstanceNumber = 100, 1
    series = read([*slices, same, other], tmp_path)
    assert (series.voxels[:4] == HU[:4]).all() and (series.voxels[4] == HU[4] + 1).all()
    assert series.sop_uids[2] == slices[2].SOPInstanceUID and series.sop_uids[4] == other.SOPInstanceUID
    assert [note.split(" slices")[0] for note in series.notes] == ["1 identical", "1"]
    assert "-26 mm" in series.notes[0] and "differ" in series.notes[1] and "-22 mm" in series.notes[1]


def acquisition(hounsfield, number, first=1, **more):
    """Slices whose InstanceNumbers begin at `first`."""
    slices = ct_slices(hounsfield, AcquisitionNumber=number, **more)
    for place, one in enumerate(slices):
        one.InstanceNumber = first + place
    return slices


@pytest.mark.parametrize("first", [1, 4, 100])
def test_of_two_acquisitions_at_the_same_positions_the_lower_one_stays(tmp_path, first):
    series = read([*acquisition(-HU, 2), *acquisition(HU, 1, first)], tmp_path)
    assert (series.voxels == HU).all() and "6 slices that differ" in series.notes[0]


def test_acquisitions_one_after_another_are_one_volume(tmp_path):
    steps = [*acquisition(HU[:3], 2), *acquisition(HU[3:], 1, origin=(-10, -20, -24))]
    assert (read(steps, tmp_path).voxels == HU).all()


@pytest.mark.parametrize(
    ("mixed", "message"),
    [
        ([*acquisition(HU, None), *acquisition(-HU, None)], "two acquisitions .*at -30 mm.* one InstanceNumber"),
        ([*acquisition(HU, 1), *acquisition(-HU, 2, 50, origin=(-10, -20, -29))], "2 acquisitions.* changes 11 times"),
        (
            [*ct_slices(HU, FrameOfReferenceUID="1.8"), *ct_slices(-HU, FrameOfReferenceUID="1.9")],
            "mixed: FrameOfReferenceUID .* differ",
        ),
    ],
)
def test_acquisitions_that_are_woven_into_each_other_are_refused(tmp_path, mixed, message):
    with pytest.raises(DamagedInput, match=message):
        read(mixed, tmp_path)


def test_one_slice_takes_its_thickness(tmp_path):
    series = read(ct_slices(HU)[:1], tmp_path)
    assert series.spacing[0] == 9.0 and "one slice" in series.notes[0]


def written(hounsfield, step, digits):
    """Slices `step` mm apart whose positions are rounded to so many digits."""
    slices = ct_slices(hounsfield, spacing=(step, 0.5, 0.5), origin=(-10, -20, 0))
    for number, one in enumerate(slices):
        one.ImagePositionPatient = [-10, -20, round(number * step, digits)]
    return slices


@pytest.mark.parametrize(
    ("step", "digits"), [(1.25, 1), (0.625, 1), (0.75, 1), (1.5, 0), (2.5, 0), (1.25, 0), (3.27, 1), (2.0, 1)]
)
@pytest.mark.parametrize("first", [0, -1001.37])
def test_spacing_is_that_of_the_grid_that_was_rounded(step, digits, first):
    true = first + step * np.arange(80)
    distance, above, notes = slice_spacing(at(np.round(true, digits)))
    assert distance == pytest.approx(step, abs=0.002)
    grid = np.round(first, digits) + above + distance * np.arange(80)
    assert abs(grid - true).max() < 0.1 * step and len(notes) == (step != 2.0)


@pytest.mark.parametrize(("step", "digits"), [(1.25, 1), (0.625, 1), (0.75, 1), (1.0, 0), (2.0, 0), (2.5, 1)])
def test_a_slice_is_missed_though_positions_are_rounded(step, digits):
    places = np.round(step * np.arange(80), digits)
    with pytest.raises(DamagedInput, match="^3 slices are missing"):
        slice_spacing(at(np.delete(places, [20, 50, 51])))


@pytest.mark.parametrize(("step", "digits"), [(1.25, 0), (1.5, 0), (2.5, 0)])
def test_of_coarse_positions_no_slice_is_called_missing(step, digits):
    places = np.round(step * np.arange(80), digits)
    with pytest.raises(DamagedInput, match="not evenly spaced"):
        slice_spacing(at(np.delete(places, 30)))


@pytest.mark.parametrize("drift", [0.002, 0.005])
def test_a_spacing_that_grows_is_uneven(drift):
    """No distance is odd, but in the middle the slices are more than a tenth of a slice off the best grid."""
    steps = np.arange(80)
    with pytest.raises(DamagedInput, match="off an even grid of"):
        slice_spacing(at(np.round(steps + drift * steps**2 / 10, 4)))


def at(places):
    """Slices of axial orientation at these heights, without pixels."""
    slices = ct_slices(np.zeros((len(places), 1, 1), np.int16))
    for one, place in zip(slices, places, strict=True):
        one.ImagePositionPatient = ["-10.5", "-20", f"{place:.10g}"]
    return [placed(Location(Path(str(number))), one) for number, one in enumerate(slices)]


def test_rounded_positions_through_files(tmp_path):
    volume = np.random.default_rng(1).integers(-1000, 1000, (40, 2, 3)).astype(np.int16)
    series = read(written(volume, 1.25, 1), tmp_path)
    assert series.spacing[0] == pytest.approx(1.25, abs=0.002) and "positions are rounded" in series.notes[0]
    last = geometry.to_world((39, 0, 0), series.origin, series.spacing, series.direction)
    assert last == pytest.approx((-10, -20, 39 * 1.25), abs=0.05) and series.positions[1] == 1.2


@pytest.mark.parametrize("first", [1, 41, 101])
@pytest.mark.parametrize(("one", "other"), [(None, 2), (2, None), (1, 2), (2, 1)])
def test_the_second_phase_of_a_part_replaces_nothing(tmp_path, first, one, other):
    """Whatever the AcquisitionNumbers say: the phase of most positions is kept whole."""
    volume = np.random.default_rng(1).integers(-500, 0, (20, 2, 3)).astype(np.int16)
    series = read([*acquisition(volume, one), *acquisition(volume[:12] + 800, other, first)], tmp_path)
    assert (series.voxels == volume).all() and "12 slices that differ" in series.notes[0]


def numbered(hounsfield, first, **more):
    return acquisition(hounsfield, None, first, **more)


def test_phases_without_acquisition_numbers_are_parted_by_instance_numbers_or_refused(tmp_path):
    volume = np.random.default_rng(1).integers(-500, 0, (20, 2, 3)).astype(np.int16)
    series = read([*numbered(volume, 1), *numbered(volume[:12] + 800, 21)], tmp_path / "after")
    assert (series.voxels == volume).all()
    with pytest.raises(DamagedInput, match="two acquisitions are mixed: at 12 of 20 positions several slices differ"):
        read([*numbered(volume, 13), *numbered(volume[:12] + 800, 1)], tmp_path / "before")


def test_two_acquisitions_that_overlap_are_not_joined(tmp_path):
    volume = np.random.default_rng(1).integers(-500, 0, (20, 2, 3)).astype(np.int16)
    lower = acquisition(volume[:14], 1)
    upper = acquisition(volume[8:] + 800, 2, origin=(-10, -20, -14))
    with pytest.raises(DamagedInput, match="two acquisitions are mixed: at 6 of 20"):
        read([*lower, *upper], tmp_path / "six")
    assert "1 slices that differ" in read([*lower, *upper[5:]], tmp_path / "one").notes[0]


def test_different_slices_at_one_position(tmp_path):
    slices = ct_slices(HU)
    for one in slices:
        one.ImagePositionPatient = [-10, -20, -30]
    with pytest.raises(DamagedInput, match="^6 different slices lie at one position, -30 mm: the positions .* wrong"):
        read(slices, tmp_path)


@pytest.mark.parametrize("signed", [False, True])
def test_padding_in_more_bits_than_are_stored_is_padding(tmp_path, signed):
    """-3024 in 16 bits is 1072 in the lower 12, which would be 48 HU; pixels that are 1072 stay 48 HU."""
    slices = ct_slices(HU[:1])
    stored = np.full((8, 10), 1072, np.int16)
    stored[:3] = -3024
    slices[0].PixelData = stored.tobytes()
    slices[0].BitsStored, slices[0].HighBit, slices[0].PixelRepresentation = 12, 11, int(signed)
    slices[0].add_new("PixelPaddingValue", "SS" if signed else "US", -3024 if signed else 65536 - 3024)
    voxels = read(slices, tmp_path).voxels[0]
    assert (voxels[:3] == -1024).all() and (voxels[3:] == 48).all()


def without(number):
    return lambda slices: slices.pop(number)


def setting(number, **elements):
    def change(slices):
        for name, value in elements.items():
            if value is None:
                delattr(slices[number], name)
            else:
                setattr(slices[number], name, value)

    return change


def tilt(slices):
    for number, one in enumerate(slices):
        one.ImagePositionPatient[1] = one.ImagePositionPatient[1] + 0.7 * number


def smaller(slices):
    slices[2] = ct_slices(HU[:, :6])[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(2), "1 slices are missing: 2 mm apart but for the gaps between -28 and -24 mm"),
        (lambda slices: (slices.pop(2), slices.pop(2)), "2 slices are missing"),
        (setting(5, ImagePositionPatient=[-10, -20, -19]), "not evenly spaced: 2 mm apart but between -22 and -19 mm"),
        (setting(1, SeriesInstanceUID="1.2.3"), "mixed: SeriesInstanceUID .* differ .*1.2.3"),
        (setting(1, PatientID="Doe"), "mixed: PatientID of .* differ$"),
        (setting(1, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "mixed: ImageOrientationPatient"),
        (setting(1, PixelSpacing=[0.5, 0.6]), "mixed: PixelSpacing"),
        (smaller, "mixed: Rows"),
        (tilt, r"shifted within their plane by up to 3.50 mm \(19.29 degrees"),
        (setting(3, ImagePositionPatient=None), "no ImagePositionPatient of 3 numbers"),
        (setting(3, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "no pair of perpendicular unit vectors"),
        (setting(3, PixelSpacing=[0, 0.5]), "must be positive"),
        (setting(3, RescaleSlope=None), "Hounsfield units are unknown"),
        (setting(3, RescaleType="US"), "rescaled to US"),
        (setting(3, NumberOfFrames=4), "multi-frame file of 4 frames"),
        (setting(3, PixelData=b"\0" * 10), "cannot be read as DICOM"),
        (setting(3, PixelData=None), "no whole PixelData"),
    ],
)
def test_refused_series(tmp_path, change, message):
    slices = ct_slices(HU)
    change(slices)
    with pytest.raises(DamagedInput, match=message):
        read(slices, tmp_path)


def test_a_patients_id_is_not_in_the_message(tmp_path):
    slices = ct_slices(HU)
    slices[1].PatientID = "Doe"
    with pytest.raises(DamagedInput) as caught:
        read(slices, tmp_path)
    assert "Doe" not in str(caught.value) and "P1" not in str(caught.value)


def test_small_shift_is_noted(tmp_path):
    slices = ct_slices(HU)
    slices[3].ImagePositionPatient = [-10.2, -20, -24]
    assert "up to 0.20 mm" in read(slices, tmp_path).notes[0]


def test_empty_and_unreadable(tmp_path):
    with pytest.raises(DamagedInput, match="no files"):
        read_series([])
    with pytest.raises(DamagedInput, match="absent"):
        read_series([tmp_path / "absent"])
    paths = write_all(ct_slices(HU), tmp_path)
    paths[3].write_bytes(paths[3].read_bytes()[:-30])
    with pytest.raises(DamagedInput, match=paths[3].name):
        read_series(paths)


@pytest.fixture
def tree(tmp_path):
    """Two series of two patients among other files; a third in a zip file."""
    folder = tmp_path / "tree"
    write_all(ct_slices(HU, series="1.1", patient="A", PatientIdentityRemoved="YES"), folder / "a" / "b")
    write_all(ct_slices(HU, series="1.2", patient="B"), folder / "a" / "c")
    (folder / "a" / "LICENSE.txt").write_text("x")
    (folder / "empty").write_bytes(b"")
    scout, radiograph, report = ct_slices(HU, series="1.1")[:3]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    radiograph.Modality, report.SOPClassUID = "CR", "1.2.840.10008.5.1.4.1.1.7"
    for name, dataset in (("scout", scout), ("cr", radiograph), ("dose", report)):
        (folder / name).write_bytes(to_bytes(dataset))
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, one in enumerate(ct_slices(HU, series="1.3", patient="C")):
            archive.writestr(f"x/{(number * 5) % 6}.dcm", to_bytes(one))
        archive.writestr("__MACOSX/x/._0.dcm", b"x")
    return folder


def test_finding(tree):
    found = find_series(tree)
    assert {uid: len(places) for uid, places in found.items()} == {"1.1": 6, "1.2": 6, "1.3": 6}
    assert found.patients == {"1.1": "A", "1.2": "B", "1.3": "C"} and found.deidentified == {"1.1"}
    assert found.skipped == Counter({"no DICOM mark": 3, "localizer": 1, "modality CR": 1, "CT, but no image": 1})
    assert found.damaged == []
    assert all((read_series(places).voxels == HU).all() for places in found.values())
    assert found["1.3"][0] == Location(tree / "more.zip", "x/0.dcm")
    assert find_series(tree / "more.zip")["1.3"] == found["1.3"]


FIND_WITH_FEW_FILES = """
import resource, sys
from tfds_builders.common.series import find_series
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
found = find_series(sys.argv[1])
assert sum(map(len, found.values())) == 80, found.damaged
"""


def test_more_zip_files_than_a_process_may_open(tmp_path):
    data = to_bytes(ct_slices(HU)[0])
    for number in range(80):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("1.dcm", data)
    result = subprocess.run([sys.executable, "-c", FIND_WITH_FEW_FILES, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_file_of_a_zip_file_that_was_closed_can_still_be_read(tmp_path):
    for number in range(OPEN_ZIPS + 1):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("x", b"x" * 10000)
    with Files() as files:
        first, *others = (files.open(Location(tmp_path / f"{number}.zip", "x")) for number in range(OPEN_ZIPS + 1))
        assert all(file.read() == b"x" * 10000 for file in (first, *others))


def test_what_is_passed_over_is_counted_with_its_reason(tmp_path):
    assert find_series(write_all(ct_slices(HU), tmp_path / "ct")[0].parent).describe_skipped() == ""
    for name in ("IM1", "IM2", "scans.tar.gz", "ct.NII.gz", "more.7z"):
        (tmp_path / name).write_bytes(b"something else" * 20)
    said = find_series(tmp_path).describe_skipped()
    assert said.startswith("5 files were passed over: ") and "Unpack archives" in said and "to MetaImage" in said
    for part in (
        "no DICOM mark (2)",
        "packed (2)",
        "another format of volumes (1)",
        "letters DICM after its first 128",
    ):
        assert part in said


def test_damaged_files_are_listed_when_finding(tree):
    (tree / "a" / "broken.dcm").write_bytes(b"")
    whole = to_bytes(ct_slices(HU)[0])
    (tree / "a" / "cut").write_bytes(whole[:200])
    (tree / "a" / "noise").write_bytes(whole[:132] + b"\xff" * 900)
    (tree / "a" / "nameless").write_bytes(to_bytes(ct_slices(HU, series="")[0]))
    found = find_series(tree)
    listed = {item.path.rsplit("/")[-1]: item.reason for item in found.damaged}
    assert set(listed) >= {"broken.dcm", "nameless"} and set(listed) <= {"broken.dcm", "nameless", "cut", "noise"}
    assert "no DICM mark" in listed["broken.dcm"] and "no SeriesInstanceUID" in listed["nameless"]
    assert len(found) == 3


def test_damaged_member_of_a_zip_file_is_listed(tree):
    path = tree / "more.zip"
    data = bytearray(path.read_bytes())
    place = data.index(b"x/3.dcm") + len(b"x/3.dcm")
    data[place : place + 60] = b"\xff" * 60
    path.write_bytes(data)
    found = find_series(path)
    assert [item.path for item in found.damaged] == [f"{path}: x/3.dcm"]
    with pytest.raises(DamagedInput, match="slices are missing"):
        read_series(found["1.3"])


def test_structural_errors_when_finding(tree):
    with pytest.raises(FileNotFoundError, match="absent"):
        find_series(tree / "absent")
    data = (tree / "more.zip").read_bytes()
    (tree / "more.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a whole zip file"):
        find_series(tree)
    with zipfile.ZipFile(tree / "more.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("../x.dcm"), b"x")
    with pytest.raises(ValueError, match="points out of the archive"):
        find_series(tree)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_random_damage_gives_a_volume_or_a_reason(tmp_path):
    random = np.random.default_rng(0)
    paths = write_all(ct_slices(HU[:3]), tmp_path)
    whole, reasons = paths[1].read_bytes(), []
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 6):
            data[place] = random.integers(256)
        paths[1].write_bytes(data)
        find_series(tmp_path)
        try:
            assert read_series(paths).voxels.ndim == 3
        except DamagedInput as damage:
            reasons.append(str(damage))
    assert 0 < len(reasons) < 150 and all(reasons)


@pytest.mark.slow
def test_real_series(real_data):
    """60 slices, 3 mm apart, whose file names are not in their order; HU of air, lung, tissue and bone are there."""
    found = find_series(real_data / "ct_series")
    (places,) = found.values()
    series = read_series(places)
    assert series.voxels.shape == (60, 512, 512) and series.spacing == (3.0, 0.564453125, 0.564453125)
    assert series.positions.tolist() == list(range(-222, -42, 3)) and series.notes == ()
    assert series.patient_id == "C3N-00247" and series.deidentified
    names = [int(place.name.stem) for place in places]
    assert names == sorted(names)
    with zipfile.ZipFile(places[0].path) as archive:
        import io

        import pydicom

        for place in places[::7]:
            dataset = pydicom.dcmread(io.BytesIO(archive.read(place.member)))
            index = series.sop_uids.index(dataset.SOPInstanceUID)
            assert series.positions[index] == dataset.ImagePositionPatient[2]
            assert (series.voxels[index] == dataset.pixel_array.astype(int) - 1024).all()
    counts = np.histogram(series.voxels, [-1024, -950, -700, -200, 200, 4000])[0] / series.voxels.size
    assert (counts > 0.01).all()


def test_real_slice_with_padding(real_data):
    """LIDC-IDRI's first scan stores -1024, which is -2048 HU, around the field of view; its padding value is 63536."""
    series = read_series([real_data / "lidc_idri" / "dicom" / "LIDC-IDRI-0001" / "000001.dcm"])
    assert series.voxels.shape == (1, 512, 512) and series.voxels.min() == -1024
    assert (series.voxels[0, :5, :5] == -1024).all() and abs(np.median(series.voxels[0, 200:300, 240:260])) < 200
    assert abs(np.median(series.voxels[0, 0, 240:270]) + 1000) < 50
