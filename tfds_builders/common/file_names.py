"""Files below a folder by the names that a table gives them, whichever way the system spells them."""

import os
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath

from tfds_builders.common.spelling import fold


class FileNames:
    """Finds files below a folder. A listing is read only where a name is not found as it is.

    Args:
      folder: what names, with '/', are relative to.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        # Of each folder listed, the names in it by how they look.
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """The name itself, or the only one that differs in Unicode's forms alone, if there is such a file."""
        if (self._folder / name).is_file():
            return name
        composed = unicodedata.normalize("NFC", name)
        same = [other for other in self.find_alike(name) if unicodedata.normalize("NFC", other) == composed]
        return same[0] if len(same) == 1 else None

    def find_alike(self, name: str) -> list[str]:
        """The files whose names look like this one, folders included, in order."""
        found = [""]
        for part in PurePosixPath(name).parts:
            found = [f"{parent}{other}/" for parent in found for other in self._list(parent).get(fold(part), ())]
        return sorted(other[:-1] for other in found if (self._folder / other[:-1]).is_file())

    def _list(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listings:
            names = defaultdict(list)
            path = self._folder / folder
            for name in os.listdir(path) if path.is_dir() else ():
                names[fold(name)].append(name)
            self._listings[folder] = names
        return self._listings[folder]
