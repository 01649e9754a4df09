"""Tests which concepts the features of networks bring together (iEAT), on folders of images.

    python -m aiseeme_jax bias FOLDER --backbone runs/isic resnet50.safetensors --endpoint pooled stage4

FOLDER has a sub-folder of images (JPEG or PNG) for each concept, and tests.csv with the columns name, x, y, a, b: are
the images of x nearer to those of a, and y to b? Cells are names of sub-folders. Raw pixels and colour histograms stand
beside the networks: what they bring together too is no matter of what a network has learnt. It writes bias.csv into
FOLDER, or to --out.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from aiseeme_jax import augment, data, weights
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate.features import DEFAULT_ENDPOINT
from aiseeme_jax.evaluate.results import write_table
from aiseeme_jax.evidence import bias
from aiseeme_jax.evidence.networks import PIXELS, flatten_layers

TESTS, FILE = "tests.csv", "bias.csv"
COLUMNS = ("name", "x", "y", "a", "b")
ENDINGS = (".jpg", ".jpeg", ".png")
HISTOGRAM = "colour histogram"
# Bins of each channel: 8 x 8 x 8 colours.
BINS = 8
# P-values are counted below these.
LEVELS = (0.05, 0.01, 0.001)

Features = Mapping[str, Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Test:
    """A line of tests.csv: names of sub-folders."""

    name: str
    x: str
    y: str
    a: str
    b: str


@dataclass(frozen=True)
class BiasRow:
    """A line of bias.csv. The corrections are over the tests of one layer of one network, on two-sided p-values."""

    network: str
    endpoint: str
    test: str
    targets: int
    effect_size: float
    p_one_sided: float
    p_two_sided: float
    p_holm: float
    p_false_discovery: float
    smallest_p: float


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax bias", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", nargs="+", required=True, type=Path, help="workdirs, stages' folders or files")
    parser.add_argument("--endpoint", nargs="+", default=[DEFAULT_ENDPOINT], help="layers, whose maps are flattened")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (224)")
    parser.add_argument("--preset", default="natural", help="of views, for mean and deviation of pixels (natural)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the partitions that are drawn")
    parser.add_argument("--out", type=Path, help="file of the results; by default bias.csv in the folder")
    options = parser.parse_args(arguments)
    if options.preset not in augment.PRESETS or options.size < 1:
        raise UserError(f"--preset is one of {', '.join(augment.PRESETS)}, and --size at least 1")
    tests = read_tests(options.folder)
    names = list(dict.fromkeys(getattr(test, side) for test in tests for side in "xyab"))
    images = {name: read_images(options.folder / name, options.size) for name in names}
    check_sizes(tests, images)
    views = augment.make_views(options.preset, options.size)
    backbones = {str(path): weights.load_backbone(path)[0] for path in options.backbone}
    rows: list[BiasRow] = []
    for network, endpoint, features in embed(images, backbones, options.endpoint, views, options.batch):
        rows += run_tests(tests, features, network, endpoint, options.seed)
    out = options.out or options.folder / FILE
    measured = [name for name, kind in BiasRow.__annotations__.items() if kind is float]
    write_table(out, BiasRow, rows, measured=measured)
    print("\n".join(summarise(rows)))
    print(f"\n{out}")


def read_tests(folder: Path) -> list[Test]:
    """The tests of a folder. Raises MissingFile if it or tests.csv is not there, UserError for what is wrong in it."""
    path = folder / TESTS
    if not path.exists():
        raise MissingFile(f"there is no {path}: write one with the columns {', '.join(COLUMNS)}, a test a line")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise UserError(f"{path} lacks the column '{lacking[0]}': it needs {', '.join(COLUMNS)}")
        tests = []
        for number, line in enumerate(reader, start=2):
            cells = {name: (line[name] or "").strip() for name in COLUMNS}
            for side in "xyab":
                if not cells[side] or not (folder / cells[side]).is_dir():
                    raise UserError(f"{path}, line {number}: '{cells[side]}' ({side}) is no sub-folder of {folder}")
            tests.append(Test(**cells))
    if not tests:
        raise UserError(f"{path} has no test")
    return tests


def read_images(folder: Path, size: int) -> UInt8[np.ndarray, "n size size 3"]:
    """The central squares of all images of a folder, in the order of their names.

    Raises UserError if there are none, or one cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not files:
        raise UserError(f"'{folder}' has no images: their names end in {', '.join(ENDINGS)}")
    return np.stack([_read_square(path, size) for path in files])


