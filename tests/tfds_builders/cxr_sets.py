"""Small chest X-ray sets in the formats of Kermany, ieee8023 and COVIDx, to be damaged and written by a test."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from official_format import png_mask
from own_table import picture


def grey(seed: int, suffix: str = ".jpg") -> bytes:
    return picture(seed, suffix, grey=True)


@dataclass
class Sets:
    """Archives by stem, each with its members' bytes, and plain files by name; `write` puts them into the folder."""

    folder: Path
    archives: dict[str, dict[str, bytes]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def write(self, zipped: bool = True) -> Path:
        self.folder.mkdir()
        for stem, members in self.archives.items():
            if zipped:
                with zipfile.ZipFile(self.folder / f"{stem}.zip", "w") as archive:
                    for name, data in members.items():
                        archive.writestr(f"{stem}/{name}", data)
            else:
                for name, data in members.items():
                    path = self.folder / stem / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
        for name, text in self.texts.items():
            (self.folder / name).write_text(text)
        return self.folder


def kaggle(folder: Path) -> Sets:
    """A hundred and twenty patients; every third `person` has images of both kinds, in train and test."""
    images = {}
    for n in range(1, 61):
        images[f"train/PNEUMONIA/person{n}_bacteria_{n}.jpeg"] = grey(n)
        if n % 3 == 0:
            images[f"test/PNEUMONIA/person{n}_virus_{n + 100}.jpeg"] = grey(n + 100)
        prefix = "NORMAL2-" if n % 2 else ""
        images[f"{'val' if n == 1 else 'train'}/NORMAL/{prefix}IM-{n:04d}-0001.jpeg"] = grey(n + 400)
    images["train/NORMAL/IM-0002-0001-0002.jpeg"] = grey(900)
    images["train/PNEUMONIA/person4_bacteria_7_1.jpeg"] = picture(901, ".jpg")
    return Sets(folder, {"chest_xray": images})


def mendeley(folder: Path) -> Sets:
    """Sixty patients, every third with a normal and a viral image; train and test share none."""
    images = {}
    for n in range(40):
        place = f"CellData/chest_xray/{'test' if n % 4 == 3 else 'train'}"
        images[f"{place}/NORMAL/NORMAL-{1000 + n}-0001.jpeg"] = grey(n)
        if n % 2:
            images[f"{place}/PNEUMONIA/VIRUS-{1000 + n}-0002.jpeg"] = grey(n + 100)
        else:
            images[f"{place}/PNEUMONIA/BACTERIA-{2000 + n}-0001.jpeg"] = grey(n + 400)
    images["CellData/OCT/train/NORMAL/NORMAL-1000-0007.jpeg"] = grey(900)
    return Sets(folder, {"chest_xray": images})


COLUMNS = "patientid,offset,sex,age,finding,view,modality,date,folder,filename,license,clinical_notes,"


def collection(folder: Path) -> Sets:
    """Sixty patients with two radiographs each, of four findings; masks of those with COVID-19."""
    files = Sets(folder, {"images": {}, "lung_masks": {}})
    findings = ("COVID-19", "Streptococcus", "No Finding", "Pneumonia/Viral/COVID-19")
    rows = []
    for n in range(120):
        name = f"case {n}.{('jpg', 'PNG', 'jpeg')[n % 3]}"
        finding, view = findings[n // 2 % 4], ("PA", "AP", "AP Supine")[n % 3]
        files.archives["images"][name] = grey(n, f".{name.split('.')[1].lower()}")
        if "COVID" in finding:
            files.archives["lung_masks"][f"case {n}.png"] = png_mask(24, 32)
        rows.append(f'{n // 2},0,M,65,{finding},{view},X-ray,2020,images,{name},CC BY 4.0,"a note, and more",\n')
    files.texts["metadata.csv"] = f"{COLUMNS}\n{''.join(rows)}"
    return files


def covidx(folder: Path, version: str = "9B") -> Sets:
    """Hundred patients with two images each, of rsna (typed rnsa at times), ricord, cohen and actmed."""
    labels = {"A": ("normal", "pneumonia", "COVID-19"), "B": ("negative", "positive")}[version[-1]]
    files = Sets(folder, {"train": {}, "test": {}})
    for part, patients in (("train", range(80)), ("test", range(80, 100))):
        lines = []
        for patient in patients:
            source = ("rsna", "rnsa", "ricord", "cohen", "actmed")[patient % 5]
            for image in range(2):
                name = f"COVID ({patient}) {image}.png" if patient % 2 else f"{patient}-{image}.jpg"
                lines.append(f"p{patient} {name} {labels[patient // 5 % len(labels)]} {source}\n")
                files.archives[part][name] = grey(2 * patient + image, name[-4:])
        files.texts[f"{part}_COVIDx{version}.txt"] = "".join(lines)
    return files
