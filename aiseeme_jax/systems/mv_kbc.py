"""MV-KBC: several planes and three kinds of patch of a nodule, a network for each, fused by layers that learn (Xie et
al., IEEE TMI 38(4), 2019).

What is theirs: the kinds of patch, the heads, the two fusing layers, and the penalty for a missed malignant nodule.
Ours: one network for each kind, shared by the planes (`shared`); where the fusing layers start; the margin.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from aiseeme_jax import data, seeds
from aiseeme_jax.augment.nodule_patches import KINDS
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune
from aiseeme_jax.evaluate.best_weights import BestKeeper
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.metrics import main_metric
from aiseeme_jax.systems.multi_view import FUSIONS, MultiViewNetwork, decision_entropy, patch_entropy, weigh_missed
from aiseeme_jax.systems.nodule_batches import (
    Cutting,
    check_kinds,
    check_nodules,
    count_planes,
    is_of_volumes,
    predict,
)
from aiseeme_jax.task import Batch, Output
from aiseeme_jax.training import checks


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of the system.

    Attributes:
      kinds: of patches, each with networks of its own. ("OA",) with the fusion 'mean' is the plain backbone.
      fusion: 'learned', or 'mean': the mean of the probabilities of all patches, each of which learns the label.
      shared: one network for each kind, shared by all planes; False: one for each kind and plane, 27 for nine planes,
        as published.
      hidden, dropout: of the head on each backbone.
      penalty: factor of the loss of a nodule of the second class whose probability is below 0.5.
      margin: around the nodule's bounding square, on each side, as a share of it.
      heads_first: share of the steps in which the backbones stay as they are.
    """

    kinds: tuple[str, ...] = KINDS
    fusion: str = "learned"
    shared: bool = True
    hidden: tuple[int, ...] = (2048, 1024)
    dropout: float = 0.5
    penalty: float = 2.0
    margin: float = 0.0
    heads_first: float = 0.0

    def __post_init__(self):
        check_kinds(self.kinds)
        if self.fusion not in FUSIONS:
            raise UserError(f"system.fusion is '{self.fusion}'; known are {', '.join(FUSIONS)}")
        if not all(isinstance(width, int) and width > 0 for width in self.hidden):
            raise UserError(f"system.hidden is {self.hidden}; widths are whole numbers above 0")
        for name in ("dropout", "heads_first"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"system.{name} is {getattr(self, name)}; it must lie in [0, 1)")
        if not self.penalty > 0:
            raise UserError(f"system.penalty is {self.penalty}; it must be above 0")
        if not self.margin >= 0:
            raise UserError(f"system.margin is {self.margin}; it must not be negative")


