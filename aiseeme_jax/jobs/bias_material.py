"""The images of the command `bias`: sub-folders of a folder, or images of a data set that meet conditions."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from aiseeme_jax import data
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evidence.subgroups import name_subgroups

TESTS, GROUPS = "tests.csv", "groups.csv"
COLUMNS = ("name", "x", "y", "a", "b")
ENDINGS = (".jpg", ".jpeg", ".png")
SIDES = "xyab"
# Stands for the class or finding in a condition, as in 'label=MEL'.
LABEL = "label"


@dataclass(frozen=True)
class Test:
    """A line of tests.csv: names of sub-folders, or conditions."""

    name: str
    x: str
    y: str
    a: str
    b: str


@dataclass(frozen=True)
class Material:
    """Images, and those of them that each test takes.

    Attributes:
      images: [N, H, W, 3 or 1].
      groups: patient or lesion of each; None if all are independent.
      sets: of each test, by its name and side, rows of images.
    """

    images: UInt8[np.ndarray, "n h w c"]
    groups: Sequence[str] | None
    sets: Mapping[str, Mapping[str, Int[np.ndarray, " k"]]]

    def groups_of(self, test: Test) -> tuple[Sequence[str], Sequence[str]] | None:
        """Groups of the targets x and y."""
        if self.groups is None:
            return None
        return tuple(np.asarray(self.groups)[self.sets[test.name][side]] for side in "xy")


def read_tests(folder: Path) -> list[Test]:
    """The tests of a folder. Raises MissingFile if it or tests.csv is not there, UserError for what is wrong in it."""
    path = folder / TESTS
    lines = _read_lines(path, COLUMNS, f"write one with the columns {', '.join(COLUMNS)}, a test a line")
    tests = []
    for number, cells in lines:
        for side in SIDES:
            if not cells[side]:
                raise UserError(f"{path}, line {number}: '' ({side}) is no sub-folder of {folder}, and no condition")
        tests.append(Test(**cells))
    names = [test.name for test in tests]
    if not tests:
        raise UserError(f"{path} has no test")
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two tests of one name: give each its own")
    return tests


def _read_lines(path: Path, columns: Sequence[str], remedy: str) -> list[tuple[int, dict[str, str]]]:
    """Number and cells of each line of a table. Raises MissingFile, or UserError if it lacks a column."""
    if not path.exists():
        raise MissingFile(f"there is no {path}: {remedy}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in columns if name not in (reader.fieldnames or ())]
        if lacking:
            raise UserError(f"{path} lacks the column '{lacking[0]}': it needs {', '.join(columns)}")
        return [(i, {name: (line[name] or "").strip() for name in columns}) for i, line in enumerate(reader, start=2)]


def read_folders(folder: Path, tests: Sequence[Test], size: int) -> Material:
    """The images of the sub-folders that tests name, and their groups from groups.csv, if it is there.

    Raises UserError for a sub-folder that is not there, an image that cannot be read, and targets x and y of different
    number without groups.
    """
    names = list(dict.fromkeys(getattr(test, side) for test in tests for side in SIDES))
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        test, side = next((test, side) for test in tests for side in SIDES if getattr(test, side) == missing[0])
        raise UserError(f"{folder / TESTS}, test '{test.name}': '{missing[0]}' ({side}) is no sub-folder of {folder}")
    files = {name: _list_images(folder / name) for name in names}
    groups = _read_groups(folder, files) if (folder / GROUPS).exists() else None
    starts = np.cumsum([0, *(len(found) for found in files.values())])
    rows = {name: np.arange(start, start + len(files[name])) for name, start in zip(files, starts, strict=False)}
    sets = {test.name: {side: rows[getattr(test, side)] for side in SIDES} for test in tests}
    if groups is None:
        _check_sizes(tests, sets)
    images = np.stack([_read_square(path, size) for found in files.values() for path in found])
    return Material(images, groups, sets)


def _read_groups(folder: Path, files: Mapping[str, Sequence[Path]]) -> list[str]:
    """The group of each image; one that the table does not name is its own."""
    lines = _read_lines(folder / GROUPS, ("file", "group"), "")
    known = {cells["file"]: cells["group"] for _, cells in lines}
    paths = [f"{name}/{path.name}" for name, found in files.items() for path in found]
    strange = [name for name in known if name not in paths]
    if strange:
        raise UserError(f"{folder / GROUPS} names '{strange[0]}', which is no image of a test: write SUB-FOLDER/NAME")
    return [known.get(path) or path for path in paths]


def _check_sizes(tests: Sequence[Test], sets: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Raises UserError unless x and y of every test have as many images, at least 2."""
    for test in tests:
        counts = [len(sets[test.name][side]) for side in "xy"]
        if counts[0] != counts[1] or counts[0] < 2:
            raise UserError(
                f"test '{test.name}': x '{test.x}' has {counts[0]} images and y '{test.y}' {counts[1]}: it needs as "
                f"many of each, at least 2, or a {GROUPS} that says which images are of one patient"
            )


