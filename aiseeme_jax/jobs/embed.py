"""Computes the features of a user's own images, for a classifier or a search of one's own.

    python -m aiseeme_jax embed MODEL --images FOLDER_OR_CSV --out features.npz

MODEL is a workdir, the folder of a stage or of a fine-tuning, or a file of weights of this program. Images are named
and read as by `predict`. features.npz has `paths` [N] and `features`, float32 [N, D]; features.parquet the columns
`path` and `features`. Images that cannot be read are listed in features.unreadable.csv, and the exit code is then 3.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from aiseeme_jax import augment, data, models, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.features import DEFAULT_ENDPOINT, extract
from aiseeme_jax.jobs import own_images
from aiseeme_jax.jobs.predict import add_arguments, check_arguments, choose_storage, finish, read_batches
from aiseeme_jax.store import files
from tfds_builders.common.storage import VolumeStorage

FORMATS = (".npz", ".parquet")


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend, SystemExit if some images could not be read."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a workdir, the folder of a stage or a fine-tuning, or a file")
    parser.add_argument("--arm", help="of a workdir; by default the curriculum")
    parser.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="layer; a map is averaged (pooled)")
    add_view_arguments(parser)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    check_arguments(options)
    if options.out.suffix not in FORMATS:
        raise UserError(f"--out is '{options.out}': its name ends in {' or '.join(FORMATS)}")
    backbone, info = weights.load_backbone(options.model, options.arm)
    known = info.get(weights.PREPROCESSING)
    views = known.views if known else make_views(options)
    models.check_size(info["model"], views.size)
    stored = known.stored if known else None
    storage = choose_storage(str(options.model), views, backbone.channels, stored, options)
    listing = own_images.list_images(options.images, volumes=isinstance(storage, VolumeStorage))
    unreadable, names, rows = list(listing.unreadable), [], []
    for images, (pixels,) in read_batches(listing.images, [storage], unreadable, options):
        names += [image.name for image in images]
        rows.append(embed(backbone, pixels, views, options))
    features = np.concatenate(rows) if rows else np.zeros((0, backbone.features), np.float32)
    write_features(options.out, names, features)
    finish(options.out, listing, len(names), unreadable)


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `make_views` reads."""
    parser.add_argument("--preset", help="of views, for a model whose file does not say its mean and deviation")
    parser.add_argument("--size", type=int, help="side of the input, for such a model")


def make_views(options: argparse.Namespace) -> augment.AnyViews:
    """Views of a preset, for a file that does not say its own. Raises UserError if preset or size is missing."""
    if options.preset not in augment.PRESETS or not options.size or options.size < 1:
        raise UserError(
            f"{options.model} does not say what the input of its backbone is: give the size of its views with --size, "
            f"and their preset with --preset, one of {', '.join(augment.PRESETS)}"
        )
    return augment.make_views(options.preset, options.size)


def embed(backbone, pixels: np.ndarray, views: augment.AnyViews, options) -> Float[np.ndarray, "b d"]:
    """Features of a batch. Raises UserError for an unknown endpoint."""
    split = data.from_arrays(pixels)
    try:
        return extract(backbone, split, views=views, batch_size=options.batch, endpoint=options.endpoint)
    except ValueError as error:
        raise UserError(str(error)) from None


def write_features(path: Path, names: Sequence[str], features: Float[np.ndarray, "n d"]) -> None:
    """Writes names and features, whole or not at all, in the format of the ending of `path`."""
    with files.write_whole(path, features.nbytes) as beside:
        if path.suffix == ".npz":
            with open(beside, "wb") as file:
                np.savez(file, paths=np.array(names, np.str_), features=features)
            return
        import pyarrow as pa
        import pyarrow.parquet

        # Parquet holds UTF-8 alone.
        texts = [name.encode("utf-8", own_images.ESCAPED).decode("utf-8", "backslashreplace") for name in names]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        pa.parquet.write_table(pa.table({"path": texts, "features": flat}), beside)
