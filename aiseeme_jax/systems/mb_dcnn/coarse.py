"""The first network: a DeepLabv3+ that segments the image (coarse-SN)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from aiseeme_jax import augment, data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune, segment
from aiseeme_jax.evaluate.best_weights import BestKeeper
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.models.deeplab import DeepLabDecoder
from aiseeme_jax.models.segmentation import SegmentationNetwork
from aiseeme_jax.systems.mb_dcnn import backbones
from aiseeme_jax.systems.mb_dcnn.hybrid import HybridLoss, take_loss
from aiseeme_jax.task import Batch, Output
from aiseeme_jax.training import checks


@dataclasses.dataclass(frozen=True)
class Settings(HybridLoss):
    """Fields of the network, beside those of the loss.

    Attributes:
      width: channels of the layers of the decoder.
      rates: distances of the pixels of the three dilated windows.
      orientations: whether predictions are means over six orientations of the image.
      scales: sizes of the test images over that of the views, over which predictions are means too.
    """

    width: int = 256
    rates: tuple[int, ...] = (6, 12, 18)
    orientations: bool = True
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        super().__post_init__()
        if self.width < 1 or not self.rates or min(self.rates) < 1:
            raise UserError(f"system.width is {self.width} and system.rates {self.rates}; they must be at least 1")
        backbones.check_scales(self.scales)


class CoarseSegmentation(BestKeeper):
    """A backbone with the decoder of DeepLabv3+ on its maps, trained on masks by the hybrid loss.

    Args:
      backbone: of images, with an output stride of 16.
      spec: the training views.
      settings: of the protocol.
    """

    NAME = "mb_dcnn_coarse"
    KEPT = ("backbone", "decoder")
    DIMENSIONS = (2,)
    RECIPE = FineTuning.RECIPE

    def __init__(self, backbone: nnx.Module, spec: augment.Views, settings: Settings, *, rngs: nnx.Rngs):
        super().__init__(backbone, spec)
        self.hybrid = take_loss(settings)
        sizes = {"width": settings.width, "rates": settings.rates, "dtype": backbone.dtype}
        self.decoder = DeepLabDecoder(backbone, **sizes, rngs=rngs)
        self.start_keeping()

    @property
    def network(self) -> SegmentationNetwork:
        """Backbone and decoder; shares their weights."""
        return SegmentationNetwork(self.backbone, self.decoder)

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        own, dropout = jax.random.split(key)
        view, mask = augment.random_view_with_mask(own, batch["image"], batch["segmentation"], self.spec)
        return {"image": view, "mask": mask[..., 0], "dropout": dropout}

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        logits, features = self.network(views["image"], train=True, key=views["dropout"])
        return self.hybrid.measure(logits, views["mask"], views["image"], features)


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains the network on a copy of the backbone, and scores its masks."""
    settings = COARSE.read_settings(measurement.target)
    task = CoarseSegmentation(
        backbones.make_dense(subject.backbone),
        measurement.views,
        settings,
        rngs=nnx.Rngs(seeds.derive(measurement.seed, "heads")),
    )

    def average(network: nnx.Module) -> nnx.Module:
        return backbones.Averaged(network, settings.scales, orientations=settings.orientations)

    return segment.measure_segmenter(task, measurement, subject, directory, runtime, at_test=average)


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a field of the system or of the training that cannot be, and for volumes."""
    COARSE.read_settings(target)
    check_segmenting(target, train)


def check_segmenting(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a batch size, length, optimizer or schedule that cannot be, and for volumes."""
    backbones.check_views(target)
    for fraction in target.fractions:
        # The pyramid normalises one value of each image.
        if finetune.batch_size_for(target.batch_size, round(len(train) * fraction)) < 2:
            raise UserError(f"batch_size is {target.batch_size}; {target.protocol} needs at least 2 images in a batch")
    size = finetune.batch_size_for(target.batch_size, len(train))
    checks.check_training(ConfigDict({**target.to_dict(), "batch_size": size}), len(train))


COARSE = Protocol(
    "mb_dcnn_coarse",
    trains=True,
    check=check,
    measure=measure,
    needs=data.MASKS,
    settings=Settings,
    check_model=backbones.check_model,
)
