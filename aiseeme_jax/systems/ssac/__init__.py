"""A system in the style of SSAC: a classifier of nodules that is helped by an adversarial autoencoder. That one learns
from nodules without a label too (Xie, Zhang and Xia, Medical Image Analysis 57, 2019).

Theirs are the three parts: reconstruction R, classifier C, and layers of transition T from R to C, which share no
weights. Layers, sizes, losses, optimizers and batches are not published; those here are ours. So this is not SSAC.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject, draw_training_rows
from aiseeme_jax.models import resnet
from aiseeme_jax.systems import mv_kbc
from aiseeme_jax.systems.nodule_batches import Cutting, check_nodules, count_planes, is_of_volumes
from aiseeme_jax.systems.ssac.autoencoder import REDUCTION, Autoencoder, CodeCritic, ImageCritic
from aiseeme_jax.systems.ssac.network import AssistedNetwork, find_stage_channels
from aiseeme_jax.systems.ssac.task import JUDGED, SemiSupervised


@dataclasses.dataclass(frozen=True)
class Settings(mv_kbc.Settings):
    """Fields of the system, beside those of MV-KBC. With its three kinds and a learnt fusion it is the multi-view form.

    Attributes:
      unsupervised: False leaves out autoencoders and transitions: the same classifiers on the labelled nodules alone.
      labelled_share: of a batch.
      judged: what the critics judge, 'image' or 'code'.
      adversarial: weight of deceiving the critic, beside the reconstruction.
      through: whether the gradient of a decision reaches the autoencoder.
      width, code: channels of the autoencoder's largest maps, and of its code.
      adversary_rate, adversary_b1: learning rate and first moment of Adam, of autoencoder and critic.
    """

    kinds: tuple[str, ...] = ("OA",)
    fusion: str = "mean"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    penalty: float = 1.0
    unsupervised: bool = True
    labelled_share: float = 0.5
    judged: str = "image"
    adversarial: float = 0.01
    through: bool = False
    width: int = 64
    code: int = 64
    adversary_rate: float = 2e-4
    adversary_b1: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.judged not in JUDGED:
            raise UserError(f"system.judged is '{self.judged}'; known are {', '.join(JUDGED)}")
        if not 0 < self.labelled_share < 1:
            raise UserError(f"system.labelled_share is {self.labelled_share}; it must lie in (0, 1)")
        if self.adversarial < 0:
            raise UserError(f"system.adversarial is {self.adversarial}; it must not be negative")
        for name in ("width", "code"):
            if getattr(self, name) < 1:
                raise UserError(f"system.{name} is {getattr(self, name)}; it must be at least 1")
        if not (self.adversary_rate > 0 and 0 <= self.adversary_b1 < 1):
            raise UserError(
                f"system.adversary_rate is {self.adversary_rate} and system.adversary_b1 {self.adversary_b1}; the rate "
                "must be positive, b1 in [0, 1)"
            )

    @property
    def optimizer(self) -> FrozenConfigDict:
        """Of autoencoder and critic."""
        return FrozenConfigDict({
            "name": "adamw", "learning_rate": self.adversary_rate, "weight_decay": 0.0, "b1": self.adversary_b1,
            "b2": 0.999, "clip_norm": 0.0,
        })  # fmt: skip


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains the system, and classifies the nodules of the test split with the weights of the best epoch."""
    settings = SSAC_STYLE.read_settings(measurement.target)
    if not settings.unsupervised:
        return mv_kbc.learn_from_labels(settings, measurement, subject, directory, runtime)
    train, rows = subject.splits["train"], subject.training_rows(measurement)
    split = data.partly_labelled(train, rows, subject.splits["unlabelled"], settings.labelled_share)
    batch = finetune.batch_size_for(measurement.target.batch_size, len(split))
    task = make_task(settings, measurement, subject, split.labelled_rows(batch))
    return mv_kbc.train_and_predict(task, split, measurement, subject, directory, runtime)


