"""Segmentation as a protocol: a decoder on the backbone is trained on masks, and its masks are scored.

How the masks of the test images are scored stands in `evaluate/masks.py`.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8
from ml_collections import ConfigDict

from aiseeme_jax import augment, data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune, masks, results
from aiseeme_jax.evaluate.best_weights import BestKeeper
from aiseeme_jax.evaluate.features import fetch_rows, on_every_device
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.segmentation import TRAINED, Segmentation
from aiseeme_jax.models.segmentation import SegmentationNetwork, resize_logits
from aiseeme_jax.training import checks
from aiseeme_jax.weights.segmenter import Segmenter

Images = Shaped[Array, "b h w c"]
Stored = Shaped[Array, "b h w 1"]
# (network, images, stored masks, views) -> logits [B, S, S] and truth [B, H, W]
Read = Callable[[nnx.Module, Images, Stored, augment.Views], tuple[Array, Array]]


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains a decoder on a copy of the backbone, and scores its masks of the test images with the weights of the best
    epoch, in the size in which the images are stored.
    """
    return measure_segmenter(make_task(measurement, subject), measurement, subject, directory, runtime)


def measure_segmenter(
    task: BestKeeper,
    measurement: Measurement,
    subject: Subject,
    directory: Path,
    runtime: Runtime,
    *,
    read: Read | None = None,
    at_test: Callable[[nnx.Module], nnx.Module] = lambda network: network,
) -> Measured:
    """Trains a task with a `network` on the masks of a measurement, as `measure` says.

    Args:
      read: how logits and truth are made of a batch, see `read_view`.
      at_test: makes what predicts of the trained network, such as one that averages over views.
    """
    train, validation = subject.splits["train"], subject.splits["validation"]
    split = train.subset(draw_rows(train, measurement.fraction, measurement.seed))
    lengths = finetune.lengths_for(measurement.target, len(train))
    recipe = finetune.make_recipe(measurement.target, lengths, len(split), measurement.seed, runtime.patience)
    how = {"views": measurement.views, "batch_size": runtime.evaluation_batch, "read": read or read_view}
    task, chosen = finetune.train_network(
        task,
        split,
        recipe,
        finetune.make_folder(directory, measurement, subject, split, runtime),
        lambda task: mean_jaccard(task.network, validation, **how),
        loading=runtime.loading,
        segmentation=True,
    )
    predicting = at_test(task.network)
    found, checked = (score_masks(predicting, subject.splits[name], **how) for name in ("test", "validation"))
    undefined = int(np.isnan(found.hausdorff95).sum())
    record = {"images": len(split), "hausdorff95_undefined": undefined, **chosen}
    kept = None
    if isinstance(task.network, SegmentationNetwork):
        facts = {"trained_on": split.name, "images": len(split)}
        kept = Segmenter(task.network, measurement.views, split.storage, facts)
    return Measured(found, checked, record, network=kept)


def draw_rows(train: data.Split, fraction: float, seed: int) -> Int[np.ndarray, "k"]:
    """Rows of a share of the images with masks: nested for one seed, of whole groups; labels do not count."""
    return data.draw_share(train.groups, fraction, seed)


def read_view(
    network: nnx.Module, images: Images, stored: Stored, views: augment.Views
) -> tuple[Float[Array, "b s s"], UInt8[Array, "b h w"]]:
    """The logits of the central view of each image, and its true mask: 0, 1, `data.UNKNOWN`."""
    return network(augment.central_view(images, views), train=False)[0], stored[..., 0]


def score_masks(
    network: nnx.Module, split: data.Split, views: augment.Views, batch_size: int, read: Read = read_view
) -> results.Overlaps:
    """How well the predicted masks of a split fit the true ones; changes nothing."""
    rows = []
    for predicted, true in predict_masks(network, split, views, batch_size, read):
        counts = [(predicted & true).sum(), predicted.sum(), true.sum()]
        rows.append((*counts, masks.measure_hausdorff95(predicted, true)))
    *counts, far = np.array(rows, np.float64).T
    return results.Overlaps(*(c.astype(np.int32) for c in counts), far.astype(np.float32), split.ids, split.groups)