def _list_images(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not files:
        raise UserError(f"'{folder}' has no images: their names end in {', '.join(ENDINGS)}")
    return files


def _read_square(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The central square of an image."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side)))


def draw_from_split(split: data.Split, tests: Sequence[Test], count: int, seed: int) -> Material:
    """Draws the images of each side of each test among those of a split that meet its condition.

    One half of the patients or lesions gives targets, the other attributes: no image stands on both, and no patient.
    An image that meets the conditions of x and of y is left out, and one of a and of b.

    Args:
      count: at most so many images of a side.

    Raises UserError for a condition that cannot be read or that fewer than two patients meet.
    """
    generator = np.random.default_rng(seed)
    group_of = list(map(str, split.groups.tolist()))
    names = sorted(set(group_of))
    targets = {names[place] for place in generator.permutation(len(names))[: (len(names) + 1) // 2]}
    of_target = np.array([group in targets for group in group_of])
    chosen: dict[str, dict[str, np.ndarray]] = {}
    for test in tests:
        chosen[test.name] = {}
        for pair, half in (("xy", of_target), ("ab", ~of_target)):
            met = [find_rows(split, getattr(test, side)) for side in pair]
            for side, own, other in zip(pair, met, met[::-1], strict=True):
                rows = np.flatnonzero(own & ~other & half)
                groups = len({group_of[row] for row in rows})
                if groups < 2:
                    raise UserError(
                        f"test '{test.name}': {groups} patients or lesions of half of {split.name} meet "
                        f"'{getattr(test, side)}' ({side}) alone; it needs at least 2"
                    )
                chosen[test.name][side] = np.sort(generator.permutation(rows)[:count])
    used = np.unique(np.concatenate([rows for sides in chosen.values() for rows in sides.values()]))
    sets = {name: {side: np.searchsorted(used, rows) for side, rows in sides.items()} for name, sides in chosen.items()}
    return Material(split.read(used), [group_of[row] for row in used], sets)


def find_rows(split: data.Split, condition: str) -> Bool[np.ndarray, " n"]:
    """Which images meet a condition such as 'sex=female', 'label=MEL' or 'sex=female & age=60-79'.

    Raises UserError if it names no attribute, or a value that no image has.
    """
    met = np.ones(len(split), bool)
    for part in condition.split("&"):
        name, equals, value = (text.strip() for text in part.partition("="))
        if not equals:
            raise UserError(f"'{condition}' is no condition: write ATTRIBUTE=VALUE, such as sex=female or {LABEL}=MEL")
        values = _list_values(split, name, condition)
        # Age bands are written with a dash.
        met_here = values.get(value, values.get(value.replace("-", "–")))
        if met_here is None:
            raise UserError(f"'{condition}': {split.name} has no {name} '{value}'; there are {', '.join(values)}")
        met &= met_here
    return met


def _list_values(split: data.Split, name: str, condition: str) -> dict[str, Shaped[np.ndarray, " n"]]:
    """By value of an attribute, the images that have it."""
    if name == LABEL and split.class_names:
        columns = split.labels.T if split.labels.ndim == 2 else np.arange(len(split.class_names))[:, None]
        present = columns == 1 if split.labels.ndim == 2 else columns == split.labels
        return dict(zip(map(str, split.class_names), present, strict=True))
    if name not in split.attributes:
        there = ", ".join([*([LABEL] if split.class_names else []), *sorted(split.attributes)])
        raise UserError(f"'{condition}': {split.name} has no attribute '{name}': there are {there or 'none'}")
    named = np.asarray(name_subgroups(split.attributes[name], name), object)
    return {value: named == value for value in sorted(set(named))}
