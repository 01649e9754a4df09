"""ODC, online deep clustering (Zhan et al., CVPR 2020): DeepCluster with labels that change at every step.

A memory contains a feature and a label for each image of the split. The images of a batch move to the cluster with the
nearest centroid. Clusters that become too small are dissolved, and the largest cluster is halved in their place.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.arrays import matmul, normalise
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.models.heads import drop
from aiseeme_jax.pretext import clustering, ranges
from aiseeme_jax.pretext.cluster_count import cluster_count
from aiseeme_jax.pretext.deepcluster import DeepCluster
from aiseeme_jax.task import Bank, Output, Setting, Task

PUBLISHED_CLUSTERS = 10_000
# Of clusters of 128 images.
PUBLISHED_SMALLEST = 20
# Of the features that are clustered at the start, as in `DeepCluster`.
COMPONENTS = 256
# Of k-means, at the start and to halve a cluster.
ITERATIONS = 20
# Rows whose membership is laid out at a time.
CHUNK = 4096


class Projector(nnx.Module):
    """Linear, batch normalisation without scale and shift, ReLU, dropout, linear, ReLU."""

    def __init__(self, features: int, hidden: int, dimensions: int, dropout: float, *, dtype: str, rngs: nnx.Rngs):
        self.hidden = models.MLP(features, (), hidden, final_norm=True, final_affine=False, dtype=dtype, rngs=rngs)
        self.out = models.MLP(hidden, (), dimensions, dtype=dtype, rngs=rngs)
        self.dropout = dropout

    def __call__(self, x: Float[Array, "n d"], *, train: bool, key: PRNGKeyArray | None = None) -> Float[Array, "n k"]:
        """Nothing is dropped without a key."""
        x = jax.nn.relu(self.hidden(x, train=train))
        if key is not None:
            x = drop(key, x, self.dropout)
        return jax.nn.relu(self.out(x, train=train))


class ODC(Task):
    """Cross-entropy on the labels in the memory of the images of the batch.

    The weight of a label is its cluster's size to the power of -1/2. Before the first step, k-means labels the images
    by the whitened features of the backbone that the stage starts from, as in `DeepCluster`. The memory is then filled
    with the projections of these features. The authors' code fills it with the whitened features themselves, which lie
    in another space than what is averaged into it later. Until then rows are random and the label of an image is its
    index modulo the number of clusters.

    Other differences from the paper: Sobel maps are omitted, as in `DeepCluster`, and one optimizer trains the whole
    task, while the authors' head learns without momentum.

    Args:
      clusters: 0 takes one for 128 images, about as published, at least 16 and at most 10,000, but never more than
        half the images. From 2 to that half.
      smallest: images of a cluster below which it is dissolved; 0 takes a share of the mean size as published, 20 of
        128, at most 20 and at least 1. At most the mean size.
      momentum: share of the old row kept when an image is seen again.
      interval: steps between two updates of all centroids.
      hidden: width of the projection's hidden layer.
      dimensions: of the projection.
      dropout: share of the hidden layer dropped in training.

    Raises UserError if the clusters do not fit the data set, or without an interval.
    """

    NAME = "odc"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 3
    RECIPE = DeepCluster.RECIPE
    AT_EPOCH = "first"
    EMBEDDING_DISTANCE = "cosine"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        clusters: int = 0,
        smallest: int = 0,
        momentum: float = 0.5,
        interval: int = 10,
        hidden: int = 512,
        dimensions: int = 256,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_shares(self, momentum=momentum)
        ranges.check_dropout(self, dropout)
        ranges.check_at_least(self, 1, hidden=hidden, dimensions=dimensions)
        if interval < 1:
            raise UserError(f"{self.NAME}: centroids every {interval} steps; `interval` must be at least 1")
        self.clusters = cluster_count(self, "clusters", clusters, setting, PUBLISHED_CLUSTERS)
        self.smallest = _smallest(self, smallest, setting.images // self.clusters)
        self.momentum, self.interval = momentum, interval
        self.projector = Projector(backbone.features, hidden, dimensions, dropout, dtype=setting.dtype, rngs=rngs)
        self.head = nnx.Linear(dimensions, self.clusters, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
        memory = normalise(jax.random.normal(rngs.params(), (setting.images, dimensions)))
        labels = jnp.arange(setting.images, dtype=jnp.int32) % self.clusters
        self.memory, self.labels = Bank(memory), Bank(labels)
        self.centroids = Bank(means(memory, labels, jnp.zeros((self.clusters, dimensions))))
        # `interval` counts updates, and the progress of the stage does not tell how many there were.
        self.steps = Bank(jnp.zeros((), jnp.int32))

    def at_epoch(self, features: Float[Array, "n d"], key: PRNGKeyArray) -> None:
        rows = normalise(clustering.whitened(features, COMPONENTS))
        labels = clustering.kmeans(key, rows, self.clusters, iterations=ITERATIONS).labels
        # A copy, since running statistics are those of the views in training.
        memory = normalise(nnx.clone(self.projector)(features, train=True))
        self.memory.set_value(memory)
        self.labels.set_value(labels)
        self.centroids.set_value(means(memory, labels, jnp.zeros_like(self.centroids.get_value())))

    def views(self, key: PRNGKeyArray, batch):
        view_key, dropout_key = jax.random.split(key)
        return {**super().views(view_key, batch), "index": batch["index"], "dropout": dropout_key}

    def loss(self, views, progress) -> Output:
        index, kept = views["index"], self.labels.get_value()
        features = self.backbone(views["image"], train=True)["pooled"]
        embedded = self.projector(features, train=True, key=views["dropout"])
        logits, labels, counts = self.head(embedded), kept[index], sizes(kept, self.clusters)
        weights = jax.lax.rsqrt(jnp.maximum(counts, 1.0))
        loss = losses.cross_entropy(logits, labels, weights=weights)
        of_images = losses.image_shares(losses.cross_entropies(logits, labels), weights[labels], len(labels))
        memory = self.memory.get_value()
        rows = self.momentum * memory[index] + (1 - self.momentum) * jax.lax.stop_gradient(normalise(embedded))
        rows = normalise(rows)
        nearest = _nearest(rows, self.centroids.get_value())
        self.memory.set_value(memory.at[index].set(rows))
        self.labels.set_value(kept.at[index].set(nearest))
        metrics = {
            "accuracy": accuracy(logits, labels),
            "relabelled": jnp.mean(nearest != labels),
            "largest_cluster": jnp.max(counts) / len(kept),
        }
        return Output(loss, metrics, views["image"], features, image_losses=of_images)

    def after_update(self, progress: Float[Array, ""]) -> None:
        memory, labels, centroids = self.memory.get_value(), self.labels.get_value(), self.centroids.get_value()
        steps = self.steps.get_value() + 1
        centroids = jax.lax.cond(steps % self.interval == 0, means, lambda *old: old[-1], memory, labels, centroids)
        labels = dissolved(memory, labels, centroids, smallest=self.smallest)
        labels, centroids = refilled(memory, labels, centroids)
        self.steps.set_value(steps)
        self.labels.set_value(labels)
        self.centroids.set_value(centroids)


def sizes(labels: Int[Array, "n"], clusters: int) -> Int[Array, "k"]:
    """Images of each cluster."""
    return jnp.bincount(labels, length=clusters)


def means(memory: Float[Array, "n d"], labels: Int[Array, "n"], old: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Centroids: mean rows of the clusters, not brought to length one; an empty cluster keeps its old one."""
    padding = -len(memory) % min(CHUNK, len(memory))
    rows = jnp.pad(memory, ((0, padding), (0, 0))).reshape(-1, min(CHUNK, len(memory)), memory.shape[1])
    parts = (rows, jnp.pad(labels, (0, padding)).reshape(rows.shape[:2]))

    def add(total, part):
        # Products, since devices that scatter sums in any order would not agree with each other.
        return total + matmul(jax.nn.one_hot(part[1], len(old)).T, part[0]), None

    sums, _ = jax.lax.scan(add, jnp.zeros_like(old), parts)
    counts = sizes(labels, len(old))[:, None]
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), old)


