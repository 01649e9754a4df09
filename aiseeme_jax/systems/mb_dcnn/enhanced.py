"""The third network: the first one with the map by which the classifier decides as one more map (enhanced-SN)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8
from ml_collections import ConfigDict

from aiseeme_jax import augment, data, seeds, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import segment
from aiseeme_jax.evaluate.best_weights import BestKeeper
from aiseeme_jax.evaluate.measurement import (
    Measured,
    Measurement,
    Protocol,
    Runtime,
    Subject,
    check_same_input,
    make_earlier,
)
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.models.classifier import ClassifierNetwork
from aiseeme_jax.models.deeplab import DeepLabDecoder
from aiseeme_jax.models.segmentation import SegmentationNetwork
from aiseeme_jax.systems.mb_dcnn import backbones, guided, masks
from aiseeme_jax.systems.mb_dcnn.coarse import check_segmenting
from aiseeme_jax.systems.mb_dcnn.hybrid import HybridLoss, take_loss
from aiseeme_jax.task import Bank, Batch, Output

COARSE, CLASSIFIER = "coarse", "classifier"
MAPS = ("clipped", "signed", "zeros")


@dataclasses.dataclass(frozen=True)
class Settings(HybridLoss):
    """Fields of the network, beside those of the loss. Width and rates are those of the coarse network.

    Attributes:
      class_map: 'clipped', between 0 and 1: ours, since the published quotient is not bounded below; 'signed', the
        published one; 'zeros', the control.
      orientations: whether predictions are means over six orientations of the image.
      scales: sizes of the test images over that of the views, over which predictions are means too.
    """

    class_map: str = "clipped"
    orientations: bool = True
    scales: tuple[float, ...] = backbones.TEST_SCALES

    def __post_init__(self):
        super().__post_init__()
        if self.class_map not in MAPS:
            raise UserError(f"system.class_map is '{self.class_map}'; known are {', '.join(MAPS)}")
        backbones.check_scales(self.scales)


class EnhancedNetwork(nnx.Module):
    """Logits of images with their coarse masks as a channel, [B, S, S, C + 1]."""

    def __init__(self, network: SegmentationNetwork, guide: ClassifierNetwork, class_map: str):
        self.network, self.guide, self.class_map = network, guide, class_map

    @property
    def backbone(self) -> nnx.Module:
        return self.network.backbone

    def __call__(
        self, images: Float[Array, "b s s d"], *, train: bool, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "b s s"], Float[Array, "b d"]]:
        """Logits and pooled features. The classifier does not learn."""
        maps = jax.lax.stop_gradient(guided.map_classes(self.guide, images, self.class_map))
        return self.network(images[..., :-1], train=train, key=key, maps=maps)


class EnhancedSegmentation(BestKeeper):
    """The coarse network with a class map, trained on masks by the hybrid loss.

    Args:
      coarse: the trained coarse network. In evaluation the new layer starts as the identity of its features, so that
        the whole begins near to it: ours. In training it normalises by the statistics of the batch.
      guide: the trained classifier. It stays as it is.
      spec: the training views.
      settings: of the protocol.
    """

    NAME = "mb_dcnn_enhanced"
    KEPT = ("backbone", "decoder")
    DIMENSIONS = (2,)
    RECIPE = FineTuning.RECIPE

    def __init__(
        self,
        coarse: SegmentationNetwork,
        guide: ClassifierNetwork,
        spec: augment.Views,
        settings: Settings,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(coarse.backbone, spec)
        self.hybrid, self.class_map = take_loss(settings), settings.class_map
        self.decoder = add_map(coarse, rngs=rngs)
        self.guide = hold(guide)
        self.start_keeping()

    @property
    def network(self) -> EnhancedNetwork:
        """Everything that predicts; shares the weights."""
        return EnhancedNetwork(SegmentationNetwork(self.backbone, self.decoder), self.guide, self.class_map)

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        own, dropout = jax.random.split(key)
        view, pairs = augment.random_view_with_mask(own, batch["image"], batch["segmentation"], self.spec)
        given, truth = masks.split_pairs(pairs)
        return {"image": masks.add_channel(view, given), "mask": truth[..., 0], "dropout": dropout}

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        logits, features = self.network(views["image"], train=True, key=views["dropout"])
        return self.hybrid.measure(logits, views["mask"], views["image"], features)


def add_map(coarse: SegmentationNetwork, *, rngs: nnx.Rngs) -> DeepLabDecoder:
    """The decoder of a network with one map more, which counts for nothing at first."""
    config = coarse.decoder.config
    decoder = DeepLabDecoder(coarse.backbone, **{**config, "maps": 1}, rngs=rngs)
    nnx.update(decoder, nnx.state(coarse.decoder))
    kernel = decoder.added.convolution.kernel
    kernel.set_value(jnp.eye(config["width"] + 1, config["width"])[None, None])
    return decoder


def hold(network: nnx.Module) -> nnx.Module:
    """The network with state in the place of parameters and statistics: saved and restored, and never trained."""
    for _, module in list(nnx.iter_modules(network)):
        for name, value in list(vars(module).items()):
            if isinstance(value, nnx.Param | nnx.BatchStat):
                setattr(module, name, Bank(jnp.copy(value.get_value())))
    return network


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains the network from the weights of the coarse one, and scores its masks."""
    settings, target = ENHANCED.read_settings(measurement.target), measurement.target
    guide = guided.load_guided(measurement.needed[CLASSIFIER])
    coarse = target.earlier.classifier.earlier.coarse.system
    paired = {}
    for name, split in subject.splits.items():
        given = masks.make_masks(
            guide.mask,
            split,
            measurement.needed[COARSE],
            orientations=coarse.orientations,
            batch_size=runtime.evaluation_batch,
            seed=measurement.seed,
        )
        paired[name] = masks.pair_masks(given, split.segmentations())
    subject = dataclasses.replace(subject, splits=masks.give_masks(subject.splits, paired), _features={})
    task = EnhancedSegmentation(
        weights.load_segmenter(measurement.needed[COARSE]).network,
        guide.network,
        measurement.views,
        settings,
        rngs=nnx.Rngs(seeds.derive(measurement.seed, "heads")),
    )

    def average(network: nnx.Module) -> nnx.Module:
        return backbones.Averaged(network, settings.scales, orientations=settings.orientations)

    return segment.measure_segmenter(task, measurement, subject, directory, runtime, read=read_pairs, at_test=average)


