"""Predicts a user's own images with classifiers that fine-tuning left.

    python -m aiseeme_jax predict MODEL --images FOLDER_OR_CSV --out predictions.csv

MODEL is a workdir, the folder of a measurement, or a classifier.safetensors. Several models are an ensemble, whose
probabilities are the means over the models. The images are those of a folder and of the folders in it, or those that
the column `path` of a CSV names, relative to it: PNG, JPEG, TIFF, DICOM and others; for models of volumes MetaImage
files and DICOM series. They are decoded and resized as the data set was on which the model was trained.

Each row of the results is an image: its path, the class, and a probability of each class, calibrated and not. Images
that cannot be read are listed in predictions.unreadable.csv with the reason, and the exit code is then 3.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from aiseeme_jax import augment, weights
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.jobs import own_images
from aiseeme_jax.jobs.own_images import OwnImage, Unreadable
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.weights.classifier import BATCH, Classifier
from tfds_builders.common.formats import MAX_MEGAPIXELS
from tfds_builders.common.storage import ImageStorage, Storage, VolumeStorage

# A finding counts as there from this probability on.
THERE = 0.5


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend, SystemExit if some images could not be read."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="+", type=Path, help="workdirs, folders of measurements, or files")
    parser.add_argument("--arm", help="of workdirs; by default the curriculum")
    parser.add_argument("--tta", default=augment.CENTRAL, choices=augment.EVALUATION_VIEWS, help="views to average")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    check_arguments(options)
    paths = [find_classifier(path, options.arm) for path in options.model]
    classifiers = [weights.load_classifier(path) for path in paths]
    check_ensemble(classifiers, paths)
    if options.tta != augment.CENTRAL and any(one.views.dimensions == 3 for one in classifiers):
        raise UserError(f"--tta {options.tta} is for images: volumes have '{augment.CENTRAL}' alone")
    storages = [
        choose_storage(_tell(path, one), one.views, one.network.backbone.channels, one.stored, options)
        for path, one in zip(paths, classifiers, strict=True)
    ]
    listing = own_images.list_images(options.images, volumes=isinstance(storages[0], VolumeStorage))
    unreadable, rows = list(listing.unreadable), []
    for images, pixels in read_batches(listing.images, storages, unreadable, options):
        logits = [
            one.compute_logits(batch, batch_size=options.batch, shown=options.tta)
            for one, batch in zip(classifiers, pixels, strict=True)
        ]
        rows += make_rows(classifiers, [image.name for image in images], logits)
    own_images.write_csv(options.out, make_header(classifiers[0]), rows)
    finish(options.out, listing, len(rows), unreadable)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `predict` and `embed` have in common."""
    parser.add_argument("--images", required=True, type=Path, help="a folder, or a CSV with the column path")
    parser.add_argument("--out", required=True, type=Path, help="file of the results")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images on the device at once ({BATCH})")
    parser.add_argument("--stored_size", type=int, help="side of stored images, for a model whose file does not say it")
    parser.add_argument("--spacing", type=float, help="mm between voxels, for a model of volumes likewise")
    parser.add_argument(
        "--max_megapixels", type=float, default=MAX_MEGAPIXELS, help=f"larger images are refused ({MAX_MEGAPIXELS:g})"
    )


def check_arguments(options: argparse.Namespace) -> None:
    """Raises UserError for a number out of its range."""
    if options.batch < 1:
        raise UserError(f"--batch is {options.batch}; it must be at least 1")
    for name in ("stored_size", "spacing", "max_megapixels"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} is {value}; it must be above 0")


def find_classifier(path: Path, arm: str | None = None) -> Path:
    """The file of a classifier, or the folder that has it.

    Args:
      path: a workdir, the folder of a measurement, or the file.
      arm: of a workdir; by default the curriculum, or the only arm that has a classifier.

    Of a workdir it is that of the largest share of the labels. Raises MissingFile if there is none, UserError if there
    are several.
    """
    plan = workdirs.read_plan(path) if path.is_dir() and not (path / weights.CLASSIFIER).exists() else None
    if plan is None:
        return path
    store = workdirs.open_store(path, plan)
    found: dict[str, list[tuple[float, Path]]] = {}
    for arm_entry, one in ((each, one) for each in plan.arms for one in each.measurements):
        folder = workdirs.find_measurement_folder(store, one)
        if folder and (folder / weights.CLASSIFIER).exists() and artifacts.read_record(folder):
            found.setdefault(arm_entry.name, []).append((one.fraction, folder))
    if not found:
        raise MissingFile(f"'{path}' has no classifier: a target 'finetune' leaves one")
    chosen = arm or (workdirs.CURRICULUM if workdirs.CURRICULUM in found else next(iter(found)))
    if chosen not in found or (arm is None and chosen != workdirs.CURRICULUM and len(found) > 1):
        raise UserError(f"'{path}': say with --arm which arm is meant; those with a classifier are {', '.join(found)}")
    most = max(fraction for fraction, _ in found[chosen])
    folders = sorted({folder for fraction, folder in found[chosen] if fraction == most})
    if len(folders) > 1:
        names = "".join(f"\n    {folder}" for folder in folders)
        raise UserError(
            f"'{path}' has {len(folders)} classifiers of the arm '{chosen}', of several targets or seeds: name one of "
            f"them, or several to average them{names}"
        )
    return folders[0]


