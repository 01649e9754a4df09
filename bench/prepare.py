"""Records per second and peak memory of the builders.

    python -m bench.prepare                                              data sets that need no archives
    python -m bench.prepare isic2019/64=FOLDER kermany_pneumonia/64=FOLDER   others, from their archives in FOLDER

Each data set is prepared in a new process, to measure its peak memory. Time and memory of the imports are measured
separately. `image_table` reads 1,000 and 4,000 random JPEGs of 1024 x 768 pixels, and as many of 80 x 60 as NIH
ChestX-ray14 has images. `ct_patches` reads 2 and 8 random DICOM series of 128 slices of 512 x 512. Memory must not grow
with their number. If a data set cannot be prepared, its error is shown, the others follow, and the exit code is 1.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from bench.measure import processor, table, versions_of

IMAGES, SERIES, TIMES = 1000, 2, 4
NIH_IMAGES = 112_120
SLICES, SIDE = 128, 512
FAILED = "failed"
PACKAGES = ("tensorflow-datasets", "array-record", "opencv-python-headless", "pydicom", "numpy")
EMBEDDED = ("derm_phantom/64", "cxr_phantom/64", "nodule_phantom/32")
CHILD = """
import json, sys, time
import tensorflow_datasets
from tfds_builders import prepare
# From Linux: getrusage gives a new process the peak of the process that started it.
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before, start = peak(), time.perf_counter()
builder = prepare(sys.argv[1], data_dir=sys.argv[2], manual_dir=sys.argv[3] or None)
seconds = time.perf_counter() - start
records = sum(split.num_examples for split in builder.info.splits.values())
print(json.dumps({"records": records, "seconds": seconds, "before": before, "peak": peak()}))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.prepare", description=__doc__.split("\n")[0])
    parser.add_argument(
        "sets", nargs="*", metavar="NAME=FOLDER", help="data set and config, and folder of its archives"
    )
    options = parser.parse_args(arguments)
    rows = [("data set", "records", "seconds", "records/s", "MiB after imports", "MiB at the peak")]
    with tempfile.TemporaryDirectory() as folder:
        for title, name, manual in chosen(options.sets, Path(folder)):
            rows.append((title, *measured(name, manual, Path(folder) / "data" / title.replace("/", "_"))))
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} CPU cores ({processor()}), Python {platform.python_version()}, {versions_of(PACKAGES)}\n")
    print(table(rows))
    if any(row[1] == FAILED for row in rows):
        raise SystemExit(1)


def chosen(given: Sequence[str], folder: Path) -> Iterator[tuple[str, str, str]]:
    """Title, data set and folder of archives for each row."""
    if given:
        for item in given:
            name, _, manual = item.partition("=")
            yield name, name, manual
        return
    for name in EMBEDDED:
        yield name, name, ""
    for times in (1, TIMES):
        drawn = draw_images(folder / f"images {times}", times * IMAGES, (1024, 768))
        yield f"image_table/224, {times * IMAGES:,} JPEGs", "image_table/224", str(drawn)
    drawn = draw_images(folder / "images of NIH", NIH_IMAGES, (80, 60))
    yield f"image_table/64, {NIH_IMAGES:,} small JPEGs", "image_table/64", str(drawn)
    for times in (1, TIMES):
        drawn = draw_series(folder / f"series {times}", times)
        yield f"ct_patches/64, {times * SERIES} series", "ct_patches/64", str(drawn)


def draw_images(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A folder of `count` different JPEGs of `size` (width, height), with its table."""
    folder.mkdir()
    random = np.random.default_rng(count)
    with open(folder / "images.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "group"))
        for number in range(count):
            coarse = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(coarse, size))
            writer.writerow((f"{number}.jpg", "ab"[number % 2], number))
    return folder


def draw_series(folder: Path, times: int) -> Path:
    """A folder with CT series of `times` x SERIES patients, of 0.7 x 0.7 x 2 mm: noise in a body of soft tissue."""
    random = np.random.default_rng(times)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = np.where(x**2 + (y / 0.7) ** 2 < 0.8, 40, -1000)
    for number in range(times * SERIES):
        series = f"1.2.826.0.1.3680043.8.498.{number + 1}"
        place = folder / str(number)
        place.mkdir(parents=True)
        for position in range(SLICES):
            plane = body + random.integers(-30, 30, body.shape)
            slice_file(plane, series, position).save_as(place / f"{position}.dcm", enforce_file_format=True)
    return folder


def slice_file(hounsfield: np.ndarray, series: str, position: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    elements = dict(
        SOPClassUID=CTImageStorage, SOPInstanceUID=f"{series}.{position + 1}", Modality="CT", PatientID=series,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SeriesInstanceUID=series, InstanceNumber=position + 1,
        ImagePositionPatient=[0.0, 0.0, 2.0 * position], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[0.7, 0.7], SliceThickness=2.0, RescaleSlope=1, RescaleIntercept=-1024, Rows=SIDE, Columns=SIDE,
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16, BitsStored=16, HighBit=15,
        PixelRepresentation=0,
    )  # fmt: skip
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = (hounsfield + 1024).astype(np.uint16).tobytes()
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def measured(name: str, manual: str, data_dir: Path) -> tuple[str, ...]:
    command = [sys.executable, "-c", CHILD, name, str(data_dir), manual]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{name}:\n{done.stderr}", file=sys.stderr)
        return FAILED, "", "", "", ""
    found = json.loads(done.stdout.strip().splitlines()[-1])
    speed = found["records"] / found["seconds"]
    return (
        f"{found['records']:,}",
        f"{found['seconds']:.1f}",
        f"{speed:,.0f}",
        f"{found['before']:,.0f}",
        f"{found['peak']:,.0f}",
    )


if __name__ == "__main__":
    main()
