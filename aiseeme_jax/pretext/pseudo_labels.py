"""What the tasks of off-line clustering share: a label for each image of the split, and a layer that predicts it.

Labels are clusters of the features of the whole split, made in `at_epoch`. They are saved with the task, so a run that
resumes in the middle of an epoch goes on with the labels of that epoch.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.pretext import clustering
from aiseeme_jax.pretext.cluster_count import cluster_count
from aiseeme_jax.task import Bank, Batch, Output, Setting, Task


class PseudoLabels(Task):
    """Cross-entropy between a linear layer on the pooled features and the cluster of the image.

    Until the first `at_epoch` the label of an image is its index modulo the number of clusters.

    Args:
      clusters, iterations: as the tasks describe them.
      published: number of clusters.

    Raises UserError if the clusters do not fit the data set, or without an iteration.
    """

    RESTARTS = ("head",)

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        clusters: int,
        iterations: int,
        published: int,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        if iterations < 1:
            raise UserError(f"{self.NAME}: {iterations} iterations of k-means; `iterations` must be at least 1")
        self.iterations = iterations
        self.clusters = cluster_count(self, "clusters", clusters, setting, published)
        self.head = _head(backbone, self.clusters, rngs)
        self.labels = Bank(jnp.arange(setting.images, dtype=jnp.int32) % self.clusters)
        self.counts = Bank(jnp.bincount(self.labels.get_value(), length=self.clusters).astype(jnp.float32))

    def views(self, key: PRNGKeyArray, batch: Batch):
        return {**super().views(key, batch), "index": batch["index"]}

    def loss(self, views, progress) -> Output:
        labels = self.labels.get_value()[views["index"]]
        features = self.backbone(views["image"], train=True)["pooled"]
        logits = self.head(features)
        weights = self.weights()
        loss = losses.cross_entropy(logits, labels, weights=weights)
        counted = jnp.ones(len(labels)) if weights is None else weights[labels]
        of_images = losses.image_shares(losses.cross_entropies(logits, labels), counted, len(labels))
        counts = self.counts.get_value()
        metrics = {"accuracy": accuracy(logits, labels), "largest_cluster": jnp.max(counts) / jnp.sum(counts)}
        return Output(loss, metrics, views["image"], features, image_losses=of_images)

    def weights(self) -> Float[Array, "k"] | None:
        """What an image of each cluster counts in the loss; None: all alike."""
        return None

    def cluster(self, rows: Float[Array, "n d"], key: PRNGKeyArray) -> None:
        """Labels every image by k-means over `rows`, brought to length one, and draws the layer anew."""
        seeds, head = jax.random.split(key)
        found = clustering.kmeans(seeds, normalise(rows), self.clusters, iterations=self.iterations)
        self.labels.set_value(found.labels)
        self.counts.set_value(found.counts)
        nnx.update(self.head, nnx.state(_head(self.backbone, self.clusters, nnx.Rngs(head))))


def _head(backbone: nnx.Module, clusters: int, rngs: nnx.Rngs) -> nnx.Linear:
    # Small weights: the layer is new whenever labels change, and its first gradients should hardly move the backbone.
    return nnx.Linear(backbone.features, clusters, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
