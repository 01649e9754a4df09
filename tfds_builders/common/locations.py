"""Files wherever they lie: in a tree of folders, or in zip files, which are never unpacked to disk."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tfds_builders.common.archives import UNREADABLE, open_zip, reason_of, safe_names
from tfds_builders.common.damage import DamagedInput

CHUNK = 1 << 22
# A process may have about 1000 files open, and a collection thousands of zip files.
OPEN_ZIPS = 16


class Location(NamedTuple):
    """Where a file lies: its path, or the zip file's path and its name in there."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    @property
    def name(self) -> Path:
        """Its path for naming: of a member, within the zip file."""
        return Path(self.member.replace("\\", "/")) if self.member else self.path

    def sibling(self, name: str) -> "Location":
        """The file `name` beside this one."""
        if not self.member:
            return Location(self.path.parent / name)
        return Location(self.path, (self.name.parent / name).as_posix())


class Files:
    """Opens locations, and keeps the zip files used last open; a context manager that closes them."""

    def __init__(self) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}  # that used last is last

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        for archive in self._archives.values():
            archive.close()

    def open(self, location: Location) -> BinaryIO:
        """The file, to be closed by the caller. Raises DamagedInput if it is not there or the zip file is damaged."""
        try:
            if not location.member:
                return open(location.path, "rb")
            return self._archive(location.path).open(location.member)
        except (KeyError, ValueError, *UNREADABLE) as error:
            raise DamagedInput(f"{location} cannot be opened ({reason_of(error)}): copy it again") from error

    def _archive(self, path: Path) -> zipfile.ZipFile:
        archive = self._archives.pop(path, None) or open_zip(path)
        self._archives[path] = archive
        if len(self._archives) > OPEN_ZIPS:
            # Files of it that are still being read stay open.
            self._archives.pop(next(iter(self._archives))).close()
        return archive

    def read(self, location: Location) -> bytearray:
        """All of the file, held once; DamagedInput as `open`, and if it cannot be read to its end."""
        data = bytearray()
        with self.open(location) as file:
            try:
                while chunk := file.read(CHUNK):
                    data += chunk
            except UNREADABLE as error:
                raise DamagedInput(f"{location} cannot be read ({reason_of(error)}): copy it again") from error
        return data


def walk(path: Path) -> Iterator[Location]:
    """Every file below `path`, or in the zip file `path`, in the order of names; zip files in a folder are looked
    into, zip files in zip files are not.

    Raises:
      FileNotFoundError: no such folder or file.
      ValueError: a zip file is cut short, or a member of one points out of it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a folder or a zip file")
    for file in [path] if path.is_file() else walk_folder(path):
        if file.suffix.lower() != ".zip":
            yield Location(file)
            continue
        with open_zip(file) as archive:
            members = sorted(safe_names(file, archive))
        yield from (Location(file, member) for member in members)


def walk_folder(path: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(path):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files))
