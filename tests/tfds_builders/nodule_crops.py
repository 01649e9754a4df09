"""Small files of nodules that were cut out beforehand, in the form that `lidc_nodules` reads."""

from pathlib import Path

import numpy as np

HEADER = "index,patient_id,nodule,readers,malignancy_ratings"
# Of each patient's nodules: readers and ratings.
RATED = ("4,5|5|4|4", "3,1|2|2", "4,3|3|3|3", "1,2", "3,1|4|5")


class Crops:
    """A patient with one nodule of each kind in RATED, many times; the first reader marks most."""

    def __init__(self, folder: Path, patients: int = 20):
        self.folder = folder
        self.rows = [
            f"{5 * patient + number},P-{patient:03d},{number},{rated}"
            for patient in range(patients)
            for number, rated in enumerate(RATED)
        ]
        random = np.random.default_rng(0)
        self.images = random.integers(0, 255, (5 * patients, 3, 64, 64), np.uint8)
        self.votes = np.zeros_like(self.images)
        self.votes[:, :, 20:40, 20:40] = 1
        self.votes[:, 1:, 25:35, 25:35] = 2

    def write(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        np.savez(self.folder / "nodules_3x64x64.npz", image=self.images, mask_votes=self.votes)
        (self.folder / "labels.csv").write_text("\n".join([HEADER, *self.rows]) + "\n")
        return self.folder
