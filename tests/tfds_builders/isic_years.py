"""Small official archives and tables of ISIC 2016, 2017 and 2018, to be damaged and written by a test."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from official_format import jpeg, png_mask


@dataclass
class Files:
    """Archives by stem, each with its members' bytes, and plain tables by name; `write` puts them into the folder."""

    folder: Path
    archives: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)

    def write(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        for stem, members in self.archives.items():
            with zipfile.ZipFile(self.folder / f"{stem}.zip", "w") as archive:
                for name, data in members.items():
                    archive.writestr(f"{stem}/{name}", data)
        for name, text in self.tables.items():
            (self.folder / name).write_text(text)
        return self.folder


def photographs(first: int, number: int) -> dict[str, bytes]:
    return {f"ISIC_{i:07d}.jpg": jpeg(i) for i in range(first, first + number)}


def masks(images: dict[str, bytes], ending: str = "_segmentation") -> dict[str, bytes]:
    return {f"{name[:-4]}{ending}.png": png_mask() for name in images}


def year_2016(folder: Path) -> Files:
    files = Files(folder)
    for part, first, number, labels in (("Training", 0, 40, ("benign", "malignant")), ("Test", 40, 8, ("0.0", "1"))):
        images = files.archives[f"ISBI2016_ISIC_Part3_{part}_Data"] = photographs(first, number)
        files.archives[f"ISBI2016_ISIC_Part1_{part}_GroundTruth"] = masks(images, "_Segmentation")
        rows = [f"{name[:-4]},{labels[i % 4 == 0]}\n" for i, name in enumerate(images)]
        files.tables[f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv"] = "".join(rows)
    return files


def year_2017(folder: Path) -> Files:
    files = Files(folder)
    for part, first, number in (("Training", 0, 9), ("Validation", 9, 3), ("Test_v2", 12, 6)):
        images = photographs(first, number)
        files.archives[f"ISIC-2017_{part}_Part1_GroundTruth"] = masks(images)
        files.archives[f"ISIC-2017_{part}_Data"] = images | masks(images, "_superpixels") | {"metadata.csv": b"x"}
        rows = [f"{name[:-4]},{float(i % 3 == 0)},{float(i % 3 == 1)}\n" for i, name in enumerate(images)]
        files.tables[f"ISIC-2017_{part}_Part3_GroundTruth.csv"] = "image_id,melanoma,seborrheic_keratosis\n" + "".join(
            rows
        )
    return files


CLASSES_2018 = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def table_2018(labels: dict[str, str]) -> str:
    """The ground truth: image and label, as one-hot columns."""
    rows = [
        f"{image},{','.join(f'{float(name == label)}' for name in CLASSES_2018)}\n" for image, label in labels.items()
    ]
    return f"image,{','.join(CLASSES_2018)}\n" + "".join(rows)


def year_2018(folder: Path) -> Files:
    files = Files(folder)
    for part, first, number in (("Training", 0, 14), ("Validation", 14, 3), ("Test", 17, 4)):
        images = photographs(first, number)
        stem = f"ISIC2018_Task3_{part}"
        labels = {name[:-4]: CLASSES_2018[i % 7] for i, name in enumerate(images)}
        files.archives[f"{stem}_Input"] = images | {"LICENSE.txt": b"x"}
        files.archives[f"{stem}_GroundTruth"] = {f"{stem}_GroundTruth.csv": table_2018(labels).encode()}
    rows = "".join(f"ISIC_{i:07d},HAM_{i // 2:07d},histopathology\n" for i in range(14))
    files.tables["ISIC2018_Task3_Training_LesionGroupings.csv"] = "image,lesion_id,diagnosis_confirm_type\n" + rows
    for part, first, number in (("Training", 100, 5), ("Validation", 105, 2), ("Test", 107, 3)):
        images = files.archives[f"ISIC2018_Task1-2_{part}_Input"] = photographs(first, number)
        files.archives[f"ISIC2018_Task1_{part}_GroundTruth"] = masks(images)
    return files
