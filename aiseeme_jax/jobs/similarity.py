"""Compares what the arms of finished runs have learnt: how similar their backbones are, and how their features lie.

    python -m aiseeme_jax similarity runs/isic
    python -m aiseeme_jax similarity runs/isic runs/isic_seed1 --arms curriculum 'single:*' --measure cka,rsa
    python -m aiseeme_jax similarity runs/search --gains

Test images, one of each lesion or patient, go through the last backbone of every arm, and through networks with random
weights (the floor) beside raw pixels. If two arms differ in nothing but the seed of their pretraining, these are the
ceiling. It writes similarity.csv, geometry.csv and similarity.html into the first workdir, or into --out.
"""

import argparse
import dataclasses
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aiseeme_jax import data
from aiseeme_jax.curriculum.costs import HEADS, Cost
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.features import DEFAULT_ENDPOINT
from aiseeme_jax.evaluate.proxies import draw_images
from aiseeme_jax.evaluate.results import PRETRAINING_COSTS, write_table
from aiseeme_jax.evidence import geometry, networks, pairs, relations
from aiseeme_jax.evidence.networks import PIXELS, Compared
from aiseeme_jax.jobs import arms as arms_of
from aiseeme_jax.report import similarity_page
from aiseeme_jax.report.similarity_page import PAGE
from aiseeme_jax.search import findings, gains

SIMILARITY, GEOMETRY = "similarity.csv", "geometry.csv"
# Characters of a line on the terminal, and of a column of numbers.
WIDTH, COLUMN = 100, 6


@dataclass(frozen=True)
class GeometryRow:
    """A line of geometry.csv: features of a layer, averaged over positions. NaN where it was not measured.

    Attributes:
      pretraining_images and all after it: what the pretraining of the network cost; NaN of random weights.
    """

    network: str
    endpoint: str
    images: int
    dimensions: int
    effective_rank: float
    participation_ratio: float
    twonn: float
    copies: float
    alignment: float
    uniformity: float
    anisotropy: float
    dead_dimensions: float
    pretraining_images: float
    pretraining_device_seconds: float
    pretraining_joules: float


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    options = _parse(arguments)
    measures = _choose_measures(options.measure)
    if options.images < networks.FEWEST:
        raise UserError(f"--images is {options.images}: CKA needs at least {networks.FEWEST}")
    _, config = arms_of.read_workdir(options.workdirs[0])
    arms, missing = arms_of.list_arms(options.workdirs, options.arms)
    name = options.data or config["data"]["name"]
    views = arms_of.find_views(config, name)
    found_gains = _read_gains(options) if options.gains else None
    split = data.each_picture(data.open_split(name, options.split, options.data_dir or config["runtime"]["data_dir"]))
    split = split.subset(draw_images(split, options.images, options.seed))
    backbones = arms_of.load_networks(arms, config)
    layered = _choose_layers(options.layers, list(backbones))
    batch = config["runtime"]["evaluation_batch"]
    compared = networks.compare_networks(backbones, split, views=views, batch_size=batch)
    if "neighbours" in measures and compared.images < relations.NEIGHBOURS + 2:
        raise UserError(
            f"{name}:{options.split} gives {compared.images} images of different lesions or patients, and the measure "
            f"'neighbours' needs {relations.NEIGHBOURS + 2}: leave it out of --measure"
        )
    aligned = {
        label: geometry.alignment(
            *networks.align_views(backbone, split, views=views, batch_size=batch, seed=options.seed)
        )
        for label, backbone in backbones.items()
    }
    rows = pairs.list_cka(compared) + pairs.measure_pairs(compared, measures, seed=options.seed)
    lie = measure_geometry(compared, aligned, {arm.name: arm.cost for arm in arms})
    out = options.out or options.workdirs[0]
    write_table(out / SIMILARITY, pairs.PairRow, rows, measured=("value", "low", "high", "null"))
    measured = [field.name for field in dataclasses.fields(GeometryRow) if field.type is float]
    write_table(out / GEOMETRY, GeometryRow, lie, measured=measured)
    ceilings = arms_of.list_ceilings(arms)
    page = similarity_page.Page(
        title=config["title"] or name,
        data=f"{name}:{options.split}",
        own_groups=split.own_groups,
        compared=compared,
        rows=rows,
        measures=measures,
        geometry=lie,
        levels=describe_levels(compared, ceilings),
        layered=layered,
        missing=missing,
        gains=found_gains,
        costs={arm.name: arm.cost.words for arm in arms},
    )
    similarity_page.write_page(out / PAGE, page)
    print("\n".join(write_tables(page)))
    print(f"\n{out / SIMILARITY}, {out / GEOMETRY}, {out / PAGE}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax similarity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--arms", nargs="+", default=["*"], help="arms; * stands for anything")
    parser.add_argument("--data", default="", help="data set; by default that of the first workdir")
    parser.add_argument("--data_dir", default="", help="by default that of the first workdir")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=500, help="of so many lesions or patients one image (500)")
    parser.add_argument("--measure", default="", help=f"beside cka, some of {', '.join(pairs.MEASURES)}, or all")
    parser.add_argument("--layers", nargs="+", default=[], help="arms of which all layers are compared on the page")
    parser.add_argument("--gains", action="store_true", help="of searches: whether similarity predicts gains")
    parser.add_argument("--seed", type=int, default=0, help="of the images that are drawn, and of intervals")
    parser.add_argument("--out", type=Path, help="folder of the results; by default the first workdir")
    return parser.parse_args(arguments)