def dissolved(
    memory: Float[Array, "n d"], labels: Int[Array, "n"], centroids: Float[Array, "k d"], *, smallest: int
) -> Int[Array, "n"]:
    """Labels in which each image of a cluster of fewer than `smallest` has gone to the nearest of the other clusters.

    One cluster at least must have `smallest` images.
    """
    counts = sizes(labels, len(centroids))
    large = counts >= smallest

    def dissolve(state):
        labels, left = state
        cluster = jnp.argmax(left)
        (rows,) = jnp.nonzero(labels == cluster, size=smallest, fill_value=len(labels))
        nearest = _nearest(memory.at[rows].get(mode="clip"), centroids, among=large)
        return labels.at[rows].set(nearest, mode="drop"), left.at[cluster].set(False)

    return jax.lax.while_loop(lambda state: jnp.any(state[1]), dissolve, (labels, ~large & (counts > 0)))[0]


def refilled(
    memory: Float[Array, "n d"], labels: Int[Array, "n"], centroids: Float[Array, "k d"]
) -> tuple[Int[Array, "n"], Float[Array, "k d"]]:
    """Labels and centroids after each empty cluster, the first one first, has got a half of the then largest."""

    def refill(state):
        labels, centroids, counts = state
        largest, empty = jnp.argmax(counts), jnp.argmin(counts)
        members = labels == largest
        moved = halves(memory, members)
        stay = members & ~moved
        centroids = centroids.at[largest].set(_mean(memory, stay)).at[empty].set(_mean(memory, moved))
        counts = counts.at[largest].set(jnp.sum(stay)).at[empty].set(jnp.sum(moved))
        return jnp.where(moved, empty, labels).astype(labels.dtype), centroids, counts

    start = (labels, centroids, sizes(labels, len(centroids)))
    labels, centroids, _ = jax.lax.while_loop(lambda state: jnp.any(state[2] == 0), refill, start)
    return labels, centroids


