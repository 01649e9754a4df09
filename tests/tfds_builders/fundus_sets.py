"""Small sets in the formats of APTOS 2019 and DRIVE, to be damaged and written by a test."""

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from own_table import picture
from PIL import Image

COMPETITION = "aptos2019-blindness-detection"


def write_members(path: Path, members: dict[str, bytes]) -> None:
    """A zip file if the path's suffix says so, else a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


@dataclass
class Aptos:
    """Hundred labelled images whose grades go round, and ten of the test set."""

    folder: Path
    train: dict[str, bytes] = field(default_factory=dict)
    test: dict[str, bytes] = field(default_factory=dict)
    grades: dict[str, str] = field(default_factory=dict)
    tests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(100):
            self.train[f"{labelled_id(number)}.png"] = picture(number)
            self.grades[labelled_id(number)] = str(number % 5)
        for number in range(10):
            self.test[f"{unlabelled_id(number)}.png"] = picture(500 + number)
            self.tests.append(unlabelled_id(number))

    def texts(self) -> dict[str, bytes]:
        rows = ["id_code,diagnosis", *(f"{name},{grade}" for name, grade in self.grades.items())]
        return {
            "train.csv": "\n".join(rows).encode(),
            "test.csv": "\n".join(["id_code", *self.tests]).encode(),
            "sample_submission.csv": "\n".join(["id_code,diagnosis", *(f"{name},0" for name in self.tests)]).encode(),
        }

    def write(self, how: str = "folders") -> Path:
        """`how`: folders, zips (tables zipped, as Kaggle gives single files), whole (one zip) or unpacked (of it)."""
        self.folder.mkdir(exist_ok=True)
        parts = {"train_images": self.train, "test_images": self.test}
        if how == "zips":
            for stem, members in parts.items():
                write_members(self.folder / f"{stem}.zip", members)
            for name, data in self.texts().items():
                write_members(self.folder / f"{name}.zip", {name: data})
            return self.folder
        members = {f"{stem}/{name}": data for stem, images in parts.items() for name, data in images.items()}
        places = {"folders": "", "whole": f"{COMPETITION}.zip", "unpacked": COMPETITION}
        write_members(self.folder / places[how], members | self.texts())
        return self.folder


def labelled_id(number: int) -> str:
    return f"{number:012x}"


def unlabelled_id(number: int) -> str:
    return f"f{number:011x}"


HEIGHT, WIDTH = 58, 56


def vessels(number: int) -> np.ndarray:
    """True on two lines, whose places the number says."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, number : number + 4] = mask[40:44] = True
    return mask


def gif_of(mask: np.ndarray) -> bytes:
    """Black and white by palette, as the official masks."""
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, "GIF")
    return buffer.getvalue()


def photograph(number: int) -> np.ndarray:
    """Of the photograph's number, RGB."""
    return cv2.imdecode(np.frombuffer(tif(number), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def tif(number: int) -> bytes:
    return picture(number, ".tif", height=HEIGHT, width=WIDTH)


@dataclass
class Drive:
    """All forty images at a tenth of their sides, with the first manual segmentation, the second and the field of view.

    Attributes:
      members: by their path below the data set's own folder.
    """

    folder: Path
    members: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        everywhere = np.ones((HEIGHT, WIDTH), bool)
        for part, numbers in (("training", range(21, 41)), ("test", range(1, 21))):
            for number in numbers:
                name = f"{number:02d}"
                self.members[f"{part}/images/{name}_{part}.tif"] = tif(number)
                self.members[f"{part}/mask/{name}_{part}_mask.gif"] = gif_of(everywhere)
                self.members[f"{part}/1st_manual/{name}_manual1.gif"] = gif_of(vessels(number))
                if part == "test":
                    self.members[f"{part}/2nd_manual/{name}_manual2.gif"] = gif_of(everywhere)

    def without_test_manuals(self) -> "Drive":
        """As grand-challenge.org gives it."""
        manuals = ("test/1st_manual/", "test/2nd_manual/")
        self.members = {name: data for name, data in self.members.items() if not name.startswith(manuals)}
        return self

    def write(self, how: str = "zips") -> Path:
        """`how`: zips or folders (of the two parts); DRIVE.zip, datasets.zip (a folder in it) or DRIVE (a folder)."""
        self.folder.mkdir(exist_ok=True)
        if how == "zips":
            for part in ("training", "test"):
                chosen = {name: data for name, data in self.members.items() if name.startswith(f"{part}/")}
                write_members(self.folder / f"{part}.zip", chosen)
        else:
            inside = "datasets/DRIVE/" if how == "datasets.zip" else ""
            target = self.folder if how == "folders" else self.folder / how
            write_members(target, {f"{inside}{name}": data for name, data in self.members.items()})
        return self.folder
