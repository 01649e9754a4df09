"""DenseCL (Wang et al., CVPR 2021): contrast at every place of the feature map, beside MoCo's on the whole image.

A place of the query's map has as positive the place of the key's map whose backbone features are most like its own.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.moco_v2 import MoCoV2
from aiseeme_jax.pretext.momentum_contrast import (
    PUBLISHED_QUEUE,
    Queue,
    check_groups,
    query_and_key,
    queue_size,
    shuffled_keys,
)
from aiseeme_jax.task import Average, Output, Setting, Task


class DenseEncoder(nnx.Module):
    """Backbone with a projection of the pooled features and one of every place of the last map.

    Returns pooled features [N, D], embeddings [N, d], features of the places [N, S, D] and their embeddings
    [N, S, d], with all spatial axes in S.
    """

    def __init__(self, backbone: nnx.Module, projector: nnx.Module, dense_projector: nnx.Module):
        self.backbone, self.projector, self.dense_projector = backbone, projector, dense_projector

    def __call__(self, x: Float[Array, "n *space c"], *, train: bool):
        endpoints = self.backbone(x, train=train)
        last = endpoints["stage4"]
        places = last.reshape(last.shape[0], -1, last.shape[-1]).astype(jnp.float32)
        pooled = endpoints["pooled"]
        return pooled, self.projector(pooled, train=train), places, self.dense_projector(places, train=train)


class DenseCL(Task):
    """(1 - dense_weight) InfoNCE of the images + dense_weight InfoNCE of the places, each against its own queue.

    The queue of the places holds the mean of each key's places. The weight is constant: OpenSelfSup, which starts
    with 1,000 updates without the dense term, is not followed in that.

    Args:
      dense_weight: lambda, share of the dense term.
      temperature: of the softmax over similarities.
      queue: keys kept in either queue; 0 takes the largest multiple of the batch within a quarter of the images and
        the published 65,536, at least one batch. A multiple of the batch, at most the number of images.
      momentum: of the moving average that gives the keys.
      groups: virtual groups the keys are shuffled over for batch normalisation; must divide the batch.
      hidden: width of the hidden layer of both projections; 0 takes the backbone's features.
      dimensions: of the projections.

    Raises UserError if queue or groups do not fit the batch or the data set.
    """

    NAME = "densecl"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 2
    RECIPE = MoCoV2.RECIPE
    EMBEDDING_DISTANCE = "contrastive"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        dense_weight: float = 0.5,
        temperature: float = 0.2,
        queue: int = 0,
        momentum: float = 0.999,
        groups: int = 8,
        hidden: int = 0,
        dimensions: int = 128,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(self, temperature=temperature)
        ranges.check_shares(self, dense_weight=dense_weight, momentum=momentum)
        ranges.check_at_least(self, 0, hidden=hidden)
        ranges.check_at_least(self, 1, dimensions=dimensions)
        width = backbone.features
        projectors = [
            models.MLP(width, (hidden or width,), dimensions, dtype=setting.dtype, rngs=rngs) for _ in range(2)
        ]
        self.encoder = DenseEncoder(backbone, *projectors)
        self.target = Average(self.encoder)
        check_groups(self, groups, setting)
        size = queue_size(self, "queue", queue, setting, PUBLISHED_QUEUE)
        self.queue = Queue(size, dimensions, rngs=rngs)
        self.dense_queue = Queue(size, dimensions, rngs=rngs)
        self.dense_weight, self.temperature, self.momentum, self.groups = dense_weight, temperature, momentum, groups

    def views(self, key: PRNGKeyArray, batch):
        return query_and_key(key, batch["image"], self.spec)

    def shown_images(self, views):
        return views["query"]

    def loss(self, views, progress) -> Output:
        features, query, query_places, dense_query = self.encoder(views["query"], train=True)
        keys = shuffled_keys(self.encoder, self.target, views["key"], views["shuffle"], self.groups)
        _, key, key_places, dense_key = keys
        key, pooled_key = normalise(key), normalise(jnp.mean(dense_key, axis=1))
        whole_rows = losses.info_nces(normalise(query), key, self.queue.rows.get_value(), temperature=self.temperature)
        dense_rows = losses.dense_info_nces(
            normalise(dense_query),
            normalise(dense_key),
            losses.dense_correspondence(query_places, key_places),
            self.dense_queue.rows.get_value(),
            temperature=self.temperature,
        )
        self.queue.push(key)
        self.dense_queue.push(pooled_key)
        whole, dense = jnp.mean(whole_rows), jnp.mean(dense_rows)
        loss = (1 - self.dense_weight) * whole + self.dense_weight * dense
        of_places = losses.image_means(dense_rows, query.shape[0])
        of_images = (1 - self.dense_weight) * whole_rows + self.dense_weight * of_places
        metrics = {"global_loss": whole, "dense_loss": dense}
        return Output(loss, metrics, views["query"], features, image_losses=of_images)

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.target.update(self.encoder, self.momentum)
