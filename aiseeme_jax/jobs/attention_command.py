"""The command `attention`: where the networks of a finished workdir look, against masks of lesions or lungs.

    python -m aiseeme_jax attention runs/isic --data isic2019/64_mask --endpoint stage2
    python -m aiseeme_jax attention runs/isic --data isic2019/64_mask --arm curriculum --arm scratch --sanity

It draws maps of test images that have a mask: of the last backbone of each arm, and for the true class of its
fine-tuned classifiers if there are any. Beside every score stand those of the same network with random weights, of a
blind Gaussian in the middle of the image, and of the maps against masks of other images. It prints a table, and writes
attention.csv, attention_images.csv (the scores of each image) and a picture for each method into the workdir.
docs/attention.md says how to read them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from aiseeme_jax import augment, data
from aiseeme_jax.curriculum.costs import describe_cost
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import results
from aiseeme_jax.evidence.attention import METHODS, enlarge
from aiseeme_jax.evidence.looking import Cases, Looked, Looker, Network, at_quantiles, choose_cases, list_wanted
from aiseeme_jax.jobs.attention_maps import MapStore, PlannedLook, identify_images
from aiseeme_jax.jobs.attention_networks import Arm, choose_arms, load_arms
from aiseeme_jax.jobs.attention_tables import IMAGE_NUMBERS, NUMBERS, ImageRow, Row, Tables, write_summary
from aiseeme_jax.models.halves import check_endpoint
from aiseeme_jax.report.attention_pictures import save_pictures
from aiseeme_jax.store import workdirs

COMMAND = "attention"
TABLE, IMAGES = "attention.csv", "attention_images.csv"
SAMPLES, SEED, BATCH = 2000, 0, 64
# Rows and columns of a picture.
PICTURED, PICTURED_ARMS = 6, 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    options = parse(arguments)
    check_endpoint(options.endpoint)
    methods = choose_methods(options.methods)
    plan, config = read_workdir(options.workdir)
    arms = load_arms(options.workdir, plan, config, choose_arms(plan, options.arm))
    networks = [network for arm in arms for network in arm.list_networks()]
    if not networks:
        raise UserError(f"no arm of '{options.workdir}' has a stage or a fine-tuned classifier: there is no network")
    split = open_test(options.data or config["data"]["name"], options.data_dir or config["runtime"]["data_dir"])
    check_network(split, networks[0])
    cases = open_cases(split, options.images)
    looker = Looker(cases, options.endpoint, BATCH)
    maps = MapStore(workdirs.open_store(options.workdir, plan), looker, identify_images(split, looker))
    looks = plan_looks(arms, methods, maps, split.class_names, sanity=options.sanity)
    if not looks:
        raise UserError(f"none of the methods {', '.join(methods)} can be used with the arms of '{options.workdir}'")
    planned = [one for runs in looks.values() for one in runs.values()]
    workdirs.write_request(options.workdir, COMMAND, [piece.artifact for one in planned for piece in one.pieces()])
    maps.draw(planned, tell)
    found = {place: {run: maps.read(one) for run, one in runs.items()} for place, runs in looks.items()}
    write(options, looker, found, arms)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--arm", action="append", default=[], help="an arm; * stands for anything; by default all")
    parser.add_argument("--data", help="a data set with masks; by default that of the run")
    parser.add_argument("--endpoint", default="stage3", help="the layer: stem | stage1 ... stage4")
    parser.add_argument("--methods", help=f"with commas between: {', '.join(METHODS)}; by default all that can be used")
    parser.add_argument("--images", type=int, default=400, help="at most so many, drawn at random; 0: all")
    parser.add_argument("--data_dir", help="folder of the prepared data sets; by default that of the run")
    parser.add_argument("--sanity", action="store_true", help="make layer after layer random, and compare the maps")
    parser.add_argument("--no_pictures", action="store_true", help="write no images of patients")
    options = parser.parse_args(arguments)
    if options.images < 0:
        raise UserError(f"--images is {options.images}; it must be at least 1, or 0 for all")
    return options


def choose_methods(asked: str | None) -> list[str]:
    """Names of methods. Raises UserError for an unknown one."""
    methods = list(dict.fromkeys(asked.split(","))) if asked else list(METHODS)
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise UserError(f"unknown method '{unknown[0]}': known are {', '.join(METHODS)}")
    return methods


def read_workdir(workdir: Path) -> tuple[workdirs.WorkdirPlan, dict[str, Any]]:
    """Plan and config of a run. Raises MissingFile if there was none."""
    plan, config = workdirs.read_plan(workdir), workdirs.read_config(workdir)
    if plan is None or not config:
        raise MissingFile(f"no run was begun in '{workdir}': it lacks {workdirs.PLAN} or {workdirs.CONFIG}")
    return plan, config


def open_test(name: str, data_dir: str) -> data.Split:
    """The test images of a data set with masks, each picture of a thing on its own. UserError if it has no masks."""
    split = data.open_split(name, "test", data_dir)
    split = data.each_picture(split) if split.pictures > 1 else split
    split.check_segmentation()
    return split


def check_network(split: data.Split, network: Network) -> None:
    """Raises UserError for volumes, and for images that the network cannot take."""
    data.check_model(split, SimpleNamespace(**network.backbone.config))
    if network.backbone.dimensions != 2:
        raise UserError("maps are drawn of images, and this network takes volumes")
    data.check_views(split, network.views)


def open_cases(split: data.Split, count: int) -> Cases:
    """Reads the images that are measured. Raises UserError if fewer than two groups have a mask that tells something.

    Left out are images without a mask, and those whose mask is empty or covers everything: every map has the same
    score there.
    """
    masks = split.segmentations()[..., 0]
    rows = choose_cases(masks, SEED)
    tell(f"{split.name}: {len(rows)} of {len(split)} images have a mask with an inside and an outside")
    rows = rows[:count] if count else rows
    if len(set(split.groups[rows].tolist())) < 2:
        raise UserError(
            f"{split.name}: fewer than two lesions or patients have a mask that is neither empty nor full: there is "
            "nothing to compare maps with"
        )
    wanted = list_wanted(split.labels[rows], len(split.class_names)) if split.class_names else None
    return Cases(split.read(rows), masks[rows], wanted, split.groups[rows], split.ids[rows])


def plan_looks(
    arms: Sequence[Arm], methods: Sequence[str], maps: MapStore, class_names: tuple[str, ...], *, sanity: bool
) -> dict[tuple[str, str], dict[str, PlannedLook]]:
    """What each method needs of each arm, by run. A line says what cannot be used together and is left out."""
    found = {}
    for method in methods:
        for arm in arms:
            reason = why_not(arm, method, class_names)
            if reason:
                tell(f"{method} of {arm.name} is left out: {reason}")
                continue
            networks = arm.networks_for(METHODS[method])
            found[arm.name, method] = {
                run: maps.plan(method, network, sanity=sanity) for run, network in networks.items()
            }
    return found


def why_not(arm: Arm, method: str, class_names: tuple[str, ...]) -> str:
    """Why a method cannot be used on an arm; '' if it can."""
    chosen = METHODS[method]
    if chosen.needs_class:
        if not arm.classifiers:
            return "there is no fine-tuned classifier, and it explains a class"
        if arm.class_names != tuple(map(str, class_names)):
            return f"its classes are {', '.join(arm.class_names)}, and those of the images {', '.join(class_names)}"
    elif chosen.needs_encoder:
        if not arm.encoders:
            return "there are no Fisher vectors with foreground weights"
    elif not arm.backbones:
        return "the arm trained no stage; the rows of random weights are such a backbone"
    network = next(iter(arm.networks_for(chosen).values()))
    return "" if chosen.takes(network.backbone) else chosen.why_not


def tell(message: str) -> None:
    """Prints what is going on, apart from the tables."""
    print(message, file=sys.stderr, flush=True)


def write(
    options: argparse.Namespace,
    looker: Looker,
    found: dict[tuple[str, str], dict[str, Looked]],
    arms: Sequence[Arm],
) -> None:
    """Writes the tables and pictures, and prints what they show."""
    tables = Tables(looker.cases, found, SAMPLES, SEED, {arm.name: arm.cost for arm in arms})
    rows = tables.rows()
    results.write_table(options.workdir / TABLE, Row, rows, measured=NUMBERS)
    results.write_table(options.workdir / IMAGES, ImageRow, tables.image_rows(), measured=IMAGE_NUMBERS)
    methods = list(dict.fromkeys(method for _, method in found))
    for method in methods:
        place = f" at {options.endpoint}" if METHODS[method].of_layer else ""
        print("\n".join(write_summary(rows, method, place)))
    print("\n".join(f"{arm.name}: {describe_cost(*arm.cost)}" for arm in arms), end="\n\n")
    print(f"{options.workdir / TABLE}: all measures and differences; {options.workdir / IMAGES}: each image")
    if options.no_pictures:
        return
    for method in methods:
        path = options.workdir / f"attention_{method.replace('+', 'p')}.png"
        draw_pictures(path, method, looker, found, {arm.name: arm for arm in arms})
        print(path)


def draw_pictures(
    path: Path, method: str, looker: Looker, found: dict[tuple[str, str], dict[str, Looked]], arms: dict[str, Arm]
) -> None:
    """Cases at fixed quantiles of the distance of the mask from the centre, which no map has a part in."""
    cases = looker.cases
    rows = at_quantiles(cases.distances, min(PICTURED, len(cases)))
    names = [arm for arm, used in found if used == method][:PICTURED_ARMS]
    shown_of = {name: next(iter(found[name, method].values())) for name in names}
    maps = {name: one.maps for name, one in shown_of.items()}
    network = next(iter(arms[names[0]].networks_for(METHODS[method]).values()))
    placement = network.find_placement(method, looker.endpoint)
    maps["random weights"] = shown_of[names[0]].random_maps
    shape = cases.masks.shape[1:]
    columns = {
        name: np.nan_to_num(np.asarray(enlarge(jnp.asarray(found_maps[rows]), shape, placement)))
        for name, found_maps in maps.items()
    }
    shown = np.asarray(augment.stored_to_display(jnp.asarray(cases.images[rows]), network.views))
    titles = [f"{_cut(str(cases.ids[row]))}\noff centre {cases.distances[row]:.2f}" for row in rows]
    save_pictures(path, shown, cases.masks[rows], columns, titles)


def _cut(name: str) -> str:
    """A name that fits beside a picture."""
    return name if len(name) <= 20 else f"{name[:19]}…"