class MultiView(BestKeeper):
    """The networks of a nodule's patches, trained on labels.

    Args:
      network: what is trained.
      cutting: how patches are made of stored nodules.
      penalty, heads_first: as in `Settings`.
      steps: of the training.
    """

    NAME = "mv_kbc"
    KEPT = ("network",)
    DIMENSIONS = (2,)

    def __init__(self, network: MultiViewNetwork, cutting: Cutting, *, penalty: float, heads_first: float, steps: int):
        self.network, self.cutting, self.spec = network, cutting, cutting.views
        self.penalty, self.heads_first, self.steps = penalty, heads_first, steps
        # Steps that hold the backbones, and then steps that train everything.
        self.alternatives = 2 if heads_first else 1
        self.start_keeping()

    @property
    def mode(self) -> dict[str, bool]:
        """How the network runs in a step. While backbones are held, their running statistics stay as they are too."""
        return {"train": True, "train_backbones": self.alternatives == 1 or self.turn == 1}

    @property
    def backbone(self) -> nnx.Module:
        """The first of the backbones. All start from the same weights."""
        return self.network.backbones[0]

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        view_key, dropout_key = jax.random.split(key)
        return {"patches": self.cutting.draw(view_key, batch), "label": batch["label"], "key": dropout_key}

    def shown_images(self, views: Mapping[str, Array]) -> Float[Array, "m s s c"]:
        patches = views["patches"]
        return patches.reshape(-1, *patches.shape[3:])

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        logits, decided, features = self.network(views["patches"], key=views["key"], **self.mode)
        correct = (decided > 0) == (views["label"] == 1)
        return Output(
            loss=self.measure_decisions(logits, decided, views["label"]),
            metrics={"accuracy": jnp.mean(correct)},
            images=self.shown_images(views),
            features=features.reshape(-1, features.shape[-1]),
        )

    def measure_decisions(
        self, logits: Float[Array, "b p k 2"], decided: Float[Array, " b"], labels: Int[Array, " b"]
    ) -> Float[Array, ""]:
        """The loss of what the network says of nodules."""
        # Without fusing layers each patch learns by itself; the penalty follows the decision in any case.
        fused = self.network.fusion == "learned"
        rows = decision_entropy(decided, labels) if fused else patch_entropy(logits, labels)
        return jnp.mean(weigh_missed(decided, labels, self.penalty) * rows)

    def frozen(self, progress: Float[Array, ""]) -> Mapping[str, Bool[Array, ""]]:
        return {"network.backbones": progress < self.heads_first} if self.heads_first else {}

    def choose(self, key: PRNGKeyArray, progress: Float[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The way of `mode`, and for how many steps it is surely that of `frozen`."""
        left = jnp.ceil((self.heads_first - progress) * self.steps) - 1
        released = progress >= self.heads_first
        return released.astype(jnp.int32), jnp.where(released, self.steps, jnp.maximum(left, 1)).astype(jnp.int32)


def make_network(backbone: nnx.Module, settings: Settings, planes: int, rngs: nnx.Rngs) -> MultiViewNetwork:
    """The networks of a system, whose backbones are copies of one."""
    copies = len(settings.kinds) * (1 if settings.shared else planes)
    return MultiViewNetwork(
        [nnx.clone(backbone) for _ in range(copies)],
        planes=planes,
        kinds=len(settings.kinds),
        hidden=settings.hidden,
        dropout=settings.dropout,
        fusion=settings.fusion,
        rngs=rngs,
    )


def make_task(settings: Settings, measurement: Measurement, subject: Subject) -> MultiView:
    """The task of a measurement: copies of the backbone with fresh heads."""
    train = subject.splits["train"]
    rngs = nnx.Rngs(seeds.derive(measurement.seed, "heads"))
    return MultiView(
        make_network(subject.backbone, settings, count_planes(train), rngs),
        Cutting(measurement.views, settings.kinds, settings.margin, is_of_volumes(train)),
        penalty=settings.penalty,
        heads_first=settings.heads_first,
        steps=count_steps(measurement, subject),
    )


def count_steps(measurement: Measurement, subject: Subject) -> int:
    """The steps of a measurement: epochs are those of all labels."""
    return finetune.lengths_for(measurement.target, len(subject.splits["train"])).total


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains the networks, and classifies the nodules of the test split with the weights of the best epoch."""
    return learn_from_labels(MV_KBC.read_settings(measurement.target), measurement, subject, directory, runtime)


def learn_from_labels(
    settings: Settings, measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime
) -> Measured:
    """`measure` with settings of this system, or of one that has them too."""
    split = subject.splits["train"].subset(subject.training_rows(measurement))
    task = make_task(settings, measurement, subject)
    return train_and_predict(task, split, measurement, subject, directory, runtime)


def train_and_predict(
    task: MultiView,
    split: data.Split,
    measurement: Measurement,
    subject: Subject,
    directory: Path,
    runtime: Runtime,
) -> Measured:
    """Trains a task of patches of nodules, and gives what its best epoch says of validation and test.

    Args:
      split: the nodules that it is trained on.
    """
    target, labels = measurement.target, subject.splits["validation"].labels

    def predict_split(task: MultiView, name: str) -> Float[np.ndarray, "n 2"]:
        return predict(task.network, subject.splits[name], task.cutting, batch_size=runtime.evaluation_batch)

    # Epochs are those of all labels.
    lengths = finetune.lengths_for(target, len(subject.splits["train"]))
    trained, record = finetune.train_network(
        task,
        split,
        finetune.make_recipe(target, lengths, len(split), measurement.seed, runtime.patience),
        finetune.make_folder(directory, measurement, subject, split, runtime),
        lambda task: main_metric(labels)(labels, predict_split(task, "validation")),
        loading=runtime.loading,
        segmentation=True,
    )
    found, validation = (predict_split(trained, name) for name in ("test", "validation"))
    known = split.labels >= 0
    images = {"images": int(known.sum())}
    if not known.all():
        images["unlabelled_images"] = int((~known).sum())
    return Measured(found, validation, {**record, **images})


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for fields that cannot be, and for a data set of which no planes can be had."""
    MV_KBC.read_settings(target)
    check_nodules(train, "mv_kbc")
    check_length(target, train)


def check_splits(target: ConfigDict, splits: Mapping[str, data.Split]) -> None:
    """Raises UserError if nodules of a split are not stored in as many planes as those that are learnt from."""
    train = splits["train"]
    for split in splits.values():
        if (is_of_volumes(split), split.pictures) != (is_of_volumes(train), train.pictures):
            raise UserError(
                f"test_data: {split.name} has {_describe_planes(split)} of each nodule, and {train.name}, from which "
                f"{target.protocol} learns, {_describe_planes(train)}; the planes must be the same: take a data set "
                "that is stored in the same way"
            )


def _describe_planes(split: data.Split) -> str:
    return "a volume" if is_of_volumes(split) else f"{split.pictures} plane{'s' * (split.pictures > 1)}"


def check_length(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a batch size, length, optimizer or schedule that cannot be."""
    for fraction in target.fractions:
        finetune.batch_size_for(target.batch_size, round(len(train) * fraction))
    size = finetune.batch_size_for(target.batch_size, len(train))
    checks.check_training(ConfigDict({**target.to_dict(), "batch_size": size}), len(train))


MV_KBC = Protocol(
    "mv_kbc",
    trains=True,
    check=check,
    measure=measure,
    needs=data.Needs(masks=True, together=True),
    settings=Settings,
    check_splits=check_splits,
)