def check_ensemble(classifiers: Sequence[Classifier], paths: Sequence[Path]) -> None:
    """Raises UserError unless all have the same classes in the same order, and take images or all volumes."""
    first = classifiers[0]
    for path, other in zip(paths, classifiers, strict=True):
        if (other.kind, other.class_names) != (first.kind, first.class_names):
            raise UserError(
                f"the models of an ensemble have the same classes, but {paths[0]} has {', '.join(first.class_names)} "
                f"({first.kind}) and {path} {', '.join(other.class_names)} ({other.kind})"
            )
        if other.views.dimensions != first.views.dimensions:
            raise UserError(f"{paths[0]} and {path} cannot be an ensemble: one takes images, the other volumes")


def choose_storage(
    model: str, views: augment.AnyViews, channels: int, stored: Storage | None, options: argparse.Namespace
) -> Storage:
    """How the images are stored before views are made of them: as the file of the model says, else the options.

    Args:
      model: as messages name it.
      views, channels: of its network.
      stored: what its file says, None if that is nothing.

    Raises UserError for a model of planes in HU, for options that are not those of the file, and for a model of volumes
    of which nothing is known.
    """
    if views.dimensions == 2 and views.window:
        raise UserError(
            f"{model} takes planes in HU that a builder cuts out of CT; this command reads images and volumes: give "
            "the planes to the model in Python"
        )
    if stored is not None:
        for name, known in (("stored_size", stored.size), ("spacing", getattr(stored, "spacing", None))):
            asked = getattr(options, name)
            if asked is not None and asked != known:
                raise UserError(f"--{name} is {asked}, but {model} says that its data set has {known}: leave it out")
        return stored
    if views.dimensions == 3:
        if options.spacing is None or options.stored_size is None:
            raise UserError(
                f"{model} does not say which cubes of CT it was trained on: give the voxels along their side with "
                "--stored_size, and the mm between these with --spacing"
            )
        return VolumeStorage(options.stored_size, options.spacing)
    size = options.stored_size or views.size
    print(
        f"{model} does not say how its data set stores images: they are resized to {size} x {size}, "
        + ("as --stored_size says" if options.stored_size else "the size of its views; --stored_size changes this"),
        file=sys.stderr,
    )
    return ImageStorage(size, channels)


def read_batches(
    images: Sequence[OwnImage],
    storages: Sequence[Storage],
    unreadable: list[Unreadable],
    options: argparse.Namespace,
) -> Iterator[tuple[list[OwnImage], list[Shaped[np.ndarray, "b *space c"]]]]:
    """Batches of images of one size, with their pixels by each of the storages; appends to `unreadable`."""
    distinct = list(dict.fromkeys(storages))
    batch: list[tuple[OwnImage, tuple[np.ndarray, ...]]] = []
    for image, pixels in own_images.read_images(images, distinct, options.max_megapixels * 1e6):
        if isinstance(pixels, Unreadable):
            unreadable.append(pixels)
            continue
        if len(batch) == options.batch or (batch and _shapes(batch[0][1]) != _shapes(pixels)):
            yield _join(batch, storages, distinct)
            batch = []
        batch.append((image, pixels))
    if batch:
        yield _join(batch, storages, distinct)


def make_header(classifier: Classifier) -> list[str]:
    """The columns of the results."""
    names = classifier.class_names
    chosen = "class" if classifier.kind == "class" else "findings"
    return [
        "path",
        chosen,
        *(f"probability of {n}" for n in names),
        *(f"uncalibrated probability of {n}" for n in names),
    ]


def make_rows(
    classifiers: Sequence[Classifier], names: Sequence[str], logits: Sequence[Float[np.ndarray, "n v k"]]
) -> list[list[str]]:
    """A row for each image, of the means over the classifiers. The class, or the findings, are by the calibrated."""
    calibrated, plain = (
        np.mean([one.average_views(z, calibrated=flag) for one, z in zip(classifiers, logits, strict=True)], axis=0)
        for flag in (True, False)
    )
    return [
        [name, choose(classifiers[0], one), *map(_write, one), *map(_write, other)]
        for name, one, other in zip(names, calibrated, plain, strict=True)
    ]


def choose(classifier: Classifier, probabilities: Float[np.ndarray, " k"]) -> str:
    """The class of the greatest probability, or all findings from 0.5 on, with semicolons between them."""
    if classifier.kind == "class":
        return classifier.class_names[int(np.argmax(probabilities))]
    return ";".join(itertools.compress(classifier.class_names, probabilities >= THERE))


def finish(out: Path, listing: own_images.Listing, done: int, unreadable: Sequence[Unreadable]) -> None:
    """Lists what could not be read, and says what was done. Raises SystemExit if anything could not be read."""
    path = own_images.write_unreadable(out, unreadable)
    if listing.passed_over:
        print(own_images.describe_passed_over(listing))
    print(f"{done} images: {out}")
    if unreadable:
        first = unreadable[0]
        print(f"{len(unreadable)} could not be read, such as {first.name!r} ({first.reason}): {path}", file=sys.stderr)
        raise SystemExit(own_images.SOME_UNREADABLE)


def _tell(path: Path, classifier: Classifier) -> str:
    """A classifier for messages: older files say the data set that it was trained on, but not how that is stored."""
    trained_on = classifier.info.get("trained_on")
    return f"{path} (trained on {trained_on})" if trained_on else str(path)


def _shapes(pixels: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    return [one.shape for one in pixels]


def _join(
    batch: Sequence[tuple[OwnImage, tuple[np.ndarray, ...]]], storages: Sequence[Storage], distinct: Sequence[Storage]
) -> tuple[list[OwnImage], list[Shaped[np.ndarray, "b *space c"]]]:
    stacked = [np.stack([pixels[place] for _, pixels in batch]) for place in range(len(distinct))]
    return [image for image, _ in batch], [stacked[distinct.index(storage)] for storage in storages]


def _write(probability: np.float32) -> str:
    """With the digits from which the number can be read again."""
    return str(np.float32(probability))
