"""Small sets in the formats of ChestX-ray14, CheXpert and RSNA Pneumonia, to be damaged and written by a test."""

import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from dicom_files import radiograph, to_bytes
from own_table import picture

Members = dict[str, bytes]
# The official header: its brackets are split over two columns each, and it ends with a comma.
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH_FINDINGS = ("No Finding", "Infiltration", "Cardiomegaly|Emphysema", "Hernia", "Pleural_Thickening|Mass|Nodule")
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
RSNA_CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
RSNA_BOXES = ["264.0,152.0,213.0,379.0,1", "562.0,152.0,256.0,453.0,1"]
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def write_zip(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_tar(path: Path, members: Members) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))


def write_folder(path: Path, members: Members) -> None:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


@dataclass
class Nih:
    """Sixty patients of one to three images each in twelve archives; every fifth patient is of the test list."""

    folder: Path
    header: str = NIH_HEADER
    rows: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=lambda: {"train_val_list.txt": [], "test_list.txt": []})
    boxes: list[str] = field(default_factory=list)
    archives: dict[str, Members] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for patient in range(1, 61):
            for number in range(1 + patient % 3):
                name = f"{patient:08d}_{number:03d}.png"
                finding, view = NIH_FINDINGS[(patient + number) % 5], ("PA", "AP")[patient % 2]
                rest = [str(number), str(patient), str(40 + number), "MF"[patient % 2], view]
                self.rows[name] = [name, finding, *rest, "2682", "2749", "0.143", "0.143", ""]
                self.lists["test_list.txt" if patient % 5 == 0 else "train_val_list.txt"].append(name)
                data = picture(100 * patient + number, grey=True)
                self.archives.setdefault(f"images_{1 + (patient - 1) // 5:03d}", {})[f"images/{name}"] = data
        self.boxes = [
            "00000001_000.png,Infiltrate,256,128.5,512,256,,,",
            "00000001_000.png,Mass,0,0,1024,1024,,,",
            "00000002_000.png,Nodule,900,900,200,100,,,",
        ]

    def write(self, how: str = "tar.gz") -> Path:
        """`how`: tar.gz, zip, kaggle (folders images_001/images/…), or images (one folder)."""
        self.folder.mkdir(exist_ok=True)
        for stem, members in self.archives.items():
            if how == "tar.gz":
                write_tar(self.folder / f"{stem}.tar.gz", members)
            elif how == "zip":
                write_zip(self.folder / f"{stem}.zip", members)
            else:
                write_folder(self.folder / stem if how == "kaggle" else self.folder, members)
        table = "\n".join([self.header, *map(",".join, self.rows.values())]) + "\n"
        (self.folder / "Data_Entry_2017.csv").write_text(table)
        for name, images in self.lists.items():
            (self.folder / name).write_text("\n".join(images) + "\n")
        if self.boxes:
            text = "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *self.boxes]) + "\n"
            (self.folder / "BBox_List_2017.csv").write_text(text)
        return self.folder


