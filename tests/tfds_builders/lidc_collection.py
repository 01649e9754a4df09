"""LIDC-IDRI in the official layout on small drawn series and hand-written XML, to be bent by a test."""

import csv

from lidc_series import make_series, message, nodule, non_nodule, roi, square, write_series, write_zip

from tfds_builders import prepare

SIDE, PIXEL, STEP = 48, 1.0, 2.0
PLACES = (-40.0, -38.0, -36.0)


def rated(malignancy):
    return (3, 1, 6, 4, 4, 2, 1, 5, malignancy)


def ball(series, name, malignancy, x=24, y=20, radii=(2, 4, 2)):
    rois = [roi(z, f"{series}.{i}", square(x, y, r)) for i, (z, r) in enumerate(zip(PLACES, radii, strict=True))]
    return nodule(name, rois, rated(malignancy))


def sessions(series, malignancies, second=()):
    """A reader per rating: a nodule at (24, 20); and, for the ratings of `second`, another at (12, 38)."""
    texts = [ball(series, f"a{i}", value) for i, value in enumerate(malignancies)]
    texts += [""] * (len(second) - len(texts))
    for i, value in enumerate(second):
        texts[i] += ball(series, f"b{i}", value, 12, 38, (2, 2, 2))
    return [text + non_nodule(PLACES[0], f"{series}.0") for text in texts]


# series: patient, what its readers say
CASES = {
    "1.2.1": ("LIDC-IDRI-0001", sessions("1.2.1", (5, 4, 4, 1))),
    "1.2.2": ("LIDC-IDRI-0002", sessions("1.2.2", (1, 2, 3), (3, 3, 3, 3))),
    "1.2.3": ("LIDC-IDRI-0003", sessions("1.2.3", (3, 3, 2, 5), (5,))),
    "1.2.4": ("LIDC-IDRI-0003", sessions("1.2.4", (2,))),
    "1.2.5": ("LIDC-IDRI-0004", [non_nodule(PLACES[0], "1.2.5.0")] * 4),
}


TEXTS = {f"1/{uid}.xml": message(uid, readers) for uid, (_, readers) in CASES.items()}


class Collection:
    """The official layout in a folder, to be bent before it is prepared."""

    def __init__(self, folder):
        self.folder = folder
        self.texts = dict(TEXTS)

    def path(self, uid):
        return self.folder / "LIDC-IDRI" / CASES[uid][0] / "study" / uid

    def write(self):
        write_zip(self.folder / "LIDC-XML-only.zip", self.texts)
        with open(self.folder / "PatientId_SeriesUID.csv", "w", newline="") as file:
            csv.writer(file).writerows((patient, uid) for uid, (patient, _) in CASES.items())
        return self.folder

    def prepare(self, config="64", out="data", **options):
        return prepare(f"lidc_idri/{config}", data_dir=self.folder / out, manual_dir=self.write(), **options)


def draw_series(collection: Collection) -> None:
    """Writes the slices of every series."""
    for number, (uid, (patient, _)) in enumerate(CASES.items()):
        datasets = make_series(collection.texts[f"1/{uid}.xml"], patient, PIXEL, SIDE, margin=6, seed=number)
        write_series(datasets, collection.path(uid))
