"""LUNA16 in the official format on small drawn scans, to be damaged and written by a test."""

import csv
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK

SPACING = np.array([2.0, 1.5, 1.5])
SHAPE = (30, 40, 40)
ORIGIN = np.array([-30.0, -20.0, 100.0])


def ball(centre, diameter: float, direction) -> SimpleITK.Image:
    """A scan of lung with one nodule at `centre`, in the world, mm (x, y, z), and a bright mark to its left."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)[..., ::-1] * SPACING[::-1]
    world = ORIGIN + grid * np.array(direction)
    voxels = np.random.default_rng(0).integers(-870, -830, SHAPE)
    voxels[np.linalg.norm(world - centre, axis=-1) <= diameter / 2] = 50
    voxels[np.linalg.norm(world - centre - (12, 0, 0), axis=-1) <= 3] = 700
    image = SimpleITK.GetImageFromArray(voxels.astype(np.int16))
    image.SetSpacing(SPACING[::-1].tolist())
    image.SetOrigin(ORIGIN.tolist())
    image.SetDirection(np.diag(np.array(direction, float)).ravel().tolist())
    return image


@dataclass
class Luna:
    """Subsets and tables; `write` puts the tables on disk."""

    folder: Path
    annotations: list[list] = field(default_factory=list)
    candidates: list[list] = field(default_factory=list)

    def add(self, fold: int, uid: str, direction=(1, 1, 1), diameter: float = 9.0) -> np.ndarray:
        """A scan with a nodule, a positive candidate at it and six others; returns the nodule's centre."""
        centre = ORIGIN + np.array([30.0, 28.0, 30.0]) * direction
        subset = self.folder / f"subset{fold}"
        subset.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(ball(centre, diameter, direction), str(subset / f"{uid}.mhd"))
        self.annotations.append([uid, *centre, diameter])
        self.candidates.append([uid, *(centre + 0.5), 1])
        for number in range(6):
            self.candidates.append([uid, *(centre + np.array([4 * number, 0, 0]) * direction), 0])
        return centre

    def zip(self, fold: int) -> None:
        subset = self.folder / f"subset{fold}"
        with zipfile.ZipFile(f"{subset}.zip", "w") as archive:
            for path in subset.iterdir():
                archive.write(path, f"subset{fold}/{path.name}")
        shutil.rmtree(subset)

    def write(self) -> Path:
        place = ["seriesuid", "coordX", "coordY", "coordZ"]
        for name, header, rows in (("annotations", "diameter_mm", self.annotations),
                                   ("candidates_V2", "class", self.candidates)):  # fmt: skip
            with open(self.folder / f"{name}.csv", "w", newline="") as file:
                csv.writer(file).writerows([[*place, header], *rows])
        return self.folder


def ten_folds(folder: Path) -> Luna:
    """One scan per fold; that of fold 3 is flipped, and fold 5 is a zip file."""
    luna = Luna(folder)
    for fold in range(10):
        luna.add(fold, f"1.3.{fold}", (-1, -1, 1) if fold == 3 else (1, 1, 1))
    luna.zip(5)
    return luna
