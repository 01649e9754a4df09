"""Small tables of own images, to be damaged and written by a test."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np


def picture(seed: int, suffix: str = ".png", grey: bool = False, height: int = 24, width: int = 32) -> bytes:
    shape = (3, 4) if grey else (3, 4, 3)
    blocks = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.imencode(suffix, cv2.resize(blocks, (width, height)))[1].tobytes()


@dataclass
class OwnTable:
    """Rows and files of a folder; `write` puts them on disk and returns the folder."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, path: str, data: bytes | None = None, **values: str) -> None:
        self.rows.append({"path": path, **values})
        self.files[path] = picture(len(self.files)) if data is None else data

    def write(self, name: str = "images.csv", delimiter: str = ",", encoding: str = "utf-8") -> Path:
        for path, data in self.files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(data)
        columns = dict.fromkeys(column for row in self.rows for column in row)
        with open(self.folder / name, "w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, list(columns), restval="", delimiter=delimiter)
            writer.writeheader()
            writer.writerows(self.rows)
        return self.folder


def clinic(folder: Path) -> OwnTable:
    """Forty patients of two classes, every second with two photographs, and two images without label and patient."""
    folder.mkdir()
    table = OwnTable(folder)
    for patient in range(40):
        for photograph in range(1 + patient % 2):
            label = "naevus" if patient % 3 else "melanoma"
            table.add(f"photos/p{patient}_{photograph}.png", label=label, group=f"patient {patient}")
    table.add("loose/1.png", label="", group="")
    table.add("loose/2.png", label="", group="")
    return table
