"""The second network: it classifies the image with the coarse mask as a channel (mask-CN)."""

import dataclasses
import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped
from ml_collections import ConfigDict

from aiseeme_jax import augment, data, models, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune, imbalance
from aiseeme_jax.evaluate.features import fetch_rows, on_every_device
from aiseeme_jax.evaluate.measurement import (
    COMMON_FIELDS,
    Measured,
    Measurement,
    Protocol,
    Runtime,
    Subject,
    make_earlier,
)
from aiseeme_jax.evaluate.metrics import main_metric
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.models.classifier import PROBABILITIES, ClassifierNetwork, linear_head
from aiseeme_jax.systems.mb_dcnn import backbones, masks
from aiseeme_jax.task import Batch

KIND = "mb_dcnn_classifier"
COARSE = "coarse"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of the network.

    Attributes:
      mask: 'predicted' by the coarse network, as published; 'truth', the true mask; 'none', zeros; 'shuffled', that
        which was predicted for another image. The last three are controls.
    """

    mask: str = masks.PREDICTED

    def __post_init__(self):
        if self.mask not in masks.SOURCES:
            raise UserError(f"system.mask is '{self.mask}'; known are {', '.join(masks.SOURCES)}")


class GuidedClassification(FineTuning):
    """Fine-tuning of a backbone that takes a mask as a channel more."""

    NAME = KIND
    DIMENSIONS = (2,)

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        view, mask = augment.random_view_with_mask(key, batch["image"], batch["segmentation"], self.spec)
        return {"image": masks.add_channel(view, mask == 1), "label": batch["label"]}


@dataclasses.dataclass(frozen=True)
class Guided:
    """The trained network, as a file of `weights/networks.py` with these members in its header:

    model          arguments of `models.make_backbone`; the last channel is the mask
    outputs        of the head
    mask           source of the masks, see `Settings`
    kind           "class" | "findings"
    class_names    in the order of the outputs
    views          fields of `augment.Views`: how an image is resized and normalised
    """

    network: ClassifierNetwork
    mask: str
    kind: str
    class_names: tuple[str, ...]
    views: augment.Views

    def save(self, directory: Path) -> str:
        info = {
            "model": self.network.backbone.config,
            "outputs": len(self.class_names),
            "mask": self.mask,
            "kind": self.kind,
            "class_names": list(self.class_names),
            "views": dataclasses.asdict(self.views),
        }
        return weights.save_network(directory, self.network, KIND, info)


def load_guided(path: Path) -> Guided:
    """Loads the network from the folder of its measurement. Raises UserError if it is damaged."""
    header, tensors = weights.load_network(path, KIND)
    try:
        backbone = models.make_backbone(**header["model"], rngs=nnx.Rngs(0))
        network = ClassifierNetwork(backbone, linear_head(backbone.features, header["outputs"], rngs=nnx.Rngs(0)))
        weights.fill_network(network, tensors)
        views = augment.views_of({name: tuple(v) if isinstance(v, list) else v for name, v in header["views"].items()})
        return Guided(network, header["mask"], header["kind"], tuple(header["class_names"]), views)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its header does not fit its weights ({error!r})") from error


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains the network on a copy of the backbone, and classifies the test images."""
    target, views, batch_size = measurement.target, measurement.views, runtime.evaluation_batch
    source = GUIDED.read_settings(target).mask
    made = {
        name: masks.make_masks(
            source,
            split,
            measurement.needed.get(COARSE),
            orientations=target.earlier.coarse.system.orientations,
            batch_size=batch_size,
            seed=measurement.seed,
        )
        for name, split in subject.splits.items()
    }
    subject = dataclasses.replace(
        subject,
        backbone=backbones.make_dense(subject.backbone, mask=True),
        splits=masks.give_masks(subject.splits, made),
        _features={},
    )
    validation = subject.splits["validation"]
    metric = main_metric(validation.labels)
    predict = functools.partial(predict_guided, views=views, batch_size=batch_size)
    split = subject.splits["train"].subset(subject.training_rows(measurement))
    task = finetune.make_task(measurement, subject, runtime, GuidedClassification)
    task, chosen = finetune.train_network(
        task,
        data.balance(split) if task.method.BALANCED_BATCHES else split,
        finetune.recipe_for(measurement, subject, runtime.patience),
        finetune.make_folder(directory, measurement, subject, split, runtime),
        lambda task: metric(validation.labels, predict(task.network, validation, kind=task.kind)),
        loading=runtime.loading,
        segmentation=True,
    )
    found = predict(task.network, subject.splits["test"], kind=task.kind, shown=target.test_views)
    checked = predict(task.network, validation, kind=task.kind)
    kept = Guided(task.network, source, task.kind, tuple(map(str, split.class_names)), views)
    return Measured(found, checked, {"images": len(split), **chosen}, network=kept)


