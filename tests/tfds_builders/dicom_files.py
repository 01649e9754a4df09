"""DICOM files made for tests: CT slices and radiographs, plain or compressed, to be bent by a test before writing."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

SERIES = "1.2.826.0.1.3680043.8.498.1"


def plain(pixels: np.ndarray, bits: int = 16, **elements: Any) -> FileDataset:
    """An uncompressed single-frame image of the integers `pixels`; keyword arguments are DICOM elements.

    The same image has the same UID, so that what is prepared of it, digests included, is the same in every run.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    allocated = 8 if pixels.dtype.itemsize == 1 else 16
    values = dict(
        SOPInstanceUID=generate_uid(None, [str(pixels.tobytes()), repr(elements)]), SamplesPerPixel=1,
        Rows=pixels.shape[0], Columns=pixels.shape[1],
        PhotometricInterpretation="MONOCHROME2", BitsAllocated=allocated, BitsStored=min(bits, allocated),
        HighBit=min(bits, allocated) - 1, PixelRepresentation=int(pixels.dtype.kind == "i"),
    )  # fmt: skip
    for name, value in (values | elements).items():
        if value is not None:
            setattr(dataset, name, value)
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def radiograph(pixels: np.ndarray, bits: int = 16, **elements: Any) -> FileDataset:
    return plain(pixels, bits, SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX", **elements)


def ct_slices(
    hounsfield: np.ndarray,
    spacing: Sequence[float] = (2.0, 0.5, 0.5),
    origin: Sequence[float] = (-10.0, -20.0, -30.0),
    rows: Sequence[float] = (1, 0, 0),
    columns: Sequence[float] = (0, 1, 0),
    series: str = SERIES,
    patient: str = "P1",
    **elements: Any,
) -> list[FileDataset]:
    """One dataset per slice of a volume [z, y, x] in HU, in the order of the volume; intercept -1024, 16 bits."""
    normal = np.cross(rows, columns)
    return [
        plain(
            (plane + 1024).astype(np.uint16),
            SOPClassUID=CTImageStorage, Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            SeriesInstanceUID=series, PatientID=patient, InstanceNumber=number + 1, SliceThickness=9.0,
            ImagePositionPatient=[float(v) for v in np.array(origin) + number * spacing[0] * normal],
            ImageOrientationPatient=[float(v) for v in (*rows, *columns)], PixelSpacing=list(spacing[1:]),
            RescaleSlope=1, RescaleIntercept=-1024, **elements,
        )
        for number, plane in enumerate(hounsfield)
    ]  # fmt: skip


def to_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_all(datasets: Sequence[Dataset], folder: Path, shuffle: int | None = 0) -> list[Path]:
    """The datasets as files whose names say nothing of their order, and have no suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.arange(len(datasets)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(datasets))
    paths = [folder / f"IM{place:04d}" for place in order]
    for path, dataset in zip(paths, datasets, strict=True):
        path.write_bytes(to_bytes(dataset))
    return paths


def compressed(data: bytes, syntax: str) -> bytes:
    """The file with its pixels in another transfer syntax (a name of GDCM's, such as JPEGLossless), by GDCM."""
    import gdcm

    reader = gdcm.ImageReader()
    path = Path(compressed.folder) / "plain.dcm"
    path.write_bytes(data)
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path.read_bytes()
