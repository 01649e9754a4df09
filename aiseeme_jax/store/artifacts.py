"""Artifacts: the results of pieces of work. Each is a folder that is found by its key.

    STORE/stages/00-rotation-3f9a2c41d0e7/key.json       the content whose hash is the key
                                          record.json    facts about the result; written last
                                          …              the files of the result

A folder without a record is not finished; the next run continues in it. A folder with a record is finished, and nothing
in it changes any more. The name of a folder begins with a label for the reader. Only the key after it identifies it.
"""

import dataclasses
import functools
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import DiskError, UserError
from aiseeme_jax.store import records
from aiseeme_jax.store.keys import SHORT, make_key, shorten, to_json

RECORD = "record.json"
KEY = "key.json"
# Increase it when the layout of a folder or the meaning of a record changes.
FORMAT = 1
# Names of folders end with a key.
NAME = re.compile(rf".+-[0-9a-f]{{{SHORT}}}")
# The folders of a store, one for each kind of work.
KINDS = ("stages", "fisher", "measurements", "scores", "tuning", "trials", "maps")
STAGES, FISHER, MEASUREMENTS, SCORES, TUNING, TRIALS, MAPS = KINDS
# Names that version 0.1 left in a workdir.
OLD = ("arms", "targets", "done.json", "data.json", "before")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A piece of work, as it is planned.

    Attributes:
      kind: one of KINDS.
      label: says to a reader what it is: '00-rotation'.
      content: JSON values of everything that the result depends on.
    """

    kind: str
    label: str
    content: Mapping[str, Any] = dataclasses.field(compare=False)

    @functools.cached_property
    def key(self) -> str:
        """Hash of the content, hexadecimal."""
        return make_key({"kind": self.kind, **self.content})

    @property
    def name(self) -> str:
        """Name of its folder, if no other plan has made the folder under another label."""
        return f"{self.label}-{shorten(self.key)}"


class Store:
    """The folder that contains the artifacts."""

    def __init__(self, root: Path):
        self.root = root

    def directory(self, artifact: Artifact) -> Path:
        """The folder of an artifact. It need not exist. Another plan may have made it under another label."""
        found = self.find(artifact.kind, shorten(artifact.key))
        return found or self.root / artifact.kind / artifact.name

    def find(self, kind: str, short_key: str) -> Path | None:
        """The folder of a kind whose name ends with a key; None if there is none."""
        return next(iter(sorted((self.root / kind).glob(f"*-{short_key}"))), None)

    def begin(self, artifact: Artifact) -> Path:
        """Makes the folder of an artifact, unless it exists, and writes what the key is made of. Returns the folder."""
        directory = self.directory(artifact)
        if not (directory / KEY).exists():
            content = {"key": artifact.key, "kind": artifact.kind, "content": to_json(artifact.content)}
            records.write_json(directory / KEY, content)
        return directory

    def finish(self, artifact: Artifact, record: Mapping[str, Any]) -> None:
        """Writes the record. From then on the artifact is finished."""
        whole = {"format": FORMAT, "key": artifact.key, **record}
        records.write_json(self.directory(artifact) / RECORD, whole)

    def record(self, artifact: Artifact) -> dict[str, Any] | None:
        """The record of an artifact, or None if it is not finished.

        Raises UserError if the record is damaged, or is of another format or another piece of work.
        """
        directory = self.directory(artifact)
        record = read_record(directory)
        if record is not None and record["key"] != artifact.key:
            raise UserError(
                f"{directory} contains another piece of work than its name says; {explain_remedy(directory)}"
            )
        return record

    def folders(self) -> Iterator[Path]:
        """The folders of all artifacts, finished or not. Other folders that somebody put there are left out."""
        for kind in KINDS:
            found = sorted((self.root / kind).glob("*"))
            yield from (path for path in found if path.is_dir() and NAME.fullmatch(path.name))


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record in the folder of an artifact, or None if it is not finished.

    Raises UserError if the record is damaged or of another format.
    """
    path = directory / RECORD
    if not path.exists():
        return None
    record = records.read_json(path, remedy=explain_remedy(directory))
    if record.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {record.get('format')}, and this version reads format {FORMAT}: "
            f"use the version that wrote it, or {explain_remedy(directory)}"
        )
    return record


def read_key(directory: Path) -> dict[str, Any]:
    """What the key of an artifact is made of; empty if its folder was not begun. Raises UserError if it is damaged."""
    path = directory / KEY
    if not path.exists():
        return {}
    return records.read_json(path, remedy=explain_remedy(directory)).get("content", {})


def explain_remedy(directory: Path) -> str:
    """Says how to make a damaged artifact again, as the end of a sentence."""
    command = f"python -m aiseeme_jax store remove {shlex.quote(str(directory))}"
    return f"`{command}` removes it, and the next run makes it again"


def remove(directory: Path) -> None:
    """Deletes the folder of an artifact. The record goes first, so that a half-deleted artifact is not finished.

    Raises UserError for a link, and DiskError if the folder belongs to somebody else.
    """
    if directory.is_symlink():
        raise UserError(f"{directory} is a link: remove what it leads to, {directory.resolve()}, and then the link")
    try:
        (directory / RECORD).unlink(missing_ok=True)
        shutil.rmtree(directory)
    except OSError as error:
        raise DiskError(f"{directory} cannot be deleted: {error.strerror}") from error


def check_layout(workdir: Path) -> None:
    """Raises UserError for a workdir of version 0.1."""
    try:
        old = [name for name in OLD if (workdir / name).exists()]
    except OSError as error:
        raise DiskError(f"{workdir} cannot be read: {error.strerror}") from error
    old += [str(path.relative_to(workdir)) for path in sorted(workdir.glob("stages/*/done.json"))[:1]]
    if old:
        raise UserError(
            f"{workdir} was made by version 0.1 of this program, and this version cannot continue it (it contains "
            f"{', '.join(old)}). Use another --workdir. A backbone of the old one can be the start of a new run: "
            "--config.init=WORKDIR/stages/NN-TASK/backbone.safetensors"
        )
