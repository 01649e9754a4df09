"""The XML files of LIDC-IDRI: what each reader outlined in each CT series, and how the reader rated it.

Format: `LidcReadMessage` (CT; `IdriReadMessage` is a radiograph) > `readingSession`, one per reader > nodules. A nodule
of 3 mm or more has outlines and nine ratings; a smaller one is a single point without ratings, as is a `nonNodule`.
"""

import hashlib
import math
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from tfds_builders.common.archives import is_resource_fork
from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.locations import Files, walk
from tfds_builders.lidc_idri.trees import number, read_tree, text, uncollected, whole

# Each rating goes from 1 to this.
RATINGS = {
    "subtlety": 5, "internalStructure": 4, "calcification": 6, "sphericity": 5, "margin": 5, "lobulation": 5,
    "spiculation": 5, "texture": 5, "malignancy": 5,
}  # fmt: skip
MALIGNANCY = list(RATINGS).index("malignancy")
# Of the whole collection; the nodules after Fedorov et al. 2020, which are those of pylidc (`clustering.PYLIDC`).
PUBLISHED = {"ct_series": 1018, "patients": 1010, "annotations": 6859, "patients_with_nodules": 875, "nodules": 2651}
# TCIA replaced the XML of LIDC-IDRI-0101 on 2012-03-21 by a file of this word in its name.
CORRECTED = "resubmitted"
# What older archives, without that file, say too much: one outlined nodule more than the 6,859 of the collection, one
# non-nodule less, in this series and this reader's list. (Series, session, nodule.)
WITHDRAWN = {("1.3.6.1.4.1.14519.5.2.1.6279.6001.340202188094259402036602717327", 0, "2")}


@dataclass(frozen=True)
class Outline:
    """One closed outline in one slice; it lies on the first pixels outside of what it encloses.

    Attributes:
      z: position of the slice as the XML has it, mm.
      sop_uid: of the slice.
      inclusion: False for a hole.
      points: pixel indices (x, y) = (column, row), in order, the first not repeated at the end.
    """

    z: float
    sop_uid: str
    inclusion: bool
    points: Int32[np.ndarray, "points 2"]


@dataclass(frozen=True)
class Annotation:
    """A nodule of 3 mm or more as one reader saw it.

    Attributes:
      session: number of the reader in this series; says nothing about other series.
      ratings: in the order of RATINGS; 0 for a value that the scale does not have.
      outlines: those of more than one point.
    """

    session: int
    nodule_id: str
    ratings: tuple[int, ...]
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class Reading:
    """All readers' annotations of one series.

    Attributes:
      path: of the XML file.
      sessions: number of readers.
      counts: of everything in the file, by kind.
      digest: equal for equal contents, whatever the header says.
    """

    series_uid: str
    path: str
    sessions: int
    annotations: tuple[Annotation, ...]
    counts: Counter[str]
    digest: str


@dataclass
class Readings:
    """The readings by series UID, what was counted on the way, and the files that had to be left out."""

    by_series: dict[str, Reading] = field(default_factory=dict)
    files: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """For the report: everything the collection's documentation states."""
        total = sum((reading.counts for reading in self.by_series.values()), Counter())
        with_nodules = [reading for reading in self.by_series.values() if reading.annotations]
        return {
            **{name: self.files[name] for name in ("xml_files", "ct_files", "radiograph_files")},
            "ct_series": len(self.by_series),
            "ct_series_with_nodules": len(with_nodules),
            **{name: total[name] for name in KINDS},
        }


KINDS = (
    "annotations", "withdrawn", "outlined_without_ratings", "rated_points", "below_3mm", "non_nodules", "outlines",
    "holes", "stray_points", "invalid_ratings",
)  # fmt: skip


@uncollected()
def read_archive(path: Path) -> Readings:
    """The readings in a zip file or folder. Of several files of one series, equal ones count once, and the one that
    TCIA resubmitted replaces the others; a series whose files differ otherwise is listed as damaged.
    """
    readings = Readings()
    found: dict[str, list[Reading]] = defaultdict(list)
    with Files() as files:
        for location in walk(path):
            if location.name.suffix.lower() != ".xml" or is_resource_fork(location.name):
                continue
            readings.files["xml_files"] += 1
            try:
                reading = parse(files.read(location), str(location))
            except DamagedInput as error:
                readings.damaged.append(Damaged(str(location), str(error)))
                continue
            readings.files["ct_files" if reading else "radiograph_files"] += 1
            if reading:
                found[reading.series_uid].append(reading)
    for uid, several in found.items():
        add_series(readings, uid, several)
    return readings


