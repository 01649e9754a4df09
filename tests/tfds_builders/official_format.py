"""Small tables and archives in the official ISIC 2019 format, to be damaged and written by a test."""

import csv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
IMAGES = "ISIC_2019_Training_Input"
MASKS = "HAM10000_segmentations_lesion_tschandl"


def jpeg(seed: int, height: int = 30, width: int = 40) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(blocks, (width, height)))[1].tobytes()


def png_mask(height: int = 30, width: int = 40) -> bytes:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : 2 * height // 3, width // 4 : 3 * width // 4] = 255
    return cv2.imencode(".png", mask)[1].tobytes()


@dataclass
class Official:
    """Tables and images by name; `write` puts them on disk, as a zip file or as the folder it unpacks to."""

    folder: Path
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    details: dict[str, dict[str, str]] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    masks: dict[str, bytes] = field(default_factory=dict)

    def add(self, image: str, label: str, lesion: str, data: bytes, age: str = "45", sex: str = "male") -> None:
        self.labels[image] = {name: f"{float(name == label)}" for name in (*CLASSES, "UNK")}
        self.details[image] = dict(age_approx=age, anatom_site_general="", lesion_id=lesion, sex=sex)
        self.images[f"{image}.jpg"] = data

    def write(self, zipped: bool = True) -> Path:
        self.write_table("ISIC_2019_Training_GroundTruth.csv", self.labels)
        self.write_table("ISIC_2019_Training_Metadata.csv", self.details)
        for stem, contents in ((IMAGES, self.images), (MASKS, self.masks)):
            if zipped and contents:
                with zipfile.ZipFile(self.folder / f"{stem}.zip", "w") as archive:
                    for name, data in contents.items():
                        archive.writestr(f"{stem}/{name}", data)
            elif contents:
                (self.folder / stem).mkdir()
                for name, data in contents.items():
                    (self.folder / stem / name).write_bytes(data)
        return self.folder

    def write_table(self, name: str, rows: dict[str, dict[str, str]]) -> None:
        with open(self.folder / name, "w", newline="") as file:
            writer = csv.DictWriter(file, ["image", *next(iter(rows.values()))])
            writer.writeheader()
            writer.writerows({"image": image, **row} for image, row in rows.items())