def predict_guided(
    network: ClassifierNetwork,
    split: data.Split,
    *,
    kind: str,
    views: augment.Views,
    batch_size: int,
    shown: str = augment.CENTRAL,
) -> Float[np.ndarray, "n k"]:
    """Probabilities of each image with the mask that its split has, the mean over the views `shown`."""
    batches = data.evaluation_batches(split, batch_size, segmentation=True)
    rows = (_logits(network, batch["image"], batch["segmentation"], views, shown) for batch in batches)
    logits = fetch_rows(rows, len(split))
    return np.asarray(PROBABILITIES[kind](jnp.asarray(logits))).mean(axis=1)


@functools.partial(nnx.jit, static_argnames=("views", "shown"))
def _logits(
    network: ClassifierNetwork,
    images: Shaped[Array, "b h w c"],
    stored: Shaped[Array, "b h w 1"],
    views: augment.Views,
    shown: str,
) -> Float[Array, "b v k"]:
    made = masks.show_with_masks(images, stored == 1, views, shown)
    return on_every_device(jnp.stack([network(view, train=False)[0] for view in made], axis=1))


def map_classes(guide: ClassifierNetwork, images: Float[Array, "b s s d"], kind: str) -> Float[Array, "b h w 1"]:
    """The class activation map of the most probable class, without the bias, divided by its highest value.

    Where the map is positive nowhere, it is 0: the published quotient has a division by 0 there.

    Args:
      images: with their masks.
      kind: 'clipped', values in [0, 1] (ours); 'signed', negative values stay, as published; 'zeros', the control.
    """
    endpoints = guide.backbone(images, train=False)
    last = endpoints["stage4"].astype(jnp.float32)
    if kind == "zeros":
        return jnp.zeros((*last.shape[:3], 1))
    chosen = jnp.argmax(guide.head(endpoints["pooled"].astype(jnp.float32)), axis=-1)
    maps = jnp.einsum("bhwk,kb->bhw", last, guide.head.kernel[...][:, chosen])
    highest = maps.max(axis=(1, 2), keepdims=True)
    scaled = jnp.where(highest > 0, maps / jnp.where(highest > 0, highest, 1), 0)
    return (jnp.clip(scaled, 0, 1) if kind == "clipped" else scaled)[..., None]


def plan_needed(target: ConfigDict) -> dict[str, ConfigDict]:
    """The coarse network, if its masks are used."""
    return {COARSE: make_earlier(target, COARSE)} if target.system.mask in masks.PREDICTING else {}


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for what `finetune` refuses, for a field of the system that cannot be, and for volumes."""
    GUIDED.read_settings(target)
    backbones.check_views(target)
    finetune.check(target, train)
    method = imbalance.make_method(target.imbalance)
    head = nnx.eval_shape(lambda: method.make_head(8, 2, rngs=nnx.Rngs(0)))
    if method.needs_baseline or not isinstance(head, nnx.Linear):
        raise UserError(
            f"imbalance is '{imbalance.describe(target.imbalance)}'; {target.protocol} takes a method with a linear "
            "head and without a classifier that is trained before"
        )


GUIDED = Protocol(
    KIND,
    trains=True,
    check=check,
    measure=measure,
    needs=data.Needs(masks=True),
    settings=Settings,
    common=COMMON_FIELDS,
    earlier={COARSE: "mb_dcnn_coarse"},
    plan_needed=plan_needed,
    check_model=backbones.check_model,
)
