"""The two trainings of Thorax-Net that follow fine-tuning: of the attention branch alone, and of everything."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from aiseeme_jax import augment
from aiseeme_jax.evaluate.best_weights import BestKeeper
from aiseeme_jax.evaluate.imbalance import Counts, Method, Moment
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.systems.thorax_net.network import (
    ATTENTION,
    AVERAGE,
    AttentionBranch,
    Branches,
    ThoraxNetwork,
    average_decisions,
    measure_entropy,
)
from aiseeme_jax.task import Bank, Batch, Output


class ThoraxTraining(BestKeeper):
    """The base of both: a classifier with an attention branch, trained on labels.

    Args:
      network: is taken over.
      spec: the training views.
      kind: of the labels.
      method: against the imbalance of the classes; it weights the loss.
      counts: training images of each class, or a pair for each finding.

    Class attributes:
      DECISION: that of `network.decide` by which the best weights are chosen on validation.
    """

    RECIPE: ClassVar[Mapping[str, Any]] = FineTuning.RECIPE
    CONSTANTS = ("table",)
    DECISION: ClassVar[str]
    branch: AttentionBranch

    def __init__(self, network: ThoraxNetwork, spec: augment.AnyViews, *, kind: str, method: Method, counts: Counts):
        super().__init__(network.backbone, spec)
        self.head, self.branch, self.kind = network.head, network.branch, kind
        self.method, self.counts = method, method.needed_counts(counts)
        # As in fine-tuning, what follows from the sizes of the classes is handed to the program as arrays.
        table = method.tabulate(counts)
        self.table = nnx.Dict({name: Bank(jnp.asarray(array, jnp.float32)) for name, array in table.items()})
        self.start_keeping()

    @property
    def network(self) -> ThoraxNetwork:
        """The network; shares the weights of the task."""
        return ThoraxNetwork(self.backbone, self.head, self.branch)

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        return {**super().views(key, batch), "label": batch["label"]}

    def measure_loss(self, logits: Float[Array, "b c"], labels: Array, progress: Float[Array, ""]):
        """The weighted loss of logits, by the method against imbalance."""
        table = {name: variable.get_value() for name, variable in self.table.items()}
        return self.method.loss(self.kind, logits, labels, self.counts, Moment(progress, table=table))

    def make_output(self, views: Mapping[str, Array], found: Branches, loss: Array, empty: Any, **metrics) -> Output:
        """What `loss` returns. `map_entropy` is log n where the maps of n places are flat."""
        metrics = {**metrics, "map_entropy": measure_entropy(found.maps)}
        return Output(loss=loss, metrics=metrics, images=views["image"], features=found.features, empty=empty)


class AttentionTraining(ThoraxTraining):
    """The attention branch learns; the classifier stays as it is, its running statistics too."""

    NAME = "thorax_attention"
    KEPT = ("branch",)
    DECISION = ATTENTION

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        found = self.network.run(views["image"], train=True, train_classifier=False)
        loss = self.measure_loss(found.attention, views["label"], progress)
        return self.make_output(views, found, loss.value, loss.empty)

    def frozen(self, progress: Float[Array, ""]) -> Mapping[str, Bool[Array, ""]]:
        return {"backbone": jnp.bool_(True), "head": jnp.bool_(True)}


class JointTraining(ThoraxTraining):
    """Everything learns from a weighted sum of three losses.

    Args:
      shares: weights of the losses of the classifier, of the attention branch, and of the averaged decision.
    """

    NAME = "thorax_net"
    KEPT = ("backbone", "head", "branch")
    DECISION = AVERAGE

    def __init__(
        self,
        network: ThoraxNetwork,
        spec: augment.AnyViews,
        *,
        kind: str,
        method: Method,
        counts: Counts,
        shares: tuple[float, float, float],
    ):
        super().__init__(network, spec, kind=kind, method=method, counts=counts)
        self.shares = shares

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        found = self.network.run(views["image"], train=True)
        average = average_decisions(self.kind, found.classification, found.attention)
        logits = {"classification": found.classification, "attention": found.attention, "average": average}
        losses = {name: self.measure_loss(one, views["label"], progress) for name, one in logits.items()}
        total = sum(share * one.value for share, one in zip(self.shares, losses.values(), strict=True))
        terms = {f"{name}_loss": one.value for name, one in losses.items()}
        return self.make_output(views, found, total, losses["average"].empty, **terms)
