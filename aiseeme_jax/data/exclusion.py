"""Keeps images that a target is measured on out of pretraining."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from aiseeme_jax.data.mixtures import Mixture
from aiseeme_jax.data.splits import Split
from aiseeme_jax.errors import MissingFile, UserError
from tfds_builders.common.spelling import fold

log = logging.getLogger(__name__)

# ISIC 2019 names an image of an earlier year that it shrank by the old name and this.
SHRUNK = "_downsampled"
# The first cell of a line, in quotation marks (two stand for one inside) or not.
FIRST_CELL = re.compile(r' *(?:"((?:[^"]|"")*)"|([^,;\t]*))')
HELD_OUT = ("validation", "test")


def without(split: Split, files: Sequence[str]) -> Split:
    """The split less the images that `files` list by their own id, their group's or their series'.

    So images that a later year's data set shares with an earlier year's test set are kept out of pretraining. Ids count
    without the suffix `SHRUNK`; one that is not in the split is passed over.

    Args:
      files: text or CSV; each line is an id, or has one in its first column.

    Raises MissingFile for a file that is not there, UserError for one that is not text, or if no image is left.
    """
    lines = [reading for file in files for reading in listed_ids(file)]
    # An id may hold a comma: the first column of a line counts where the line as a whole is no id.
    wholes = {whole for whole, _ in lines}
    known = {bare for names in split.names_of_rows() for name in names if (bare := _bare(name)) in wholes}
    listed = {whole if whole in known else first for whole, first in lines} - {""}
    out = (any(_bare(name) in listed for name in names) for names in split.names_of_rows())
    kept = np.flatnonzero(~np.fromiter(out, bool, len(split)))
    if not len(kept):
        raise UserError(f"data.exclude lists every image of {split.name}: none is left to be trained on")
    excluded = len(split) - len(kept)
    log.info("%s: %d of %d images are left out, as listed in %s", split.name, excluded, len(split), ", ".join(files))
    return dataclasses.replace(split.subset(kept), excluded=excluded)


def _bare(name: str) -> str:
    return name.removesuffix(SHRUNK)


def listed_ids(file: str) -> list[tuple[str, str]]:
    """The lines of a text or CSV file that are not blank, each as a whole and its first column, as ids."""
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise MissingFile(f"data.exclude: no file at '{file}'") from None
    except IsADirectoryError:
        raise UserError(f"data.exclude: '{file}' is a folder; name a file of ids") from None
    except UnicodeDecodeError:
        raise UserError(f"data.exclude: '{file}' is no text file; it must have an image id on each line") from None
    readings = ((line.strip(" "), first_cell(line)) for line in lines)
    return [(_bare(whole), _bare(first)) for whole, first in readings if whole]


def first_cell(line: str) -> str:
    """Of a line of a table with commas, semicolons or tabs."""
    quoted, plain = FIRST_CELL.match(line).groups()
    return (plain if quoted is None else quoted.replace('""', '"')).strip()


@dataclasses.dataclass(frozen=True)
class SharedNames:
    """What a pretraining split has in common with a split of another data set on which a target is measured.

    Attributes:
      pretraining, target: names of the splits.
      ids: of images that both have.
      groups: names of lesions or patients, or UIDs of CT series, that both have.
    """

    pretraining: str
    target: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]


def shared_groups(pretraining: Split, targets: Mapping[str, Split]) -> list[SharedNames]:
    """Finds ids and groups of a pretraining split in the validation and test images of a target's data set.

    Nothing is compared within one data set, whose splits its builder keeps apart, and no ids or groups that were made
    from the order of the images. Of a mixture every set is compared. Ids count without the suffix `SHRUNK`;
    names that look alike, such as P-1 and p-1, are the same.

    Args:
      pretraining: one split, or a mixture.
      targets: the target's splits by their names, 'train', 'validation' and 'test'; of these the last two are compared.

    Returns one entry for each pair of splits that have something in common.
    """
    parts = pretraining.sets.values() if isinstance(pretraining, Mixture) else [pretraining]
    held_out = [targets[name] for name in HELD_OUT if name in targets]
    found = (_compared(part, target) for part in parts for target in held_out if _dataset(part) != _dataset(target))
    return [shared for shared in found if shared.ids or shared.groups]


def _dataset(split: Split) -> str:
    """The data set without config, size and split: 'isic2019' of 'isic2019/64:train'."""
    return re.split(r"[/@:]", split.name, maxsplit=1)[0]


def _compared(one: Split, other: Split) -> SharedNames:
    return SharedNames(
        one.name, other.name, _find_shared(_ids(one), _ids(other)), _find_shared(_groups(one), _groups(other))
    )


def _find_shared(names: set[str], others: set[str]) -> tuple[str, ...]:
    """Those of the names that look like one of the others, such as P-1 and p-1."""
    looks = set(map(fold, others))
    return tuple(sorted(name for name in names if fold(name) in looks))


def _ids(split: Split) -> set[str]:
    return {_bare(i) for i in split.ids.tolist()} if split.own_ids else set()


def _groups(split: Split) -> set[str]:
    groups = set(np.unique(split.groups).tolist()) if split.own_groups else set()
    further = {name for group in groups for name in split.other_names.get(group, ())}
    series = set() if split.series is None else set(np.unique(split.series).tolist())
    return (groups | further | series) - {""}
