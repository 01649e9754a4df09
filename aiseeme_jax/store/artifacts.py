"""Artifacts: what a piece of work left, in a folder that is found by its key.

    STORE/stages/00-rotation-3f9a2c41d0e7/key.json       what the key is the hash of
                                          record.json    what came out; written last
                                          …              what the piece of work itself leaves

No record: the work is not finished, and whoever does it goes on in the folder. A record: it is finished, and nothing
in the folder changes any more. The name of a folder says first what it is; only the key after it matters.
"""

import dataclasses
import functools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import records
from aiseeme_jax.store.keys import make_key, shorten, to_json

RECORD = "record.json"
KEY = "key.json"
# Raised when the layout of a folder or the meaning of a record changes.
FORMAT = 1
# The folders of a store, one for each kind of work.
STAGES, FISHER, MEASUREMENTS = KINDS = ("stages", "fisher", "measurements")
# What versions before the store left in a workdir.
OLD = ("arms", "targets", "done.json", "data.json", "before")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A piece of work, as a plan knows it before anything is done.

    Attributes:
      kind: one of KINDS.
      label: what it is, for a reader: '00-rotation'.
      content: JSON values of everything that the outcome depends on.
    """

    kind: str
    label: str
    content: Mapping[str, Any] = dataclasses.field(compare=False)

    @functools.cached_property
    def key(self) -> str:
        return make_key({"kind": self.kind, **self.content})

    @property
    def name(self) -> str:
        """Of its folder, if this plan is the first to want it."""
        return f"{self.label}-{shorten(self.key)}"


class Store:
    """The folder in which artifacts lie."""

    def __init__(self, root: Path):
        self.root = root

    def directory(self, artifact: Artifact) -> Path:
        """The folder of an artifact, which need not exist. Another plan may have made it under another label."""
        found = self.find(artifact.kind, shorten(artifact.key))
        return found or self.root / artifact.kind / artifact.name

    def find(self, kind: str, short_key: str) -> Path | None:
        """The folder of a kind whose name ends with a key."""
        return next(iter(sorted((self.root / kind).glob(f"*-{short_key}"))), None)

    def begin(self, artifact: Artifact) -> Path:
        """Makes the folder of an artifact, if it is not there, notes what its key is made of, and returns it."""
        directory = self.directory(artifact)
        if not (directory / KEY).exists():
            content = {"key": artifact.key, "kind": artifact.kind, "content": to_json(artifact.content)}
            records.write_json(directory / KEY, content)
        return directory

    def finish(self, artifact: Artifact, record: Mapping[str, Any]) -> None:
        """Writes the record, which says that the artifact is whole."""
        whole = {"format": FORMAT, "key": artifact.key, **record}
        records.write_json(self.directory(artifact) / RECORD, whole)

    def record(self, artifact: Artifact) -> dict[str, Any] | None:
        """The record of a finished artifact, None while it is not finished.

        Raises UserError for a damaged record, or one of another format or another piece of work.
        """
        directory = self.directory(artifact)
        record = read_record(directory)
        if record is not None and record["key"] != artifact.key:
            raise UserError(f"{directory} holds another piece of work than its name says; {remedy(directory)}")
        return record

    def folders(self) -> Iterator[Path]:
        """Every folder of an artifact, finished or not."""
        for kind in KINDS:
            yield from sorted(path for path in (self.root / kind).glob("*") if path.is_dir())


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record in the folder of an artifact, None if it is not finished.

    Raises UserError for a record that is damaged or of another format.
    """
    path = directory / RECORD
    if not path.exists():
        return None
    record = records.read_json(path, remedy=remedy(directory))
    if record.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {record.get('format')}, and this version reads format {FORMAT}: "
            f"go on with the version that wrote it, or {remedy(directory)}"
        )
    return record


def remedy(directory: Path) -> str:
    """How to do the work of a damaged folder again."""
    return f"`python -m aiseeme_jax store remove {directory}` removes it, and the next run makes it again"


def remove(directory: Path) -> None:
    """Deletes the folder of an artifact: the record first, so that a half-deleted one counts as not finished."""
    (directory / RECORD).unlink(missing_ok=True)
    shutil.rmtree(directory)


def check_layout(workdir: Path) -> None:
    """Raises UserError for a workdir that a version without a store left."""
    old = [name for name in OLD if (workdir / name).exists()]
    old += [str(path.relative_to(workdir)) for path in sorted(workdir.glob("stages/*/done.json"))[:1]]
    if old:
        raise UserError(
            f"{workdir} was made by version 0.1 of this program, whose results this version cannot go on with (it "
            f"holds {', '.join(old)}). Use another --workdir; a backbone of the old one can still be the start of a "
            "config: --config.init=WORKDIR/stages/NN-TASK/backbone.safetensors"
        )
