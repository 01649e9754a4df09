"""Tests which concepts the features of networks bring together (iEAT).

    python -m aiseeme_jax bias FOLDER --backbone runs/isic resnet50.safetensors --endpoint pooled stage4
    python -m aiseeme_jax bias FOLDER --data isic2019/64 --backbone runs/isic --size 48 --preset dermoscopy
    python -m aiseeme_jax bias FOLDER --backbone runs/*/stages/* --compare '*simclr*' '*rotation*'

FOLDER has tests.csv with the columns name, x, y, a, b: are the images of x nearer to those of a, and y to b? Cells are
names of sub-folders of images (JPEG or PNG); with --data conditions on the images of a data set, such as sex=female or
label=MEL. Raw pixels and colour histograms stand beside the networks: what they bring together too is no matter of what
a network has learnt. It writes bias.csv into FOLDER, or to --out, and with --compare bias_groups.csv beside it.
"""

import argparse
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from aiseeme_jax import augment, data, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.features import DEFAULT_ENDPOINT
from aiseeme_jax.evaluate.results import write_table
from aiseeme_jax.evidence import bias
from aiseeme_jax.evidence.networks import PIXELS, flatten_layers
from aiseeme_jax.jobs.bias_material import Material, Test, draw_from_split, read_folders, read_tests

FILE, GROUPS_FILE = "bias.csv", "bias_groups.csv"
HISTOGRAM = "colour histogram"
# Bins of each channel: 8 x 8 x 8 colours.
BINS = 8
# P-values are counted below these.
LEVELS = (0.05, 0.01, 0.001)


@dataclass(frozen=True)
class BiasRow:
    """A line of bias.csv. The corrections are over the tests of one layer of one network, on two-sided p-values.

    Attributes:
      targets_x, targets_y: images.
      units_x, units_y: what changes sides in a partition: patients or lesions, or images where these are not known.
    """

    network: str
    endpoint: str
    test: str
    targets_x: int
    targets_y: int
    units_x: int
    units_y: int
    effect_size: float
    p_one_sided: float
    p_two_sided: float
    p_holm: float
    p_false_discovery: float
    smallest_p: float


@dataclass(frozen=True)
class GroupsRow:
    """A line of bias_groups.csv: two groups of networks, by how many of their tests are below a level.

    Attributes:
      mean, mean_other: tests below the level, a mean over the networks of each group.
      p_more, p_fewer: one-sided, that the first group has more, or fewer.
    """

    endpoint: str
    group: str
    other: str
    networks: int
    networks_other: int
    tests: int
    level: float
    mean: float
    mean_other: float
    p_more: float
    p_fewer: float


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    options = parse(arguments)
    tests = read_tests(options.folder)
    views = augment.make_views(options.preset, options.size)
    backbones = {str(path): weights.load_backbone(path)[0] for path in options.backbone}
    material = read_material(options, tests, views, backbones)
    rows: list[BiasRow] = []
    for network, endpoint, features in embed(material.images, backbones, options.endpoint, views, options.batch):
        rows += run_tests(tests, material, features, network, endpoint, options.seed)
    compared = list(compare(rows, *options.compare, options.seed)) if options.compare else []
    out = options.out or options.folder / FILE
    write_table(out, BiasRow, rows, measured=[name for name, kind in BiasRow.__annotations__.items() if kind is float])
    print("\n".join(summarise(rows)))
    print("\n".join(map(describe_groups, compared)))
    print(f"\n{out}")
    if compared:
        numbers = [name for name, kind in GroupsRow.__annotations__.items() if kind is float]
        write_table(out.with_name(GROUPS_FILE), GroupsRow, compared, measured=numbers)
        print(out.with_name(GROUPS_FILE))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax bias", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", nargs="+", required=True, type=Path, help="workdirs, stages' folders or files")
    parser.add_argument("--endpoint", nargs="+", default=[DEFAULT_ENDPOINT], help="layers, whose maps are flattened")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (224)")
    parser.add_argument("--preset", default="natural", help="of views, for mean and deviation of pixels (natural)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the images and the partitions that are drawn")
    parser.add_argument("--data", help="a data set, whose images meet the conditions in tests.csv")
    parser.add_argument("--data_dir", default="data", help="folder of the prepared data sets (data)")
    parser.add_argument("--split", default="test", help="of the data set (test)")
    parser.add_argument("--images", type=int, default=200, help="at most so many of each side of a test (200)")
    parser.add_argument("--compare", nargs=2, metavar="PATTERN", help="two groups of networks, by their names")
    parser.add_argument("--out", type=Path, help="file of the results; by default bias.csv in the folder")
    options = parser.parse_args(arguments)
    if options.preset not in augment.PRESETS or options.size < 1 or options.images < 2:
        raise UserError(
            f"--preset is one of {', '.join(augment.PRESETS)}, --size is at least 1, and --images at least 2"
        )
    return options


def read_material(
    options: argparse.Namespace, tests: Sequence[Test], views: augment.AnyViews, backbones: Mapping[str, nnx.Module]
) -> Material:
    """The images of all tests. Raises UserError for a data set of other images than networks and views take."""
    if options.data is None:
        return read_folders(options.folder, tests, options.size)
    split = data.each_picture(data.open_split(options.data, options.split, options.data_dir))
    for backbone in backbones.values():
        data.check_model(split, SimpleNamespace(**backbone.config))
    data.check_views(split, views)
    if views.dimensions != 2:
        raise UserError("associations are tested of images, and this data set has volumes")
    return draw_from_split(split, tests, options.images, options.seed)