def predict_masks(
    network: nnx.Module, split: data.Split, views: augment.Views, batch_size: int, read: Read = read_view
) -> Iterator[tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]]:
    """The predicted and the true mask of each image, in the order of the split; what is not known is in neither."""
    left = len(split)
    for batch in data.evaluation_batches(split, batch_size, segmentation=True):
        found = np.asarray(_masks(network, batch["image"], batch["segmentation"], views, read))[:left]
        left -= len(found)
        yield from found


def count_pixels(
    network: nnx.Module, split: data.Split, views: augment.Views, batch_size: int, read: Read = read_view
) -> Int[np.ndarray, "n 3"]:
    """Of each image the pixels that are in both masks, in the predicted one, and in the true one."""
    batches = data.evaluation_batches(split, batch_size, segmentation=True)
    return fetch_rows((_counts(network, b["image"], b["segmentation"], views, read) for b in batches), len(split))


def mean_jaccard(
    network: nnx.Module, split: data.Split, views: augment.Views, batch_size: int, read: Read = read_view
) -> float:
    """The mean Jaccard index of the images of a split."""
    common, predicted, true = count_pixels(network, split, views, batch_size, read).T
    unmeasured = np.zeros(len(split), np.float32)
    return float(masks.jaccard(results.Overlaps(common, predicted, true, unmeasured, split.ids, split.groups)).mean())


@functools.partial(nnx.jit, static_argnames=("views", "read"))
def _masks(
    network: nnx.Module, images: Images, stored: Stored, views: augment.Views, read: Read
) -> Bool[Array, "b 2 h w"]:
    """The predicted and the true mask of each image, without the pixels that are not known."""
    return on_every_device(_pair(network, images, stored, views, read))


@functools.partial(nnx.jit, static_argnames=("views", "read"))
def _counts(network: nnx.Module, images: Images, stored: Stored, views: augment.Views, read: Read) -> Int[Array, "b 3"]:
    predicted, true = jnp.moveaxis(_pair(network, images, stored, views, read), 1, 0)
    regions = jnp.stack([predicted & true, predicted, true], axis=1)
    return on_every_device(jnp.sum(regions, axis=(2, 3), dtype=jnp.int32))


def _pair(
    network: nnx.Module, images: Images, stored: Stored, views: augment.Views, read: Read
) -> Bool[Array, "b 2 h w"]:
    logits, mask = read(network, images, stored, views)
    known = mask != data.UNKNOWN
    return jnp.stack([(resize_logits(logits, *mask.shape[1:]) > 0) & known, mask == 1], axis=1)


def make_task(measurement: Measurement, subject: Subject) -> Segmentation:
    """The task of a measurement: a copy of the backbone with a fresh decoder."""
    return Segmentation(
        nnx.clone(subject.backbone),
        measurement.views,
        trained=measurement.target.trained,
        rngs=nnx.Rngs(seeds.derive(measurement.seed, "heads")),
    )


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a batch size, length, optimizer or schedule that cannot be, for volumes, and for another
    part to train than there is.
    """
    if target.trained not in TRAINED:
        raise UserError(f"trained is '{target.trained}'; known are {', '.join(TRAINED)}")
    if augment.views_of(target.views).dimensions != 2:
        raise UserError("segment measures backbones of images alone; views.dimensions is 3")
    for fraction in target.fractions:
        finetune.batch_size_for(target.batch_size, round(len(train) * fraction))
    size = finetune.batch_size_for(target.batch_size, len(train))
    checks.check_training(ConfigDict({**target.to_dict(), "batch_size": size}), len(train))


SEGMENT = Protocol("segment", trains=True, check=check, measure=measure, needs=data.MASKS)
