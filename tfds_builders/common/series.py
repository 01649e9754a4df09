"""CT series: found in a tree of files or in zip files, read into a volume of Hounsfield units.

Nothing is trusted but the headers' geometry: not file names, not the order of files, not InstanceNumber, not
SliceThickness.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16
from tqdm import tqdm

from tfds_builders.common import dicom, duplicates, slices, spacing
from tfds_builders.common.archives import is_resource_fork
from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.locations import Files, Location, walk

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
CT_IMAGE_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")  # single frame, enhanced
NO_MARK = "no DICOM mark"
# Endings of files that may hold series and are not looked into, and what to do about them.
PACKED = (".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")
OTHER_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr")
ADVICE = {
    NO_MARK: "A DICOM file has the letters DICM after its first 128 bytes. If pydicom reads one without them "
    "(dcmread(path, force=True)), save_as(path, enforce_file_format=True) adds them.",
    "packed": "Unpack archives, or pack them as zip files.",
    "another format of volumes": "Convert NIfTI and NRRD to MetaImage.",
}  # fmt: skip
SHOWN = 5
TAGS = ["SeriesInstanceUID", "PatientID", "PatientIdentityRemoved", "Modality", "ImageType", "SOPClassUID"]


@dataclasses.dataclass(frozen=True)
class Series:
    """A volume and where it lies.

    Attributes:
      voxels: Hounsfield units, int16 [z, y, x]; none below -1024, which is also what padding pixels have.
      spacing: mm (z, y, x).
      positions: mm along the slices' normal, ascending; for upright axial slices, z of the patient's frame.
      origin: of voxel (0, 0, 0), in the world, mm (x, y, z).
      direction: unit vectors of the world (x, y, z) along the volume's axes z, y, x, one per row; see `geometry`.
      thickness: SliceThickness of the first slice, mm; 0 where it is not given.
      sop_uids: of the slices, in the order of the volume; empty where there were no DICOM files.
      series_uid, patient_id: as in the files; the patient's id may be empty.
      deidentified: the files say that the patient's identity was removed, so `patient_id` is no hospital's.
      notes: what a report should say of it: duplicates dropped, a small shift, lossy compression.
    """

    voxels: Int16[np.ndarray, "depth height width"]
    spacing: tuple[float, float, float]
    positions: Float[np.ndarray, "depth"]
    origin: tuple[float, float, float]
    direction: Float[np.ndarray, "3 3"]
    sop_uids: tuple[str, ...]
    series_uid: str
    patient_id: str
    thickness: float = 0.0
    deidentified: bool = False
    notes: tuple[str, ...] = ()

    def oriented(self) -> "Series":
        """The same volume with each axis reversed that runs against the world's: prone and feet-first scans end up
        like the others. The axes keep their order, positions keep ascending; the voxels are a view.
        """
        flips = np.array([row[abs(row).argmax()] < 0 for row in self.direction])
        steps = [slice(None, None, -1) if flip else slice(None) for flip in flips]
        corner = np.where(flips, np.array(self.voxels.shape) - 1, 0) * np.array(self.spacing)
        return dataclasses.replace(
            self,
            voxels=self.voxels[tuple(steps)],
            positions=-self.positions[::-1] if flips[0] else self.positions,
            origin=tuple((np.array(self.origin) + corner @ self.direction).tolist()),
            direction=np.where(flips[:, None], -self.direction, self.direction),
            sop_uids=self.sop_uids[steps[0]],
        )


class SeriesFound(dict[str, list[Location]]):
    """Locations of the files of each CT series, by its UID.

    Attributes:
      patients: for each series, PatientID of its first file, empty if there is none.
      deidentified: the series whose first file says that the patient's identity was removed.
      skipped: how many files were passed over, by reason: no DICOM mark, packed, another modality, localizers.
      damaged: files that claim to be DICOM and cannot be read.
    """

    def __init__(self):
        super().__init__()
        self.patients: dict[str, str] = {}
        self.deidentified: set[str] = set()
        self.skipped: Counter[str] = Counter()
        self.damaged: list[Damaged] = []

    def describe_skipped(self) -> str:
        """How many files were passed over for which reason, and what can be done; '' if none were."""
        if not self.skipped:
            return ""
        reasons = ", ".join(f"{reason} ({count})" for reason, count in self.skipped.most_common(SHOWN))
        more = " …" if len(self.skipped) > SHOWN else ""
        advice = " ".join(ADVICE[reason] for reason in ADVICE if reason in self.skipped)
        return f"{self.skipped.total()} files were passed over: {reasons}{more}. {advice}".rstrip()


def find_series(*paths: str | Path) -> SeriesFound:
    """The CT series in folders (whatever their files are called, zip files in them included) or zip files.

    Only headers are read, one at a time. CT images are DICOM files of modality CT and class CT Image Storage; scouts
    (image type LOCALIZER) are passed over.

    Raises:
      FileNotFoundError: no such folder or file.
      ValueError: a zip file is cut short, or a member of one points out of it.
    """
    found = SeriesFound()
    locations = (location for path in paths for location in walk(Path(path)))
    with Files() as files:
        for location in tqdm(locations, desc="reading headers", unit=" files", mininterval=1):
            try:
                with dicom.damage_named(str(location)):
                    reason = add_file(found, location, files)
            except DamagedInput as error:
                found.damaged.append(Damaged(str(location), str(error)))
            else:
                found.skipped.update([reason] if reason else [])
    return found


def add_file(found: SeriesFound, location: Location, files: Files) -> str:
    """Adds a file to its series, or returns why it belongs to none."""
    if is_resource_fork(location.name):
        return NO_MARK
    with files.open(location) as file:
        header = dicom.header_if_dicom(file, str(location), TAGS)
    if header is None:
        if location.name.suffix.lower() in DICOM_SUFFIXES:
            raise DamagedInput("no DICM mark, though its name says DICOM: replace it")
        return kind_of_other(location.name)
    if header.get("Modality") != "CT":
        return f"modality {header.get('Modality') or 'not given'}"
    if header.get("SOPClassUID", CT_IMAGE_CLASSES[0]) not in CT_IMAGE_CLASSES:
        return "CT, but no image"
    if "LOCALIZER" in (header.get("ImageType") or ()):
        return "localizer"
    series = str(header.get("SeriesInstanceUID") or "")
    if not series:
        raise DamagedInput("no SeriesInstanceUID: replace it")
    if series not in found:
        found[series] = []
        found.patients[series] = str(header.get("PatientID") or "").strip()
        if header.get("PatientIdentityRemoved") == "YES":
            found.deidentified.add(series)
    found[series].append(location)
    return ""


def kind_of_other(name: Path) -> str:
    """Why a file without the DICOM mark is passed over, by its name."""
    lower = name.name.lower()
    if lower.endswith(OTHER_VOLUMES):
        return "another format of volumes"
    return "packed" if lower.endswith(PACKED) else NO_MARK


def read_series(files: Iterable[Location | Path]) -> Series:
    """The volume of one series from its files, in any order; memory holds the volume and one slice.

    Slices are ordered by ImagePositionPatient along the normal of ImageOrientationPatient, and their spacing is that of
    the even grid that fits their positions best. Of slices at one position one stays (noted): that of the larger
    acquisition, then of the lowest AcquisitionNumber, then InstanceNumber. HU = RescaleSlope * stored +
    RescaleIntercept, each slice's own; padding pixels get -1024.

    Args:
      files: locations as `find_series` gives them, or paths.

    Raises DamagedInput, naming file or positions, if a slice cannot be read, has no position, rescaling or pixel
    spacing, is one of several frames, or differs from the others in series, patient, frame of reference, orientation or
    size; if a slice is missing between others, positions are uneven beyond their rounding, all slices lie at one
    position, the slices are shifted against each other (gantry tilt), or two acquisitions are mixed.
    """
    locations = [item if isinstance(item, Location) else Location(Path(item)) for item in files]
    if not locations:
        raise DamagedInput("a series of no files")
    with Files() as opened:
        found = [slices.read_slice(location, opened) for location in locations]
        slices.check_alike(found)
        ordered, notes = duplicates.drop_duplicates(found, opened)
        duplicates.check_acquisitions(ordered)
        distance, first, more = spacing.slice_spacing(ordered)
        notes += more + spacing.check_shift(ordered)
        voxels, lossy = stack(ordered, opened)
    if lossy:
        notes.append(f"{lossy} slices are lossily compressed")
    one = ordered[0]
    return Series(
        voxels=voxels,
        spacing=(distance, *one.spacing),
        positions=slices.positions_of(ordered),
        origin=tuple((one.corner + first * one.normal).tolist()),
        direction=np.stack([one.normal, one.column, one.row]),
        sop_uids=tuple(item.sop_uid for item in ordered),
        series_uid=one.series_uid,
        patient_id=one.patient_id,
        thickness=one.thickness,
        deidentified=one.deidentified,
        notes=tuple(notes),
    )


def stack(ordered: list[slices.Slice], files: Files) -> tuple[Int16[np.ndarray, "depth height width"], int]:
    """The slices' HU, one by one into one volume, and how many are lossily compressed."""
    shape = ordered[0].shape
    voxels, lossy = np.empty((len(ordered), *shape), np.int16), 0
    for index, item in enumerate(ordered):
        plane, is_lossy = slices.read_hounsfield(item, files)
        if plane.shape != shape:
            raise DamagedInput(f"{item.location} holds {plane.shape} pixels, its header says {shape}: replace it")
        voxels[index], lossy = plane, lossy + is_lossy
    return voxels, lossy