def embed(
    images: UInt8[np.ndarray, "n h w c"],
    backbones: Mapping[str, nnx.Module],
    endpoints: Sequence[str],
    views: augment.AnyViews,
    batch: int,
) -> Iterator[tuple[str, str, Float[np.ndarray, "n d"]]]:
    """Network, layer, and the features of all images: of the networks, and of raw pixels and colour histograms."""
    for network, backbone in backbones.items():
        made = flatten_layers(backbone, data.from_arrays(images), views=views, batch_size=batch)
        for endpoint in endpoints:
            if endpoint not in made:
                raise UserError(f"{network} has no endpoint '{endpoint}': there are {', '.join(made)}")
            yield network, endpoint, made[endpoint]
    # As cosines of features do, those of pixels need an origin: mid-grey.
    yield PIXELS, PIXELS, images.reshape(len(images), -1) / 127.5 - 1
    yield HISTOGRAM, HISTOGRAM, np.stack([_count_colours(one) for one in images])


def run_tests(
    tests: Sequence[Test],
    material: Material,
    features: Float[np.ndarray, "n d"],
    network: str,
    endpoint: str,
    seed: int,
) -> list[BiasRow]:
    """All tests of one layer, with their corrections. Raises UserError if an image has features of 0."""
    found = []
    for test in tests:
        rows = material.sets[test.name]
        try:
            sides = [features[rows[side]] for side in "xyab"]
            found.append(bias.associate(*sides, seed=seed, groups=material.groups_of(test)))
        except ValueError as error:
            raise UserError(f"{network}, {endpoint}, test '{test.name}': {error}") from None
    two_sided = [one.p_two_sided for one in found]
    holm, discovery = bias.adjust_holm(two_sided), bias.adjust_false_discovery(two_sided)
    return [
        BiasRow(
            network,
            endpoint,
            test.name,
            *(len(material.sets[test.name][side]) for side in "xy"),
            *one.units,
            one.effect_size,
            one.p_value,
            one.p_two_sided,
            float(holm[place]),
            float(discovery[place]),
            1 / (one.partitions + (not one.exact)),
        )
        for place, (test, one) in enumerate(zip(tests, found, strict=True))
    ]


def compare(rows: Sequence[BiasRow], one: str, other: str, seed: int) -> Iterator[GroupsRow]:
    """Two groups of networks at each layer, by how many of their tests are below each level.

    Raises UserError for a pattern that names no network, and for a network that both name.
    """
    names = list(dict.fromkeys(row.network for row in rows if row.network not in (PIXELS, HISTOGRAM)))
    members = [fnmatch.filter(names, pattern) for pattern in (one, other)]
    for pattern, found in zip((one, other), members, strict=True):
        if not found:
            raise UserError(f"--compare: no network '{pattern}': there are {', '.join(names)}")
    if both := set(members[0]) & set(members[1]):
        raise UserError(f"--compare: '{one}' and '{other}' both name {sorted(both)[0]}")
    for endpoint in dict.fromkeys(row.endpoint for row in rows if row.network in names):
        p_of = {
            name: [row.p_two_sided for row in rows if (row.network, row.endpoint) == (name, endpoint)] for name in names
        }
        for place, level in enumerate(LEVELS):
            counts = [[bias.count_below(p_of[name], LEVELS)[place] for name in found] for found in members]
            p_more, p_fewer = (bias.compare_groups(*pair, seed=seed)[1] for pair in (counts, counts[::-1]))
            means = [float(np.mean(count)) for count in counts]
            sizes = map(len, members)
            yield GroupsRow(endpoint, one, other, *sizes, len(p_of[names[0]]), level, *means, p_more, p_fewer)


def describe_groups(row: GroupsRow) -> str:
    """A line for the terminal."""
    return (
        f"{row.endpoint}: of {row.tests} tests below {row.level:g}: {row.mean:.1f} in {row.networks} networks "
        f"{row.group}, {row.mean_other:.1f} in {row.networks_other} {row.other}; p {row.p_more:.4f} for more, "
        f"{row.p_fewer:.4f} for fewer"
    )


def summarise(rows: Sequence[BiasRow]) -> Iterator[str]:
    """Lines for the terminal: the tests of each layer, and how many are below usual levels."""
    layers = list(dict.fromkeys((row.network, row.endpoint) for row in rows))
    width = max(len(row.test) for row in rows)
    for network, endpoint in layers:
        own = [row for row in rows if (row.network, row.endpoint) == (network, endpoint)]
        yield network if network == endpoint else f"{network}, {endpoint}"
        yield f"    {'':<{width}}{'x, y':>9}{'d':>8}{'p':>9}{'2-sided':>9}{'Holm':>9}"
        for row in own:
            effect = "–" if np.isnan(row.effect_size) else f"{row.effect_size:.2f}"
            numbers = "".join(f"{p:>9.4f}" for p in (row.p_one_sided, row.p_two_sided, row.p_holm))
            sizes = f"{row.units_x}, {row.units_y}"
            yield f"    {row.test:<{width}}{sizes:>9}{effect:>8}{numbers}"
        counts = bias.count_below([row.p_two_sided for row in own], LEVELS)
        below = ", ".join(f"{count} below {level:g}" for count, level in zip(counts, LEVELS, strict=True))
        yield f"    of {len(own)} two-sided p-values {below}"
    yield "What raw pixels and colour histograms bring together too is no matter of what a network has learnt."
    yield "A test of few targets cannot reach a small p: 4 on each side .014 (two-sided .029), 6 .0011 (.0022)."


def _count_colours(image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "bins"]:
    """Shares of the pixels in 8 x 8 x 8 boxes of colour; grey has equal red, green and blue."""
    colours = np.broadcast_to(image, (*image.shape[:2], 3)).astype(int)
    boxes = (colours * BINS // 256).reshape(-1, 3) @ [BINS**2, BINS, 1]
    return np.bincount(boxes, minlength=BINS**3) / len(boxes)