def add_series(readings: Readings, uid: str, several: Sequence[Reading]) -> None:
    corrected = [one for one in several if CORRECTED in Path(one.path).name.lower()]
    chosen = corrected or several
    if len({one.digest for one in chosen}) > 1:
        paths = ", ".join(one.path for one in chosen)
        readings.damaged.append(Damaged(paths, f"they annotate the series {uid} differently: keep one"))
        return
    one = chosen[0]
    if not corrected:
        one = without_withdrawn(one)
    readings.by_series[uid] = one
    if len(several) > 1:
        reason = "the resubmitted file replaces the other" if corrected else "equal contents, counted once"
        readings.notes.append(f"{uid}: {len(several)} XML files: {reason}")
    if one.counts["withdrawn"]:
        readings.notes.append(f"{uid}: the archive lacks the corrected file of 2012-03-21; what it withdraws left out")


def without_withdrawn(reading: Reading) -> Reading:
    gone = [one for one in reading.annotations if (reading.series_uid, one.session, one.nodule_id) in WITHDRAWN]
    counts = reading.counts + Counter(withdrawn=len(gone))
    counts.subtract(sum((count(one) for one in gone), Counter()))
    kept = tuple(one for one in reading.annotations if all(one is not other for other in gone))
    return replace(reading, annotations=kept, counts=counts)


def count(annotation: Annotation) -> Counter[str]:
    holes = sum(not one.inclusion for one in annotation.outlines)
    return Counter(annotations=1, outlines=len(annotation.outlines) - holes, holes=holes)


def parse(data: bytes, path: str) -> Reading | None:
    """The reading in one XML file; None for a radiograph's.

    Raises DamagedInput if it is not well formed, declares a document type, or lacks what the format demands.
    """
    root, kind = read_tree(data)
    if kind == "IdriReadMessage":
        return None
    if kind != "LidcReadMessage":
        raise DamagedInput(f"its root is {kind}, not LidcReadMessage or IdriReadMessage: no LIDC file")
    counts: Counter[str] = Counter()
    sessions = root.findall("readingSession")
    annotations = []
    for place, session in enumerate(sessions):
        counts["non_nodules"] += len(session.findall("nonNodule"))
        nodules = (read_nodule(item, place, counts) for item in session.findall("unblindedReadNodule"))
        annotations += [nodule for nodule in nodules if nodule]
    # What follows the header, whatever its line ends.
    contents = b"".join(data[max(0, data.find(b"<readingSession")) :].split())
    return Reading(
        series_uid=text(root.find("ResponseHeader"), "SeriesInstanceUid"),
        path=path,
        sessions=len(sessions),
        annotations=tuple(annotations),
        counts=counts,
        digest=hashlib.sha256(contents).hexdigest(),
    )


def read_nodule(item: ET.Element, session: int, counts: Counter[str]) -> Annotation | None:
    """The annotation, or None if it is not one of a nodule of 3 mm or more; either way it is counted."""
    name = text(item, "noduleID")
    outlines = [read_outline(roi) for roi in item.findall("roi")]
    drawn = tuple(one for one in outlines if len(one.points) > 1)
    characteristics = item.find("characteristics")
    ratings = read_ratings(characteristics, counts)
    outlined = any(one.inclusion for one in drawn)
    if not outlined:
        # An empty <characteristics/> is none; two nodules of one point have ratings, all 0.
        rated = characteristics is not None and len(characteristics)
        counts["rated_points" if rated else "below_3mm"] += 1
        return None
    if ratings is None:
        counts["outlined_without_ratings"] += 1
        return None
    annotation = Annotation(session, name, ratings, drawn)
    counts.update(count(annotation))
    counts["stray_points"] += len(outlines) - len(drawn)
    return annotation


def read_ratings(item: ET.Element | None, counts: Counter[str]) -> tuple[int, ...] | None:
    """The nine ratings, or None if there are none or one is blank or 0; a value above its scale becomes 0."""
    if item is None or not len(item):
        return None
    values = [whole(item, name, default="0") for name in RATINGS]
    if 0 in values:
        return None
    for place, limit in enumerate(RATINGS.values()):
        if not 1 <= values[place] <= limit:
            values[place] = 0
            counts["invalid_ratings"] += 1
    return tuple(values)


def read_outline(roi: ET.Element) -> Outline:
    columns, rows = ([edge.text for edge in roi.iter(name)] for name in ("xCoord", "yCoord"))
    if len(columns) != len(rows) or len(rows) != len(roi.findall("edgeMap")):
        raise DamagedInput("an edgeMap has not one xCoord and one yCoord")
    try:
        points = np.array([list(map(int, columns)), list(map(int, rows))], np.int32).T
    except (TypeError, ValueError, OverflowError) as error:
        raise DamagedInput(f"xCoord or yCoord is no whole number ({error})") from error
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    inclusion = text(roi, "inclusion").upper()
    if inclusion not in ("TRUE", "FALSE"):
        raise DamagedInput(f"inclusion is {inclusion!r}, not TRUE or FALSE")
    z = number(text(roi, "imageZposition"))
    if not math.isfinite(z):
        raise DamagedInput(f"imageZposition is no number: {text(roi, 'imageZposition')!r}")
    return Outline(z, text(roi, "imageSOP_UID"), inclusion == "TRUE", points)