def read_pairs(
    network: nnx.Module, images: Shaped[Array, "b h w c"], stored: UInt8[Array, "b h w 1"], views: augment.Views
) -> tuple[Float[Array, "b s s"], UInt8[Array, "b h w"]]:
    """The logits of the central view of each image with its given mask, and the true mask."""
    given, truth = masks.split_pairs(stored)
    (shown,) = masks.show_with_masks(images, given, views)
    return network(shown, train=False)[0], truth[..., 0]


def plan_needed(target: ConfigDict) -> dict[str, ConfigDict]:
    """The classifier, and the coarse network that it has."""
    classifier = make_earlier(target, CLASSIFIER)
    return {COARSE: make_earlier(classifier, COARSE), CLASSIFIER: classifier}


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a field that cannot be, for volumes, for a classifier that was given the true masks, and for
    other views than those of the networks that it goes on with.
    """
    ENHANCED.read_settings(target)
    check_segmenting(target, train)
    classifier = target.earlier.classifier
    if classifier.system.mask == masks.TRUTH:
        raise UserError(
            f"earlier.classifier.system.mask is '{masks.TRUTH}': its map would tell {target.protocol} the mask that it "
            f"is to predict; take '{masks.PREDICTED}' or '{masks.NONE}'"
        )
    check_same_input(target, classifier, "earlier.classifier")
    check_same_input(target, classifier.earlier.coarse, "earlier.classifier.earlier.coarse")


ENHANCED = Protocol(
    "mb_dcnn_enhanced",
    trains=True,
    check=check,
    measure=measure,
    needs=data.Needs(masks=True),
    settings=Settings,
    earlier={CLASSIFIER: guided.KIND},
    plan_needed=plan_needed,
    check_model=backbones.check_model,
)