def _choose_measures(text: str) -> list[str]:
    """The measures beside CKA, which is always there."""
    names = list(pairs.MEASURES) if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in pairs.MEASURES]
    if unknown:
        raise UserError(f"no measure '{unknown[0]}': there are {', '.join(pairs.MEASURES)}, or all")
    return [name for name in dict.fromkeys(names) if name != pairs.CKA]


def _choose_layers(named: Sequence[str], known: Sequence[str]) -> list[str]:
    """The networks whose layers the page compares: those that were named, or the first arm and one of the floor."""
    unknown = [name for name in named if name not in known]
    if unknown:
        raise UserError(f"--layers: no arm '{unknown[0]}' is compared: there are {', '.join(known)}")
    return list(named) or [known[0], known[-1]]


def _read_gains(options: argparse.Namespace) -> similarity_page.Gains:
    searches = [folder for folder in options.workdirs if (folder / findings.FILE).exists()]
    if not searches:
        raise UserError(f"--gains needs the workdir of a search, which has a {findings.FILE}: none of these has one")
    similarities, found = gains.read_similarities(searches)
    correlation = gains.correlate(similarities, found, seed=options.seed)
    return similarity_page.Gains(found, gains.describe_correlation(correlation))


def measure_geometry(compared: Compared, aligned: Mapping[str, float], costs: Mapping[str, Cost]) -> list[GeometryRow]:
    """How the features of each layer lie. Alignment is that of the pooled features."""
    unknown = Cost(math.nan, math.nan, math.nan)
    found = []
    for layer in compared.layers:
        features = compared.features[layer]
        values = {name: measure(features) for name, measure in geometry.MEASURES.items()}
        values["alignment"] = aligned[layer.network] if layer.endpoint == DEFAULT_ENDPOINT else np.nan
        cost = dataclasses.astuple(costs.get(layer.network, unknown))
        values |= dict(zip(PRETRAINING_COSTS, cost, strict=True))
        found.append(GeometryRow(layer.network, layer.endpoint, compared.images, features.shape[1], **values))
    return found


def describe_levels(compared: Compared, ceilings: Sequence[tuple[str, str]]) -> list[str]:
    """Sentences on the floor and the ceiling of CKA of the pooled features."""

    def read(one: str, other: str) -> float:
        layers = [networks.Layer(name, PIXELS if name == PIXELS else DEFAULT_ENDPOINT) for name in (one, other)]
        return float(compared.cka_between(layers[:1], layers[1:])[0, 0])

    floor = [arms_of.name_random(seed) for seed in arms_of.RANDOM_SEEDS]
    trained = [name for name in compared.networks if name not in (*floor, PIXELS)]
    found = [
        *(f"Floor: with {name}, arms have a CKA of {_span(read(arm, name) for arm in trained)}." for name in floor),
        f"These two have {read(*floor):.2f}. An arm whose seed is one of theirs began with its weights.",
        f"With raw pixels, arms have {_span(read(arm, PIXELS) for arm in trained)}.",
    ]
    if ceilings:
        found.append(f"Ceiling: the same arm with another seed, {_span(read(*pair) for pair in ceilings)}.")
    else:
        found.append("Ceiling: unknown, for no two arms differ in nothing but the seed of their pretraining.")
    return found


def _span(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{found[0]:.2f}" if len(found) == 1 else f"{found[0]:.2f} to {found[-1]:.2f} ({len(found)} pairs)"


def write_tables(page: similarity_page.Page) -> Iterator[str]:
    """Lines for the terminal: CKA of the pooled features, levels, and how these features lie."""
    compared = page.compared
    layers = compared.at(DEFAULT_ENDPOINT)
    names = [f"{place} {layer.network}" for place, layer in enumerate(layers, start=1)]
    left = min(max(map(len, names)), WIDTH - 10 * COLUMN)
    values = compared.cka_between(layers, layers)
    yield f"CKA of {DEFAULT_ENDPOINT} on {compared.images} images of {page.data}; 0: independent, 1: alike"
    step = (WIDTH - left) // COLUMN
    for start in range(0, len(layers), step):
        shown = range(start, min(start + step, len(layers)))
        yield " " * left + "".join(f"{place + 1:>{COLUMN}}" for place in shown)
        for name, row in zip(names, values, strict=True):
            yield f"{name[:left]:<{left}}" + "".join(f"{row[place]:>{COLUMN}.2f}" for place in shown)
    yield ""
    yield from page.levels
    yield ""
    yield f"{'':<{left}}" + "".join(f"{head:>8}" for head in ("rank", "TwoNN", "copies", "align", "unif", "cosine"))
    rows = [row for row in page.geometry if row.endpoint in (DEFAULT_ENDPOINT, PIXELS)]
    for name, row in zip(names, rows, strict=True):
        numbers = row.effective_rank, row.twonn, row.copies, row.alignment, row.uniformity, row.anisotropy
        yield f"{name[:left]:<{left}}" + "".join("       –" if np.isnan(x) else f"{x:>8.2f}" for x in numbers)
    yield ""
    yield f"{'':<{left}}  {'   '.join(HEADS).lower()} of the pretraining"
    yield from (f"{name[:left]:<{left}}  {'   '.join(words)}" for name, words in page.costs.items())
    notes = ["rank " + geometry.NOTES["effective_rank"], "TwoNN is " + geometry.NOTES["twonn"]]
    notes += ["copies: " + geometry.NOTES["copies"]]
    notes += ["", page.gains.sentence] if page.gains else []
    notes += ["", f"not finished, so left out: {', '.join(page.missing)}"] if page.missing else []
    for note in notes:
        yield from textwrap.wrap(note, WIDTH) or [""]