def make_task(settings: Settings, measurement: Measurement, subject: Subject, labelled: int) -> SemiSupervised:
    """The task of a measurement.

    Args:
      labelled: labelled nodules of each batch.
    """
    train = subject.splits["train"]
    cutting = Cutting(measurement.views, settings.kinds, settings.margin, is_of_volumes(train))
    rngs = nnx.Rngs(seeds.derive(measurement.seed, "heads"))
    network = make_network(subject.backbone, settings, cutting, count_planes(train), rngs)
    return SemiSupervised(
        network,
        [make_critic(settings, cutting, subject.backbone.channels, rngs) for _ in network.autoencoders],
        cutting,
        penalty=settings.penalty,
        heads_first=settings.heads_first,
        steps=mv_kbc.count_steps(measurement, subject),
        labelled=labelled,
        judged=settings.judged,
        adversarial=settings.adversarial,
        optimizer=settings.optimizer,
    )


def make_network(
    backbone: nnx.Module, settings: Settings, cutting: Cutting, planes: int, rngs: nnx.Rngs
) -> AssistedNetwork:
    copies = len(settings.kinds) * (1 if settings.shared else planes)
    return AssistedNetwork(
        [nnx.clone(backbone) for _ in range(copies)],
        [Autoencoder(backbone.channels, settings.width, settings.code, rngs=rngs) for _ in range(copies)],
        stages=find_stage_channels(backbone, cutting.views.size),
        views=cutting.views,
        through=settings.through,
        planes=planes,
        kinds=len(settings.kinds),
        hidden=settings.hidden,
        dropout=settings.dropout,
        fusion=settings.fusion,
        rngs=rngs,
    )


def make_critic(settings: Settings, cutting: Cutting, channels: int, rngs: nnx.Rngs) -> nnx.Module:
    size = cutting.views.size
    if settings.judged == "image":
        return ImageCritic(channels, settings.width, size, rngs=rngs)
    side = size // REDUCTION
    return CodeCritic((side, side, settings.code), rngs=rngs)


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for fields that cannot be, and for a data set of which no planes can be had."""
    settings = SSAC_STYLE.read_settings(target)
    check_nodules(train, SSAC_STYLE.name)
    if settings.unsupervised and target.batch_size < 2:
        raise UserError(
            f"batch_size is {target.batch_size}; a batch holds a nodule with a label and one without: raise it to 2"
        )
    mv_kbc.check_length(target, train)
    if target.views.size % REDUCTION:
        raise UserError(
            f"views.size is {target.views.size}; the autoencoder halves it four times: take a multiple of {REDUCTION}"
        )


def check_splits(target: ConfigDict, splits: Mapping[str, data.Split]) -> None:
    """Raises UserError for nodules in other planes, and if a share of the labels leaves no nodule without a label."""
    mv_kbc.check_splits(target, splits)
    if not SSAC_STYLE.read_settings(target).unsupervised or len(splits["unlabelled"]):
        return
    train = splits["train"]
    for fraction, seed in itertools.product(target.fractions, target.seeds):
        if len(draw_training_rows(train, target, fraction, seed)) == len(train):
            raise UserError(
                f"{SSAC_STYLE.name} learns from nodules without a label too, and {train.name} has none if "
                f"{in_words(fraction)} are used with seed {seed}: take a config of the data set that keeps them, such "
                f"as lidc_nodules/64_all, leave {fraction} out of the fractions, or set unsupervised=False"
            )


def check_model(target: ConfigDict, model: ConfigDict) -> None:
    """Raises UserError for a backbone that has no stages to help."""
    if SSAC_STYLE.read_settings(target).unsupervised and model.name not in resnet.ARCHITECTURES:
        raise UserError(
            f"model.name is {model.name}; {SSAC_STYLE.name} helps the stages of a ResNet: take one of "
            f"{', '.join(resnet.ARCHITECTURES)}, or set unsupervised=False"
        )


SSAC_STYLE = Protocol(
    "ssac_style",
    trains=True,
    check=check,
    measure=measure,
    needs=data.Needs(masks=True, unlabelled=True, together=True),
    settings=Settings,
    check_splits=check_splits,
    check_model=check_model,
)
