"""Images by name, from a zip or tar file or from the folder it unpacks to; nothing is ever extracted.

An image is known by its file name without folder and suffix (`ISIC_0024306`) or, where names repeat, by its path
(`train/p1/view1.jpg`), whichever the container, in Unicode's form NFC, whichever the system that stored the name.
"""

import lzma
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath

from tfds_builders.common.damage import DamagedInput

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# What reading a damaged zip file raises: of zipfile and its decoders, and of unknown or encrypted members.
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, IndexError, struct.error,
)  # fmt: skip


class Archive:
    """Read access to the images of one zip file, tar file or folder. Pickles: a worker opens it again.

    Args:
      path: the zip file, tar file or folder.
      suffixes: of the files that count as images, lower case.
      by_path: images are known by their path below the archive's own folder, suffix included, not by their stem.

    Attributes:
      members: for each image name, where it lies in the container.
    """

    def __init__(self, path: Path, suffixes: Iterable[str], by_path: bool = False):
        self.path = path
        self._tar = path.is_file() and path.name.lower().endswith(TAR_SUFFIXES)
        self._zip = None if self._tar or path.is_dir() else open_zip(path)
        if self._tar:
            names = tar_names(path)
        else:
            names = safe_names(path, self._zip) if self._zip else folder_names(path)
        index = index_by_path if by_path else index_by_stem
        self.members = index(path, names, tuple(suffixes))

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_zip": self._zip is not None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._zip = open_zip(self.path) if self._zip else None

    @property
    def sequential(self) -> bool:
        """Whether images can only be read in the archive's own order (a tar file)."""
        return self._tar

    def read(self, name: str) -> bytes:
        """The bytes of the image `name`; safe to call from several threads at once. Dear for a tar file: see `stream`.

        Raises DamagedInput if the member cannot be read.
        """
        if self._tar:
            return dict(self.stream([name]))[name]
        member = self.members[name]
        if self._zip is None:
            return read_file(self.path / member)
        try:
            return self._zip.read(member)
        except UNREADABLE as error:
            reason = reason_of(error)
            raise DamagedInput(
                f"{self.path}: {member} cannot be read ({reason}): download the archive again"
            ) from error

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | DamagedInput]]:
        """(name, bytes) of each image of `names`, a tar file's in its own order; what cannot be read, as the error."""
        if self._tar:
            yield from self._stream_tar(set(names))
            return
        for name in names:
            try:
                yield name, self.read(name)
            except DamagedInput as error:
                yield name, error

    def _stream_tar(self, names: set[str]) -> Iterator[tuple[str, bytes | DamagedInput]]:
        wanted = {self.members[name]: name for name in names}
        reason = "it is no longer there"
        try:
            with tarfile.open(self.path) as tar:
                for item in tar:
                    if item.name in wanted:
                        data = tar.extractfile(item).read()
                        yield wanted.pop(item.name), data
                    if not wanted:
                        return
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            reason = str(error)
        for member, name in wanted.items():
            yield name, DamagedInput(f"{self.path}: {member} cannot be read ({reason}): download the archive again")


def reason_of(error: Exception) -> str:
    """Without the name of the file or member: messages say it, and it may be a patient's, so reports must not."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.sub(r" ?b?['\"].*['\"]", "", str(error)) or type(error).__name__


def read_file(path: Path) -> bytes:
    """DamagedInput if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedInput(
            f"{path} cannot be read ({error.strerror}): copy it again, or give leave to read it"
        ) from error


def find_archive(directory: Path, stem: str) -> Path | None:
    """`directory/stem.zip`, else `.tar.gz`, else the unpacked folder `directory/stem`; None without any."""
    for path in (directory / f"{stem}.zip", *(directory / f"{stem}{suffix}" for suffix in TAR_SUFFIXES)):
        if path.is_file():
            return path
    folder = directory / stem
    return folder if folder.is_dir() else None


def find_part(directory: Path, whole: Path | None, stem: str) -> Path | None:
    """As `find_archive` in `directory`, else in the folder `whole` that all parts unpack to; else the archive `whole`
    that holds all parts.
    """
    inside = find_archive(whole, stem) if whole and whole.is_dir() else whole
    return find_archive(directory, stem) or inside


def open_zip(path: Path) -> zipfile.ZipFile:
    """ValueError if it cannot be read."""
    try:
        return zipfile.ZipFile(path)
    # Of the latter, places before the file's beginning and names in no known alphabet.
    except (*UNREADABLE, ValueError) as error:
        raise ValueError(f"{path} is not a whole zip file ({reason_of(error)}): download it again") from error


def safe_names(path: Path, archive: zipfile.ZipFile) -> list[str]:
    """Names of the files in the archive; one that leaves the archive's own folder, or a link, is an error."""
    names = []
    for item in archive.infolist():
        check_member(path, item.filename, stat.S_ISLNK(item.external_attr >> 16))
        if not item.is_dir():
            names.append(item.filename)
    return names


def tar_names(path: Path) -> list[str]:
    """As `safe_names`, of a tar file; reads the whole of it once, so a cut file is found here."""
    names = []
    try:
        with tarfile.open(path) as tar:
            for item in tar:
                check_member(path, item.name, item.issym() or item.islnk())
                if item.isfile():
                    names.append(item.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path} is not a whole tar file ({error}): download it again") from error
    return names


def check_member(path: Path, member: str, link: bool) -> None:
    name = member.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
        raise ValueError(f"{path}: the member {member!r} points out of the archive: not an official archive")
    if link:
        raise ValueError(f"{path}: the member {member!r} is a link: not an official archive")


def folder_names(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def index_by_stem(path: Path, names: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Image name -> member, of members with one of the suffixes; resource forks of macOS are left out."""
    members: dict[str, str] = {}
    for name, pure in image_paths(names, suffixes):
        key = unicodedata.normalize("NFC", pure.stem)
        if key in members:
            raise ValueError(f"{path} holds {key} twice ({members[key]}, {name}): drop one")
        members[key] = name
    return members


def index_by_path(path: Path, names: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Path below the archive's own folder (`x/` in x.zip) -> member."""
    own = path.name.split(".zip")[0].split(".t")[0]
    members = {}
    for name, pure in image_paths(names, suffixes):
        parts = pure.parts[1:] if pure.parts[0] == own and len(pure.parts) > 1 and path.is_file() else pure.parts
        key = unicodedata.normalize("NFC", "/".join(parts))
        if key in members:
            raise ValueError(f"{path} holds {key} twice ({members[key]}, {name}): drop one")
        members[key] = name
    return members


def image_paths(names: Iterable[str], suffixes: tuple[str, ...]) -> Iterator[tuple[str, PurePosixPath]]:
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.suffix.lower() in suffixes and not is_resource_fork(pure):
            yield name, pure


def is_resource_fork(path: PurePath) -> bool:
    """Whether macOS left the file beside another one of the same suffix."""
    return path.name.startswith("._") or "__MACOSX" in path.parts
