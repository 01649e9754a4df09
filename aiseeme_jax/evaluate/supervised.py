"""The supervised task: like the pretext tasks, so that the same loop trains it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from aiseeme_jax import augment
from aiseeme_jax.evaluate.best_weights import BestKeeper, replace_value
from aiseeme_jax.evaluate.imbalance import Counts, Method, Moment
from aiseeme_jax.evaluate.labels import ClassLabels
from aiseeme_jax.losses import accuracy, cross_entropies
from aiseeme_jax.models import layers
from aiseeme_jax.models.classifier import ClassifierNetwork
from aiseeme_jax.task import Bank, Batch, Output


class FineTuning(BestKeeper):
    """A backbone with a head on its pooled features, trained on labels.

    It carries a copy of the best weights so far, and, if its method asks for it, what the classes lost in this epoch
    and in the last one. Checkpoints hold both, so a run that was killed and goes on ends with the same weights.

    Args:
      backbone: starts from whatever weights it has.
      spec: the training views.
      method: against the imbalance of the classes.
      counts: training images of each class, or a pair for each finding, as `imbalance.count` gives them.
      kind: of the labels.
      difficulty: [C] mean loss of each class, for a method that takes it from a baseline.
      trained: what of the backbone is trained: 'all', or 'norms', the scales and biases of its normalisation layers
        (Frankle et al., arXiv 2003.00152). The head always is. Running statistics always follow the images.
      layer_decay: the learning rate of each layer is that of the next one, nearer to the head, times this.
    """

    NAME = "finetune"
    KEPT = ("backbone", "head")
    CONSTANTS = ("table",)
    RECIPE: ClassVar[Mapping[str, Any]] = {
        "crop_scale": (0.5, 1.0),
        "flip_horizontal": 0.5,
        "jitter_probability": 0.8,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.02,
    }

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        *,
        method: Method,
        counts: Counts,
        kind: str = "class",
        difficulty: Float[np.ndarray, " c"] | None = None,
        trained: str = "all",
        layer_decay: float = 1.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        self.held = {"all": (), "norms": layers.list_outside_norms(backbone)}[trained]
        if layer_decay < 1:
            scales = layers.scale_by_layer(backbone, layer_decay)
            self.rate_factors = tuple((f"backbone.{name}", factor) for name, factor in scales)
        self.kind, self.method, self.counts = kind, method, method.needed_counts(counts)
        table = method.tabulate(counts)
        # What follows from the sizes is handed to the program as arrays: all shares of the labels have the same one.
        self.table = nnx.Dict({name: Bank(jnp.asarray(array, jnp.float32)) for name, array in table.items()})
        self.head = method.make_head(backbone.features, len(self.counts), rngs=rngs)
        if method.measures_difficulty:
            difficulty = np.full(len(self.counts), np.nan)
            self.epoch_losses = Bank(jnp.zeros(len(self.counts), jnp.float32))
            self.epoch_rows = Bank(jnp.zeros(len(self.counts), jnp.float32))
        self.difficulty = None if difficulty is None else Bank(jnp.asarray(difficulty, jnp.float32))
        self.start_keeping()

    @property
    def trained_network(self) -> ClassifierNetwork:
        """Backbone and head as the loss has them; shares their weights."""
        return ClassifierNetwork(self.backbone, self.head)

    @property
    def network(self) -> ClassifierNetwork:
        """Backbone and head as they are used: with what the method adds to the logits, in the bias of the head."""
        shift = self.method.logit_shift(self._read_table())
        if shift is None:
            return self.trained_network
        head = nnx.clone(self.head)
        head.bias.set_value(head.bias.get_value() + jnp.asarray(shift, jnp.float32))
        return ClassifierNetwork(self.backbone, head)

    def end_epoch(self) -> None:
        """Makes the mean losses of the epoch the difficulty of the classes; a class without a row keeps its own."""
        if not self.method.measures_difficulty:
            return
        rows = np.asarray(self.epoch_rows.get_value())
        means = np.asarray(self.epoch_losses.get_value()) / np.maximum(rows, 1)
        replace_value(self.difficulty, np.where(rows > 0, means, np.asarray(self.difficulty.get_value())))
        for sums in (self.epoch_losses, self.epoch_rows):
            replace_value(sums, np.zeros_like(rows))

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        return {**super().views(key, batch), "label": batch["label"]}

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        """The loss of the method."""
        logits, features = self.trained_network(views["image"], train=True)
        labels = views["label"]
        difficulty = None if self.difficulty is None else self.difficulty.get_value()
        moment = Moment(progress, difficulty, self._read_table())
        loss = self.method.loss(self.kind, logits, labels, self.counts, moment)
        if self.method.measures_difficulty:
            self._add_losses(jax.lax.stop_gradient(cross_entropies(logits, labels)), labels)
        metrics = {"accuracy": accuracy(logits, labels)} if self.kind == ClassLabels.KIND else {}
        return Output(loss=loss.value, metrics=metrics, images=views["image"], features=features, empty=loss.empty)

    def frozen(self, progress: Float[Array, ""]) -> Mapping[str, Bool[Array, ""]]:
        return {f"backbone.{name}": jnp.bool_(True) for name in self.held}

    def _read_table(self) -> dict[str, Array]:
        return {name: variable.get_value() for name, variable in self.table.items()}

    def _add_losses(self, rows: Float[Array, " b"], labels: Array) -> None:
        """Adds the losses of a batch, of all its rows, to those of the epoch."""
        for sums, values in ((self.epoch_losses, rows), (self.epoch_rows, jnp.ones_like(rows))):
            added = jax.ops.segment_sum(values, labels, num_segments=len(self.counts))
            sums.set_value(sums.get_value() + added)
