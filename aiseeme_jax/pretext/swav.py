"""SwAV (Caron et al., NeurIPS 2020): every crop predicts the prototypes that another view was assigned to.

Assignments are soft and made online, by Sinkhorn-Knopp. Over the batch and a queue of earlier embeddings all prototypes
get the same share, so that not all views can be assigned to one prototype.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.losses.arrays import matmul, normalise
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.cluster_count import cluster_count
from aiseeme_jax.pretext.momentum_contrast import Queue, queue_size
from aiseeme_jax.pretext.multicrop import by_image, multi_crop
from aiseeme_jax.pretext.simclr import SimCLR
from aiseeme_jax.task import Bank, Output, Setting, Task

PUBLISHED_PROTOTYPES = 3_000
PUBLISHED_QUEUE = 3_840


class SwAV(Task):
    """Cross-entropy of each crop with the assignments of the other global crops (eqs. 1 to 5).

    Lengths that the paper gives in epochs are shares of the stage here, those of its run of 200 epochs in batches of
    256. There is a queue for each global crop. It is filled from the first step; the authors' code fills it from the
    epoch in which it starts. So it is full when it is first used. In a very short stage it is used as soon as it is
    full. Prototypes have length one before the first step and after each.

    Args:
      temperature: of the softmax over prototypes.
      epsilon: of Sinkhorn-Knopp; the smaller, the harder the assignments.
      iterations: of Sinkhorn-Knopp.
      prototypes: 0 takes one for 128 images, at least 16 and at most the published 3,000, but never more than half the
        images. From 2 to that half.
      frozen: share of the stage in which the prototypes do not learn (1 of 200 epochs).
      queue: earlier embeddings assigned with the batch's; 0 takes the largest multiple of the batch within a quarter of
        the images and the published 3,840, at least one batch. A multiple of the batch, at most the number of images.
      queue_start: share of the stage before the queue is used (15 of 200 epochs); 1 for never.
      hidden: width of the projection's hidden layer; 0 takes the backbone's features (2,048 for a ResNet-50).
      dimensions: of the projection.
      local_crops, local_size, local_scale: as in `multicrop.multi_crop`.

    Raises UserError if prototypes, queue or crops do not fit the batch or the data set.
    """

    NAME = "swav"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 2
    RECIPE = {**SimCLR.RECIPE, "crop_scale": (0.14, 1.0)}
    EMBEDDING_DISTANCE = "prototypes"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        prototypes: int = 0,
        frozen: float = 0.005,
        queue: int = 0,
        queue_start: float = 0.075,
        hidden: int = 0,
        dimensions: int = 128,
        local_crops: int = 6,
        local_size: int = 0,
        local_scale: tuple[float, float] = (0.05, 0.14),
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(self, temperature=temperature, epsilon=epsilon)
        ranges.check_shares(self, frozen=frozen, queue_start=queue_start)
        ranges.check_at_least(self, 0, hidden=hidden, local_size=local_size)
        ranges.check_at_least(self, 1, iterations=iterations, dimensions=dimensions)
        self.crops = multi_crop(
            self, backbone, spec, local_crops=local_crops, local_size=local_size, local_scale=local_scale
        )
        width = backbone.features
        self.projector = models.MLP(width, (hidden or width,), dimensions, norm=True, dtype=setting.dtype, rngs=rngs)
        count = cluster_count(self, "prototypes", prototypes, setting, PUBLISHED_PROTOTYPES)
        self.directions = nnx.Param(_unit_columns(jax.random.normal(rngs.params(), (dimensions, count))))
        size = queue_size(self, "queue", queue, setting, PUBLISHED_QUEUE)
        self.queues = nnx.List(Queue(size, dimensions, rngs=rngs) for _ in range(2))
        self.filled = Bank(jnp.zeros((), jnp.int32))
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.frozen_share, self.queue_start = frozen, queue_start

    def views(self, key: PRNGKeyArray, batch):
        return self.crops.views(key, batch["image"])

    def shown_images(self, views):
        return views["global"]

    def loss(self, views, progress) -> Output:
        count = views["global"].shape[0] // 2
        pooled = self.backbone(views["global"], train=True)["pooled"]
        features = by_image(pooled, count)
        if "local" in views:
            local = by_image(self.backbone(views["local"], train=True)["pooled"], count)
            features = jnp.concatenate([features, local], axis=1)
        # One normalisation over the crops of both sizes, as in the authors' code.
        embedded = normalise(self.projector(features.reshape(-1, features.shape[-1]), train=True))
        directions = self.directions.get_value()
        scores = by_image(_scores(embedded, directions), count)
        known = jax.lax.stop_gradient((by_image(embedded, count), scores, directions))
        use_queue = (progress >= self.queue_start) & (self.filled.get_value() >= self.queues[0].rows.shape[0])
        codes = jnp.stack([self._codes(i, *known, use_queue) for i in range(2)], axis=1)
        loss = losses.swapped_prediction(scores, codes, temperature=self.temperature)
        of_images = losses.swapped_predictions(scores, codes, temperature=self.temperature)
        for i, queue in enumerate(self.queues):
            queue.push(known[0][:, i])
        size = self.queues[0].rows.shape[0]
        self.filled.set_value(jnp.minimum(self.filled.get_value() + count, size))
        return Output(loss, {}, views["global"], pooled, image_losses=of_images)

    def _codes(
        self,
        i: int,
        embedded: Float[Array, "b v d"],
        scores: Float[Array, "b v k"],
        directions: Float[Array, "d k"],
        use_queue: Bool[Array, ""],
    ) -> Float[Array, "b k"]:
        """Assignments of the i-th global crops, made together with those of the queue if it is used."""
        rows = self.queues[i].rows.get_value()

        def without_queue():
            return losses.sinkhorn(scores[:, i], epsilon=self.epsilon, iterations=self.iterations)

        def with_queue():
            both = jnp.concatenate([scores[:, i], _scores(rows, directions)])
            return losses.sinkhorn(both, epsilon=self.epsilon, iterations=self.iterations)[: len(scores)]

        return jax.lax.cond(use_queue, with_queue, without_queue)

    def prototypes(self) -> Float[Array, "d k"]:
        return self.directions.get_value()

    def frozen(self, progress: Float[Array, ""]):
        return {"directions": progress < self.frozen_share}

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.directions.set_value(_unit_columns(self.directions.get_value()))


def _scores(embedded: Float[Array, "n d"], directions: Float[Array, "d k"]) -> Float[Array, "n k"]:
    """Cosines, in true float32: epsilon would magnify what an accelerator rounds away."""
    return matmul(embedded, directions)


def _unit_columns(directions: Float[Array, "d k"]) -> Float[Array, "d k"]:
    return normalise(directions.T).T
