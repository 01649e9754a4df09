"""LIDC-IDRI made for tests: XML messages, and CT series with the SOP UIDs and positions that an XML file names.

As a script it makes series of the real annotations, to run the builder on where the CT volumes are not at hand:
`python tests/tfds_builders/lidc_series.py LIDC-XML-only.zip PatientId_SeriesUID.csv FOLDER --series 20`.
"""

import argparse
import csv
import itertools
import os
import shutil
import xml.etree.ElementTree as ET
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from dicom_files import ct_slices, to_bytes
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

NAMES = ("subtlety", "internalStructure", "calcification", "sphericity", "margin", "lobulation", "spiculation",
         "texture", "malignancy")  # fmt: skip
LUNG, NODULE = -850, 50
NAMESPACE = "{http://www.nih.gov}"


# Writing XML


def roi(z: float, uid: str, points: Iterable[tuple[int, int]], inclusion: bool = True) -> str:
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    truth = str(inclusion).upper()
    return (
        f"<roi><imageZposition>{z}</imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"
        f"<inclusion>{truth}</inclusion>{edges}</roi>"
    )


def nodule(name: str, rois: Sequence[str], ratings: Sequence[object] | None = None) -> str:
    """With ratings None there are none, with () an empty <characteristics/>."""
    rows = "".join(f"<{key}>{value}</{key}>" for key, value in zip(NAMES, ratings or (), strict=False))
    characteristics = "" if ratings is None else f"<characteristics>{rows}</characteristics>"
    return f"<unblindedReadNodule><noduleID>{name}</noduleID>{characteristics}{''.join(rois)}</unblindedReadNodule>"


def non_nodule(z: float, uid: str) -> str:
    return (
        f"<nonNodule><nonNoduleID>9</nonNoduleID><imageZposition>{z}</imageZposition>"
        f"<imageSOP_UID>{uid}</imageSOP_UID><locus><xCoord>3</xCoord><yCoord>4</yCoord></locus></nonNodule>"
    )


def message(series: str, sessions: Sequence[str], header: str = "") -> str:
    readings = "".join(f"<readingSession>{contents}</readingSession>" for contents in sessions)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage uid="1" xmlns="http://www.nih.gov">'
        f"<ResponseHeader>{header}<SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>{readings}"
        "</LidcReadMessage>"
    )


RADIOGRAPH = '<IdriReadMessage xmlns="http://www.nih.gov/idri"><ResponseHeader/></IdriReadMessage>'


def square(x: int, y: int, radius: int) -> list[tuple[int, int]]:
    """Outline of the (2 radius - 1)^2 pixels about (x, y), closed as the real ones are: the first point comes last."""
    sides = range(-radius, radius)
    top, right = [(x + i, y - radius) for i in sides], [(x + radius, y + i) for i in sides]
    bottom, left = [(x - i, y + radius) for i in sides], [(x - radius, y - i) for i in sides]
    return [*top, *right, *bottom, *left, top[0]]


