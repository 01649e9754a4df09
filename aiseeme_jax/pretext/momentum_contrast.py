"""What the tasks of momentum contrast share: a queue of keys, and keys from a moving average over shuffled groups.

Keys come from a moving average of the network, so that the keys in the queue are comparable. With batch normalisation
a query could recognise its key by the statistics that they share, so MoCo (section 3.3) shuffles keys over GPUs. Here
the batch is global, and keys are shuffled over virtual groups: they are permuted, normalised in groups, and put back.
This is the same on any number of devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.two_views import two_views
from aiseeme_jax.task import Average, Bank, Output, Setting, Task

PUBLISHED_QUEUE = 65_536


class Queue(nnx.Module):
    """Embeddings of the last batches, rows of length one; random to begin with."""

    def __init__(self, size: int, dimensions: int, *, rngs: nnx.Rngs):
        self.rows = Bank(normalise(jax.random.normal(rngs.params(), (size, dimensions))))
        self.position = Bank(jnp.zeros((), jnp.int32))

    def push(self, rows: Float[Array, "b d"]) -> None:
        """Puts a batch in the place of the oldest one."""
        kept, position = self.rows.get_value(), self.position.get_value()
        self.rows.set_value(jax.lax.dynamic_update_slice(kept, rows, (position, 0)))
        self.position.set_value((position + rows.shape[0]) % kept.shape[0])


class MomentumContrast(Task):
    """InfoNCE of queries against a queue of keys: MoCo but for the head, the temperature and the views.

    Args:
      projector: on the pooled features, to `dimensions`.
      temperature, queue, momentum, groups: as the tasks describe them.

    Raises UserError if queue or groups do not fit the batch or the data set.
    """

    MINIMUM_BATCH = 2
    EMBEDDING_DISTANCE = "contrastive"

    def __init__(
        self,
        backbone: nnx.Module,
        projector: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        temperature: float,
        queue: int,
        momentum: float,
        groups: int,
        dimensions: int,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(self, temperature=temperature)
        ranges.check_shares(self, momentum=momentum)
        self.encoder = Encoder(backbone, projector)
        self.target = Average(self.encoder)
        check_groups(self, groups, setting)
        self.queue = Queue(queue_size(self, "queue", queue, setting, PUBLISHED_QUEUE), dimensions, rngs=rngs)
        self.temperature, self.momentum, self.groups = temperature, momentum, groups

    def views(self, key: PRNGKeyArray, batch):
        return query_and_key(key, batch["image"], self.spec)

    def shown_images(self, views):
        return views["query"]

    def loss(self, views, progress) -> Output:
        features, query = self.encoder(views["query"], train=True)
        _, keys = shuffled_keys(self.encoder, self.target, views["key"], views["shuffle"], self.groups)
        keys = normalise(keys)
        rows = losses.info_nces(normalise(query), keys, self.queue.rows.get_value(), temperature=self.temperature)
        self.queue.push(keys)
        return Output(jnp.mean(rows), {}, views["query"], features, image_losses=rows)

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.target.update(self.encoder, self.momentum)


def query_and_key(key: PRNGKeyArray, images: Array, spec: augment.AnyViews) -> dict[str, Array]:
    """Two views of each image, and the random key of the shuffle."""
    view_key, shuffle_key = jax.random.split(key)
    query, keyed = two_views(view_key, images, spec)
    return {"query": query, "key": keyed, "shuffle": shuffle_key}


def shuffled_keys(
    encoder: nnx.Module, target: Average, images: Float[Array, "b *space c"], key: PRNGKeyArray, groups: int
) -> Any:
    """What the moving average of `encoder` gives for `images`, without a gradient.

    Each of the groups, shuffled by `key`, is normalised by its own statistics; rows come back in the order of `images`.
    """
    graph, state = nnx.split(target.module(encoder))
    state = nnx.as_pure(state)
    order = jax.random.permutation(key, images.shape[0])
    grouped = images[order].reshape(groups, -1, *images.shape[1:])
    encoded = jax.vmap(lambda group: nnx.merge(graph, state)(group, train=True))(grouped)

    def in_order(rows):
        return rows.reshape(images.shape[0], *rows.shape[2:])[jnp.argsort(order)]

    return jax.lax.stop_gradient(jax.tree.map(in_order, encoded))


def check_groups(task: Task, groups: int, setting: Setting) -> None:
    """Raises UserError unless the batch divides into the groups."""
    if groups < 1 or setting.batch % groups:
        raise UserError(
            f"{task.NAME}: a batch of {setting.batch} does not divide into {groups} groups; change `groups`"
        )


def queue_size(task: Task, field: str, asked: int, setting: Setting, published: int) -> int:
    """Length of a queue: `asked`, or if that is 0 a length that suits the data set.

    That is the largest multiple of the batch within a quarter of the images and the published length, at least one
    batch. Raises UserError, which names the task and its field, unless `asked` is a multiple of the batch and at most
    the number of images.
    """
    batch, images = setting.batch, setting.images
    ranges.check_at_least(task, 0, **{field: asked})
    if not asked:
        return max(min(published, images // 4) // batch * batch, batch)
    if asked % batch:
        raise UserError(f"{task.NAME}: a queue of {asked} is no multiple of the batch of {batch}; change `{field}`")
    if asked > images:
        raise UserError(f"{task.NAME}: a queue of {asked} is longer than the split of {images} images; lower `{field}`")
    return asked
