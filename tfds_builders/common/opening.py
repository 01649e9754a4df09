"""Opens what was prepared, and notices what was damaged since.

A preparation writes `SHA256SUMS` beside the data, over the small files that say what the records mean: `sha256sum -c`
reads it too. Records have hashes of their own, which are compared whenever one is read, and the tables of rows have
checksums; both are left out of the file.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
DESCRIPTIONS = ("dataset_info.json", "features.json")
REPORT = "prepare_report.json"
# What TFDS and protobuf raise on files with other content than they expect.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ImportError)


class DamagedDataSet(ValueError):
    """A file of a prepared data set is missing, or is not what was written. The message names it and what to do."""

    def __init__(self, file: Path, what: str, why: object = ""):
        # What a library says may fill a page. It stands last, and shortened.
        why = str(why).strip().split("\n")[0][:200]
        remedy = f"delete the folder {file.parent} and prepare the data set again"
        super().__init__(f"{file} {what}: {remedy}{why and f' ({why})'}")
        self.arguments = file, what, why

    def __reduce__(self):
        # As it travels from worker processes.
        return type(self), self.arguments


def write_sums(folder: Path) -> None:
    """Writes the SHA-256 of the small files of a data set that has just been prepared."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and _is_small(path.name))
    (folder / SUMS).write_text("".join(f"{_digest(folder / name)}  {name}\n" for name in names))


def open_prepared(folder: Path) -> Any:
    """The TFDS builder of the data set in a folder. Raises DamagedDataSet if its descriptions are damaged."""
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import Error as NotOfProtobuf

    check_descriptions(folder)
    try:
        return tfds.builder_from_directory(folder)
    except (*UNREADABLE, NotOfProtobuf) as error:
        raise DamagedDataSet(folder / DESCRIPTIONS[0], "or a file beside it is damaged", error) from error


def check_descriptions(folder: Path) -> None:
    """Raises DamagedDataSet if a file that says what the records mean is missing or damaged.

    Of a data set without `SHA256SUMS`, as TFDS alone prepares one, only what is no JSON is noticed.
    """
    if (folder / SUMS).exists():
        _compare_sums(folder)
    for name in (*DESCRIPTIONS, REPORT):
        try:
            if not isinstance(json.loads((folder / name).read_bytes()), dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:
            # TFDS alone writes no report.
            if name != REPORT:
                raise DamagedDataSet(folder / name, "is missing") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedDataSet(folder / name, "is damaged", error) from None


def find_shards(builder: Any, split: str) -> list[tuple[Path, int]]:
    """The files of a split's records, each with its number of records.

    Raises DamagedDataSet if one is missing, cut, or has another number of records. The records are not read.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    info = builder.info.splits[split]
    try:
        shards = list(zip(map(Path, info.filepaths), info.shard_lengths, strict=True))
    except (ValueError, KeyError) as error:
        raise DamagedDataSet(Path(builder.data_dir) / DESCRIPTIONS[0], "is damaged", error) from None
    for path, length in shards:
        if not path.is_file():
            raise DamagedDataSet(path, "is missing")
        try:
            reader = ArrayRecordReader(str(path))
            found = reader.num_records()
            reader.close()
        except (RuntimeError, ValueError) as error:
            raise DamagedDataSet(path, "is damaged", error) from None
        if found != length:
            raise DamagedDataSet(path, "is damaged", f"it has {found} records of {length}")
    return shards


def _compare_sums(folder: Path) -> None:
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise DamagedDataSet(folder / SUMS, "is damaged", error) from None
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None:
            raise DamagedDataSet(folder / SUMS, "is damaged", f"a line is {line[:80]!r}")
        file = folder / match[2]
        if not file.is_file():
            raise DamagedDataSet(file, "is missing")
        if _digest(file) != match[1]:
            raise DamagedDataSet(file, "is damaged", f"its SHA-256 is not that in {SUMS}")


def _is_small(name: str) -> bool:
    return name != SUMS and not name.startswith((".", "tables-")) and ".array_record" not in name


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