def write_zip(path: Path, messages: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in messages.items():
            archive.writestr(f"LIDC-XML-only/tcia-lidc-xml/{name}", text)
    return path


# Making series of XML


def make_series(
    text: str | bytes, patient: str, pixel: float = 0.7, side: int = 512, margin: int = 3, seed: int = 0
) -> list[Dataset]:
    """A CT series for the annotations in an XML message: noise of the lung's density, with what a share s of the
    readers outlined (rated nodules only, their outlines' own pixels excluded) s of the way up to a nodule's.

    Slices have the UIDs and positions of the message; what lies between them, and `margin` slices at both ends, gets
    UIDs of its own. ValueError if the positions fit no even grid, or name two slices at one position.
    """
    root = ET.fromstring(text)
    marks = {mark for mark in marked_slices(root)}
    uids = {z: uid for z, uid in marks}
    if len(uids) < len(marks):
        raise ValueError("two slices at one position")
    known = np.array(sorted(uids))
    places, spacing = grid(known, margin)
    volume = draw(root, places, side, seed)
    series = root.findtext(f"{NAMESPACE}ResponseHeader/{NAMESPACE}SeriesInstanceUid").strip()
    origin = (-pixel * side / 2, -pixel * side / 2, float(places[0]))
    datasets = ct_slices(volume, (spacing, pixel, pixel), origin, series=series, patient=patient)
    for dataset, place in zip(datasets, places, strict=True):
        nearest = known[abs(known - place).argmin()]
        uid = uids[nearest] if abs(nearest - place) < spacing / 10 else generate_uid(None, [series, f"{place:g}"])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    return datasets


def marked_slices(root: ET.Element) -> Iterator[tuple[float, str]]:
    for item in itertools.chain(root.iter(f"{NAMESPACE}roi"), root.iter(f"{NAMESPACE}nonNodule")):
        yield float(item.findtext(f"{NAMESPACE}imageZposition")), item.findtext(f"{NAMESPACE}imageSOP_UID").strip()


def grid(known: np.ndarray, margin: int) -> tuple[np.ndarray, float]:
    """Even positions that meet all the known ones."""
    steps = np.diff(known)
    spacing = float(steps.min()) if len(steps) else 2.5
    counts = np.rint(steps / spacing)
    if len(steps):
        spacing = float(steps.sum() / counts.sum())
    if len(steps) and abs(known - known[0] - spacing * np.r_[0, np.cumsum(counts)]).max() > spacing / 20:
        raise ValueError(f"the positions fit no even grid of {spacing:g} mm")
    return known[0] + spacing * np.arange(-margin, counts.sum() + margin + 1), spacing


def draw(root: ET.Element, places: np.ndarray, side: int, seed: int) -> np.ndarray:
    sessions = root.findall(f"{NAMESPACE}readingSession")
    votes = np.zeros((len(places), side, side), np.uint8)
    for session in sessions:
        one = np.zeros_like(votes)
        for item in session.findall(f"{NAMESPACE}unblindedReadNodule"):
            if len(item.find(f"{NAMESPACE}characteristics") or ()):
                outline(item, one, places)
        votes += one
    volume = np.random.default_rng(seed).normal(LUNG, 20, votes.shape).astype(np.int16)
    inside = votes > 0
    volume[inside] = LUNG + (NODULE - LUNG) * votes[inside].astype(int) / len(sessions)
    return volume


def outline(item: ET.Element, volume: np.ndarray, places: np.ndarray) -> None:
    """Fills a nodule's outlines with 1, holes with 0, by OpenCV, whose polygons include their edges."""
    for rois, value in (("TRUE", 1), ("FALSE", 0)):
        for one in item.findall(f"{NAMESPACE}roi"):
            points = np.array(
                [[int(edge[0].text), int(edge[1].text)] for edge in one.findall(f"{NAMESPACE}edgeMap")], np.int32
            )
            if one.findtext(f"{NAMESPACE}inclusion") != rois or len(points) < 2:
                continue
            plane = abs(places - float(one.findtext(f"{NAMESPACE}imageZposition"))).argmin()
            filled = np.zeros(volume.shape[1:], np.uint8)
            cv2.fillPoly(filled, [points], 1)
            cv2.polylines(filled, [points], True, 0)
            volume[plane][filled > 0] = value


def write_series(datasets: Sequence[Dataset], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(datasets):
        # Names that run against the order of the slices.
        (folder / f"{len(datasets) - number:06d}.dcm").write_bytes(to_bytes(dataset))


def real_messages(archive: Path) -> dict[str, bytes]:
    """The XML of each CT series with at least one rated nodule of several points, one per series."""
    found: dict[str, list[bytes]] = defaultdict(list)
    with zipfile.ZipFile(archive) as file:
        for name in sorted(name for name in file.namelist() if name.endswith(".xml")):
            data = file.read(name)
            if b"<malignancy>" in data and b"<SeriesInstanceUid>" in data:
                uid = data.split(b"<SeriesInstanceUid>")[1].split(b"<")[0].decode().strip()
                found[uid].append(data)
    return {uid: several[0] for uid, several in found.items()}


def write_real(archive: Path, patients: Path, folder: Path, number: int, margin: int = 3, side: int = 512) -> list[str]:
    """The first `number` real series (by UID) that can be made, in the layout of the official download; their UIDs."""
    with open(patients, newline="") as file:
        patient_of = {uid: patient for patient, uid in csv.reader(file)}
    folder.mkdir(parents=True, exist_ok=True)
    for path in (archive, patients):
        shutil.copy(path, folder / path.name)
        os.chmod(folder / path.name, 0o644)
    made = []
    for uid, data in sorted(real_messages(archive).items()):
        try:
            datasets = make_series(data, patient_of[uid], side=side, margin=margin)
        except ValueError as error:
            print(f"{patient_of[uid]}: {error}")
            continue
        write_series(datasets, folder / "LIDC-IDRI" / patient_of[uid] / uid)
        made.append(uid)
        if len(made) == number:
            break
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("archive", "patients", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--margin", type=int, default=10)
    options = parser.parse_args()
    print(len(write_real(options.archive, options.patients, options.folder, options.series, options.margin)), "series")