def halves(memory: Float[Array, "n d"], members: Bool[Array, "n"]) -> Bool[Array, "n"]:
    """The members in one of the two clusters that 2-means finds among them; of two or more, neither takes all.

    It starts from every second member, whose mean lies off that of the others mostly along the widest spread. Should
    one of the clusters end empty, as it does where all rows are equal, it remains at that.
    """
    second = members & (jnp.cumsum(members) % 2 == 0)

    def iterate(_, moved):
        one, other = _mean(memory, members & ~moved), _mean(memory, moved)
        middle = (jnp.sum(other * other) - jnp.sum(one * one)) / 2
        return members & (matmul(memory, other - one) > middle)

    found = jax.lax.fori_loop(0, ITERATIONS, iterate, second)
    return jnp.where(jnp.any(found) & jnp.any(members & ~found), found, second)


def _nearest(
    rows: Float[Array, "m d"], centroids: Float[Array, "k d"], among: Bool[Array, "k"] | bool = True
) -> Int[Array, "m"]:
    """The cluster with the largest inner product; as published, so of two in one direction the tighter one."""
    return jnp.argmax(jnp.where(among, matmul(rows, centroids.T), -jnp.inf), axis=1).astype(jnp.int32)


def _mean(memory: Float[Array, "n d"], members: Bool[Array, "n"]) -> Float[Array, "d"]:
    return matmul(members.astype(memory.dtype), memory) / jnp.maximum(jnp.sum(members), 1)


def _smallest(task: Task, asked: int, mean: int) -> int:
    """The size below which a cluster is dissolved, by the rule in `ODC`; UserError if `asked` does not fit."""
    if not asked:
        return min(max(mean * PUBLISHED_SMALLEST // 128, 1), PUBLISHED_SMALLEST)
    if not 1 <= asked <= mean:
        raise UserError(
            f"{task.NAME}: clusters of fewer than {asked} images are dissolved, and the mean has {mean}; "
            f"`smallest` must lie between 1 and {mean}"
        )
    return asked
