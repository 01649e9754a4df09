"""Thorax-Net as two protocols, each made from what the one before left: the attention branch, then everything.

Its first step is plain fine-tuning, so the plain network beside it is the same measurement.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from ml_collections import ConfigDict

from aiseeme_jax import augment, data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune, imbalance
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject, check_same_input
from aiseeme_jax.evaluate.metrics import main_metric
from aiseeme_jax.models import resnet
from aiseeme_jax.systems.thorax_net.kept import ThoraxClassifier, load_thorax_classifier
from aiseeme_jax.systems.thorax_net.network import AVERAGE, decide, make_network
from aiseeme_jax.systems.thorax_net.task import AttentionTraining, JointTraining, ThoraxTraining
from aiseeme_jax.weights import load_classifier

# The measurements that must be made first.
CLASSIFIER, BRANCH = "classifier", "branch"
# Methods against imbalance that do no more than weight the loss.
WEIGHTINGS = ("none", "inverse_frequency", "class_balanced", "focal")


@dataclasses.dataclass(frozen=True)
class AttentionSettings:
    """Fields of a target that trains the branch.

    Attributes:
      hidden: channels before the last layer of the branch; published.
      standardise: whether the map of a class is standardised before its softmax; ours.
    """

    hidden: int = 512
    standardise: bool = True

    def __post_init__(self):
        if self.hidden < 1:
            raise UserError(f"system.hidden is {self.hidden}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class JointSettings:
    """Fields of a target that trains everything.

    Attributes:
      loss_shares: weights of the losses of the classifier, of the attention branch and of the averaged decision. Of
        them, 0.5 for the branch is at second hand, the rest ours.
    """

    loss_shares: tuple[float, float, float] = (0.25, 0.5, 0.25)

    def __post_init__(self):
        if len(self.loss_shares) != 3 or min(self.loss_shares) < 0 or not sum(self.loss_shares) > 0:
            raise UserError(
                f"system.loss_shares are {self.loss_shares}; there must be three, none negative, and not all 0"
            )


def measure_attention(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains an attention branch on the classifier of fine-tuning, which stays as it is."""
    settings: AttentionSettings = THORAX_ATTENTION.read_settings(measurement.target)
    classifier = load_classifier(measurement.needed[CLASSIFIER])
    network = make_network(
        classifier.network.backbone,
        classifier.network.head,
        size=measurement.views.size,
        hidden=settings.hidden,
        standardise=settings.standardise,
        rngs=nnx.Rngs(seeds.derive(measurement.seed, "heads")),
    )
    return train_and_measure(
        AttentionTraining(network, **_common(measurement, subject)), measurement, subject, directory, runtime
    )


def measure_joint(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Trains classifier and attention branch together, from what `measure_attention` left."""
    settings: JointSettings = THORAX_NET.read_settings(measurement.target)
    network = load_thorax_classifier(measurement.needed[BRANCH]).network
    task = JointTraining(network, shares=settings.loss_shares, **_common(measurement, subject))
    return train_and_measure(task, measurement, subject, directory, runtime)


def _common(measurement: Measurement, subject: Subject) -> dict[str, Any]:
    """The arguments that both tasks have."""
    labels = subject.labels("train").take(subject.training_rows(measurement))
    method = imbalance.make_method(measurement.target.imbalance)
    return {"spec": measurement.views, "kind": labels.KIND, "method": method, "counts": imbalance.count(labels)}


def train_and_measure(
    task: ThoraxTraining, measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime
) -> Measured:
    """Trains a task on the labels of a measurement, and classifies the test images by the averaged decision of the best
    epoch. The record has the score of each decision on validation.
    """
    split = subject.splits["train"].subset(subject.training_rows(measurement))
    validation = subject.splits["validation"]
    score = main_metric(validation.labels)
    how = {"views": measurement.views, "batch_size": runtime.evaluation_batch}

    def score_decision(task: ThoraxTraining) -> float:
        found = predict(task, validation, shown=augment.CENTRAL, **how)
        return score(validation.labels, found[task.DECISION])

    task, chosen = finetune.train_network(
        task,
        split,
        finetune.recipe_for(measurement, subject, runtime.patience),
        finetune.make_folder(directory, measurement, subject, split, runtime),
        score_decision,
        loading=runtime.loading,
    )
    checked = predict(task, validation, shown=augment.CENTRAL, **how)
    found = predict(task, subject.splits["test"], shown=measurement.target.test_views, **how)
    scores = {f"validation_score_of_{name}": score(validation.labels, probs) for name, probs in checked.items()}
    names, facts = tuple(map(str, split.class_names)), {"trained_on": split.name, "images": len(split)}
    kept = ThoraxClassifier(task.network, task.kind, names, measurement.views, split.storage, facts)
    return Measured(found[AVERAGE], checked[AVERAGE], {"images": len(split), **scores, **chosen}, network=kept)


def predict(task: ThoraxTraining, split: data.Split, **how: Any) -> dict[str, Float[np.ndarray, "n c"]]:
    """The probabilities of each decision, means over the views that are shown."""
    logits = finetune.predict_views(task.network, split, **how)
    return {name: np.asarray(probs).mean(axis=0) for name, probs in decide(task.kind, jnp.asarray(logits)).items()}


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a field that cannot be: those of fine-tuning, a method against imbalance that does more than
    weight the loss, and other views than those of the network that it starts from.
    """
    if target.imbalance.name not in WEIGHTINGS:
        raise UserError(
            f"imbalance is '{target.imbalance.name}'; {target.protocol} has a weighted loss alone: take one of "
            f"{', '.join(WEIGHTINGS)}"
        )
    for name, earlier in target.earlier.items():
        check_same_input(target, earlier, f"earlier.{name}")
    finetune.check_supervised(target, train)


def check_model(target: ConfigDict, model: ConfigDict) -> None:
    """Raises UserError for another backbone than a ResNet."""
    if model.name not in resnet.ARCHITECTURES:
        raise UserError(
            f"model.name is '{model.name}'; {target.protocol} takes the maps of a ResNet: "
            f"{', '.join(resnet.ARCHITECTURES)}"
        )


def check_attention(target: ConfigDict, train: data.Split) -> None:
    """`check`, and of the fields of the branch."""
    THORAX_ATTENTION.read_settings(target)
    check(target, train)


def check_joint(target: ConfigDict, train: data.Split) -> None:
    """`check`, and of the fields of the joint training."""
    THORAX_NET.read_settings(target)
    check(target, train)


THORAX_ATTENTION = Protocol(
    AttentionTraining.NAME,
    trains=True,
    check=check_attention,
    measure=measure_attention,
    settings=AttentionSettings,
    common=("test_views", "imbalance"),
    check_model=check_model,
    earlier={CLASSIFIER: "finetune"},
)
THORAX_NET = Protocol(
    JointTraining.NAME,
    trains=True,
    check=check_joint,
    measure=measure_joint,
    settings=JointSettings,
    common=("test_views", "imbalance"),
    check_model=check_model,
    earlier={BRANCH: AttentionTraining.NAME},
)