@dataclass
class CheXpert:
    """Forty patients in train.csv, four in valid.csv; every third has a lateral view too. Labels by column number."""

    folder: Path
    release: str = "CheXpert-v1.0-small"
    tables: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {"train": {}, "valid": {}})
    images: Members = field(default_factory=dict)

    def __post_init__(self) -> None:
        for patient in range(1, 45):
            part = "train" if patient <= 40 else "valid"
            for number, view in enumerate(("frontal", "lateral")[: 1 + (patient % 3 == 0)], 1):
                labels = ["1.0" if (patient + column) % 4 == 0 else "0.0" for column in range(14)]
                if part == "train":
                    labels[5:10] = ["-1.0", "", "-1.0", "-1.0", "1.0"]
                self.add(part, patient, f"view{number}_{view}.jpg", labels, "AP" if patient % 2 else "PA")

    def add(self, part: str, patient: int, file: str, labels: list[str], view: str = "AP") -> str:
        name = f"{part}/patient{patient:05d}/study1/{file}"
        frontal = "frontal" in file
        details = ["Female" if patient % 2 else "Male", "68", "Frontal" if frontal else "Lateral"]
        self.tables[part][name] = [f"{self.release}/{name}", *details, view if frontal else "", *labels]
        self.images[name] = picture(10 * patient + int(file[4]), ".jpg", grey=True)
        return name

    def texts(self) -> Members:
        return {
            f"{part}.csv": ("\n".join([CHEXPERT_HEADER, *map(",".join, rows.values())]) + "\n").encode()
            for part, rows in self.tables.items()
        }

    def write(self, how: str = "zip") -> Path:
        """`how`: zip, bare (a zip without the release's own folder), folder, or batches (four zip files)."""
        self.folder.mkdir(exist_ok=True)
        members = self.images | self.texts()
        if how == "folder":
            write_folder(self.folder / self.release, members)
        elif how == "bare":
            write_zip(self.folder / f"{self.release}.zip", members)
        elif how == "zip":
            inside = {f"{self.release}/{name}": data for name, data in members.items()}
            write_zip(self.folder / f"{self.release}.zip", inside)
        else:
            self.write_batches()
        return self.folder

    def write_batches(self) -> None:
        first = {name: data for name, data in (self.images | self.texts()).items() if not name.startswith("train/")}
        train = [name for name in self.images if name.startswith("train/")]
        batches = {"1 (validate & csv)": first}
        for number in (1, 2, 3):
            chosen = {name.removeprefix("train/"): self.images[name] for name in train[number - 1 :: 3]}
            batches[f"{number + 1} (train {number})"] = chosen
        for name, members in batches.items():
            stem = f"CheXpert-v1.0 batch {name}"
            write_zip(self.folder / f"{stem}.zip", {f"{stem}/{member}": members[member] for member in members})


def dicom(seed: int, **elements: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32), dtype=np.uint8)
    return to_bytes(radiograph(pixels, 8, PatientName="Doe^Jane", PatientBirthDate="19500101", **elements))


@dataclass
class Rsna:
    """Ninety images of thirty NIH patients, ten unlabelled ones; the mapping names all but the last."""

    folder: Path
    labels: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    train: Members = field(default_factory=dict)
    test: Members = field(default_factory=dict)
    mapping: list[dict[str, str]] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(90):
            name, kind = f"{number:08x}-aaaa", RSNA_CLASSES[number % 3]
            boxes = RSNA_BOXES[: 1 + number % 2] if kind == "Lung Opacity" else []
            self.labels += [f"{name},{row}" for row in boxes or [",,,,0"]]
            self.classes += [f"{name},{kind}" for _ in boxes or [0]]
            self.train[f"{name}.dcm"] = dicom(number, ViewPosition=("PA", "AP")[number % 2])
            self.map(name, number // 3, number)
        for number in range(90, 100):
            self.test[f"{number:08x}-bbbb.dcm"] = dicom(number, ViewPosition="PA")
            self.map(f"{number:08x}-bbbb", number % 30, number)
        self.mapping.pop()

    def map(self, image: str, patient: int, number: int) -> None:
        entry = {"subset_img_id": image, "img_id": f"{patient:08d}_{number:03d}.png", "SOPInstanceUID": f"1.2.{number}"}
        self.mapping.append(entry)

    def texts(self) -> Members:
        tables = {
            "stage_2_train_labels.csv": ["patientId,x,y,width,height,Target", *self.labels],
            "stage_2_detailed_class_info.csv": ["patientId,class", *self.classes],
        }
        return {name: ("\n".join(lines) + "\n").encode() for name, lines in tables.items()}

    def write(self, how: str = "zips") -> Path:
        """`how`: zips (one a folder, tables zipped, as Kaggle gives single files), folders, or whole (one zip)."""
        self.folder.mkdir(exist_ok=True)
        if how == "zips":
            write_zip(self.folder / "stage_2_train_images.zip", self.train)
            write_zip(self.folder / "stage_2_test_images.zip", self.test)
            for name, data in self.texts().items():
                write_zip(self.folder / f"{name}.zip", {name: data})
        else:
            parts = {"stage_2_train_images": self.train, "stage_2_test_images": self.test}
            members = {f"{part}/{name}": data for part, images in parts.items() for name, data in images.items()}
            members |= self.texts() | {"stage_2_sample_submission.csv": b"patientId,PredictionString\n"}
            if how == "folders":
                write_folder(self.folder, members)
            else:
                write_zip(self.folder / "rsna-pneumonia-detection-challenge.zip", members)
        if self.mapping is not None:
            (self.folder / MAPPING).write_text(json.dumps(self.mapping))
        return self.folder
