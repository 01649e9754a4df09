"""Images by name, from an official zip file or from the folder it unpacks to; nothing is ever extracted.

An image is known by its file name without folder and suffix (`ISIC_0024306`), whichever the container.
"""

import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


class Archive:
    """Read access to the images of one zip file or folder.

    Attributes:
      path: the zip file or folder.
      members: for each image name, where it lies in the container.
    """

    def __init__(self, path: Path, suffixes: Iterable[str]):
        self.path = path
        self._zip = open_zip(path) if path.is_file() else None
        names = safe_names(path, self._zip) if self._zip else folder_names(path)
        self.members = index_by_stem(path, names, tuple(suffixes))

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def read(self, name: str) -> bytes:
        """The bytes of the image `name`; safe to call from several threads at once."""
        member = self.members[name]
        if self._zip is None:
            return (self.path / member).read_bytes()
        try:
            return self._zip.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{self.path}: {member} cannot be read ({error}): download the archive again") from error


def find_archive(directory: Path, stem: str) -> Path | None:
    """`directory/stem.zip` or, where there is no such file, the unpacked folder `directory/stem`; None
    without both.
    """
    for path in (directory / f"{stem}.zip", directory / stem):
        if path.is_file() or (path.is_dir() and path.suffix != ".zip"):
            return path
    return None


def open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is not a whole zip file ({error}): download it again") from error


def safe_names(path: Path, archive: zipfile.ZipFile) -> list[str]:
    """Names of the files in the archive; one that leaves the archive's own folder, or a link, is an error."""
    names = []
    for item in archive.infolist():
        name = item.filename.replace("\\", "/")
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
            raise ValueError(f"{path}: the member {item.filename!r} points out of the archive: not an official archive")
        if stat.S_ISLNK(item.external_attr >> 16):
            raise ValueError(f"{path}: the member {item.filename!r} is a link: not an official archive")
        if not item.is_dir():
            names.append(item.filename)
    return names


def folder_names(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def index_by_stem(path: Path, names: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Image name -> member, of members with one of the suffixes; resource forks of macOS are left out."""
    members: dict[str, str] = {}
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.suffix.lower() not in suffixes or pure.name.startswith("._"):
            continue
        if pure.stem in members:
            raise ValueError(f"{path} holds {pure.stem} twice ({members[pure.stem]}, {name}): drop one")
        members[pure.stem] = name
    return members
