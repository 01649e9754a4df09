"""What says which file of weights one is: the header of the file, and the record of the artifact that it lies in."""

from pathlib import Path
from typing import Any

from aiseeme_jax import models
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts, records
from aiseeme_jax.weights import tensors

BACKBONE = "backbone.safetensors"
# The best backbone so far of a stage that may end early.
BEST = "best.safetensors"
FISHER = "fisher.safetensors"
CLASSIFIER = "classifier.safetensors"
# What a protocol trains that is no classifier of images: see `weights/networks.py`.
NETWORK = "network.safetensors"
# The entry of a file's header that this program writes.
HEADER = "aiseeme"
# The files of weights that an artifact of each kind may leave.
FILES = {
    artifacts.STAGES: (BACKBONE,),
    artifacts.FISHER: (FISHER,),
    artifacts.MEASUREMENTS: (CLASSIFIER, NETWORK),
}
# The hash in the header of a file, and the same hash in the record beside it.
HASHES = {
    BACKBONE: ("backbone_hash", "backbone_hash"),
    FISHER: ("backbone_hash", "fisher_hash"),
    CLASSIFIER: ("classifier_hash", "classifier_hash"),
    NETWORK: ("network_hash", "network_hash"),
}


def read_header(file: Path) -> dict[str, Any] | None:
    """Reads the entry of this program in the header of a file; None for a file of another program.

    Raises UserError that says what to do, if the header is damaged, or if the file is not the one of the record beside
    it. No network is built before that is checked.
    """
    try:
        text = tensors.read_metadata(file).get(HEADER)
        header = None if text is None else _parse(file, text)
    except tensors.Damaged as error:
        raise UserError(f"{error}; {explain_remedy(file)}") from None
    recorded = _read_recorded_hash(file)
    if recorded is not None and (header or {}).get(HASHES[file.name][0]) != recorded:
        raise UserError(f"{file} is damaged, or not the one that its record tells of; {explain_remedy(file)}")
    return header


def check_artifact(directory: Path) -> None:
    """Compares the files of weights in the folder of a finished artifact with its record, by their headers.

    An artifact without weights, such as a score, passes. Whoever loads the file compares the weights too. Raises
    UserError if the file is missing, damaged or another one.
    """
    for name in FILES.get(directory.parent.name, ()):
        file = directory / name
        if _read_recorded_hash(file) is None:
            continue
        if not file.exists():
            raise MissingFile(f"{directory} has lost its {file.name}; {artifacts.explain_remedy(directory)}")
        read_header(file)


def explain_remedy(file: Path) -> str:
    """Says what to do about a damaged file, as the end of a sentence."""
    if (file.parent / artifacts.RECORD).exists():
        return artifacts.explain_remedy(file.parent)
    return "copy or download it again"


def _read_recorded_hash(file: Path) -> str | None:
    """The hash that a file has by the record of the artifact that it lies in; None if no record tells of it."""
    record = artifacts.read_record(file.parent) if file.name in HASHES else None
    if record is None or file.name not in FILES.get(file.parent.parent.name, (file.name,)):
        return None
    return record.get(HASHES[file.name][1])


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        header = records.parse_object(text)
        if "network_hash" in header:
            return header
        models.check_config(header["model"])
        if not isinstance(header["backbone_hash"], str):
            raise TypeError("backbone_hash is not a string")
    except (ValueError, KeyError, TypeError) as error:
        raise tensors.Damaged(f"{file} has a damaged header ({type(error).__name__}: {error})") from None
    return header