def check_sizes(tests: Sequence[Test], images: Mapping[str, np.ndarray]) -> None:
    """Raises UserError unless x and y of every test have as many images, at least 2."""
    for test in tests:
        counts = len(images[test.x]), len(images[test.y])
        if counts[0] != counts[1] or counts[0] < 2:
            raise UserError(
                f"test '{test.name}': x '{test.x}' has {counts[0]} images and y '{test.y}' {counts[1]}: it needs as "
                "many of each, at least 2"
            )


def embed(
    images: Mapping[str, np.ndarray],
    backbones: Mapping[str, object],
    endpoints: Sequence[str],
    views: augment.AnyViews,
    batch: int,
) -> Iterator[tuple[str, str, Features]]:
    """Network, layer, and the features of each concept: of the networks, and of raw pixels and colour histograms."""
    for network, backbone in backbones.items():
        made = {
            name: flatten_layers(backbone, data.from_arrays(rows), views=views, batch_size=batch)
            for name, rows in images.items()
        }
        known = list(next(iter(made.values())))
        for endpoint in endpoints:
            if endpoint not in known:
                raise UserError(f"{network} has no endpoint '{endpoint}': there are {', '.join(known)}")
            yield network, endpoint, {name: layers[endpoint] for name, layers in made.items()}
    # As cosines of features do, those of pixels need an origin: mid-grey.
    yield PIXELS, PIXELS, {name: rows.reshape(len(rows), -1) / 127.5 - 1 for name, rows in images.items()}
    yield HISTOGRAM, HISTOGRAM, {name: np.stack([_count_colours(one) for one in rows]) for name, rows in images.items()}


def run_tests(tests: Sequence[Test], features: Features, network: str, endpoint: str, seed: int) -> list[BiasRow]:
    """All tests of one layer, with their corrections. Raises UserError if an image has features of 0."""
    try:
        found = [bias.associate(*(features[getattr(test, side)] for side in "xyab"), seed=seed) for test in tests]
    except ValueError as error:
        raise UserError(f"{network}, {endpoint}: {error}") from None
    two_sided = [one.p_two_sided for one in found]
    holm, discovery = bias.adjust_holm(two_sided), bias.adjust_false_discovery(two_sided)
    return [
        BiasRow(
            network,
            endpoint,
            test.name,
            len(features[test.x]),
            one.effect_size,
            one.p_value,
            one.p_two_sided,
            float(holm[place]),
            float(discovery[place]),
            1 / (one.partitions + (not one.exact)),
        )
        for place, (test, one) in enumerate(zip(tests, found, strict=True))
    ]


def summarise(rows: Sequence[BiasRow]) -> Iterator[str]:
    """Lines for the terminal: the tests of each layer, and how many are below usual levels."""
    layers = list(dict.fromkeys((row.network, row.endpoint) for row in rows))
    width = max(len(row.test) for row in rows)
    for network, endpoint in layers:
        own = [row for row in rows if (row.network, row.endpoint) == (network, endpoint)]
        yield network if network == endpoint else f"{network}, {endpoint}"
        yield f"    {'':<{width}}{'targets':>9}{'d':>8}{'p':>9}{'2-sided':>9}{'Holm':>9}"
        for row in own:
            effect = "–" if np.isnan(row.effect_size) else f"{row.effect_size:.2f}"
            numbers = "".join(f"{p:>9.4f}" for p in (row.p_one_sided, row.p_two_sided, row.p_holm))
            yield f"    {row.test:<{width}}{row.targets:>9}{effect:>8}{numbers}"
        counts = bias.count_below([row.p_two_sided for row in own], LEVELS)
        below = ", ".join(f"{count} below {level:g}" for count, level in zip(counts, LEVELS, strict=True))
        yield f"    of {len(own)} two-sided p-values {below}"
    yield "What raw pixels and colour histograms bring together too is no matter of what a network has learnt."
    yield "A test of few targets cannot reach a small p: 4 on each side .014 (two-sided .029), 6 .0011 (.0022)."


def _read_square(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side)))


def _count_colours(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "bins"]:
    """Shares of the pixels in 8 x 8 x 8 boxes of colour."""
    boxes = (image.astype(int) * BINS // 256).reshape(-1, 3) @ [BINS**2, BINS, 1]
    return np.bincount(boxes, minlength=BINS**3) / len(boxes)
