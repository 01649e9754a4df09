"""metadata.csv as rows: which images are used, and why the others are not."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.tables import read_table

from .findings import UNLABELLED, path_of

TABLE = "metadata.csv"
COLUMNS = ("patientid", "finding", "view", "modality", "license")
FRONTAL = ("PA", "AP", "AP Supine", "AP Erect")
LATERAL = "L"
ABSENT = "not in the archive of images"


@dataclass(frozen=True)
class Row:
    """One frontal radiograph with a finding; `license` 'unknown' where the table has none."""

    filename: str
    patient_id: str
    finding: str
    view: str
    license: str


@dataclass
class Listing:
    """What the table gives.

    Attributes:
      rows: the images that are used, in the order of the table.
      damaged: rows that cannot be used.
      left_out: file names by the reason why they are not used.
      listed: every file name of the table.
      frontal: of the frontal radiographs in the archive, with or without a finding, the patient.
    """

    rows: list[Row] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    listed: set[str] = field(default_factory=set)
    frontal: dict[str, str] = field(default_factory=dict)


def read_rows(path: Path, images: Container[str]) -> Listing:
    """The rows of the table whose image is one of `images`; each row is left out for the first reason that holds.

    Raises ValueError if a column is missing or a file name occurs twice.
    """
    listing = Listing()
    for filename, values in read_table(path, "filename", COLUMNS).items():
        listing.listed.add(filename)
        reason = reason_against(values["modality"], values["view"]) or (ABSENT if filename not in images else "")
        if not reason:
            # A blank is no patient that several images could share.
            listing.frontal[filename] = values["patientid"] or filename
            reason = f"finding {values['finding'] or 'blank'}" if values["finding"] in UNLABELLED else ""
        if reason:
            listing.left_out[reason].append(filename)
            continue
        try:
            finding = path_of(values["finding"])
        except DamagedInput as error:
            listing.damaged.append(Damaged(f"{path}: {filename}", str(error)))
            continue
        licence = values["license"] or "unknown"
        listing.rows.append(Row(filename, listing.frontal[filename], finding, values["view"], licence))
    return listing


def reason_against(modality: str, view: str) -> str:
    """Why an image is not one of the frontal radiographs; '' if it is one."""
    if modality != "X-ray":
        return modality or "modality not given"
    if view == LATERAL:
        return "lateral view"
    return "" if view in FRONTAL else "view not given" if view in ("", "?") else f"view {view}"


def shared_stems(names: Iterable[str]) -> set[str]:
    """Stems of several images, such as 000001.jpg and 000001.png: a mask 000001.png could be of either."""
    counts = Counter(PurePosixPath(name).stem for name in names)
    return {stem for stem, number in counts.items() if number > 1}
