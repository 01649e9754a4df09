"""MoCo v2 (Chen et al., 2020): a query matches the key of its other view against a queue of earlier keys.

Keys come from a moving average of the network, so that the queue stays consistent. Batch normalisation would let a
query recognise its key by the statistics they share; the paper shuffles keys over GPUs. Here the batch is global, so
the shuffle is over virtual groups: keys are permuted, normalised in groups, and put back, the same on any number of
devices.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.pretext.base import Average, Bank, Output, Setting, Task, normalise, two_views

PUBLISHED_QUEUE = 65_536


class Encoder(nnx.Module):
    """Backbone and projection; returns pooled features [N, D] and unit-length embeddings [N, d]."""

    def __init__(self, backbone: nnx.Module, projector: nnx.Module):
        self.backbone, self.projector = backbone, projector

    def __call__(self, x: Float[Array, "n h w c"], *, train: bool):
        features = self.backbone(x, train=train)["pooled"]
        return features, normalise(self.projector(features, train=train))


class MoCoV2(Task):
    """InfoNCE against a queue of keys [queue, dimensions].

    Args:
      temperature: of the softmax over similarities.
      queue: keys kept; 0 takes the largest multiple of the batch within a quarter of the images and the published
        65,536, at least one batch. A multiple of the batch, at most the number of images.
      momentum: of the moving average that gives the keys.
      groups: virtual groups the keys are shuffled over for batch normalisation (8 GPUs in the paper); must divide the
        batch.
      hidden: width of the projection's hidden layer; 0 takes the backbone's features.
      dimensions: of the projection.

    Raises ValueError if queue or groups do not fit the batch or the data set.
    """

    RECIPE = {
        "crop_scale": (0.2, 1.0),
        "jitter_probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "grey_probability": 0.2,
        "blur_probability": 0.5,
    }

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.Views,
        setting: Setting,
        *,
        temperature: float = 0.2,
        queue: int = 0,
        momentum: float = 0.999,
        groups: int = 8,
        hidden: int = 0,
        dimensions: int = 128,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        width = backbone.features
        projector = models.MLP(width, (hidden or width,), dimensions, norm=False, dtype=setting.dtype, rngs=rngs)
        self.encoder = Encoder(backbone, projector)
        self.target = Average(self.encoder)
        size = queue_size(queue, setting)
        if setting.batch % groups:
            raise ValueError(
                f"moco_v2: a batch of {setting.batch} does not divide into {groups} groups; change `groups`"
            )
        self.queue = Bank(normalise(jax.random.normal(rngs.params(), (size, dimensions))))
        self.position = Bank(jnp.zeros((), jnp.int32))
        self.temperature, self.momentum, self.groups = temperature, momentum, groups

    def views(self, key: PRNGKeyArray, batch):
        view_key, shuffle_key = jax.random.split(key)
        query, keyed = two_views(view_key, batch["image"], self.spec)
        return {"query": query, "key": keyed, "shuffle": shuffle_key}

    def seen(self, views):
        return views["query"]

    def loss(self, views, *, train: bool = True) -> Output:
        features, query = self.encoder(views["query"], train=train)
        keys = jax.lax.stop_gradient(self._keys(views["key"], views["shuffle"]))
        queue = self.queue.get_value()
        loss = losses.info_nce(query, keys, queue, temperature=self.temperature)
        if train:
            position = self.position.get_value()
            self.queue.set_value(jax.lax.dynamic_update_slice(queue, keys, (position, 0)))
            self.position.set_value((position + keys.shape[0]) % queue.shape[0])
        return Output(loss, {}, views["query"], features)

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.target.update(self.encoder, self.momentum)

    def _keys(self, images: Float[Array, "b h w c"], key: PRNGKeyArray) -> Float[Array, "b d"]:
        """Embeddings by the moving average, each group of shuffled images normalised by its own statistics."""
        graph, _, rest = nnx.split(self.encoder, nnx.Param, ...)
        params, rest = self.target.parameters(self.encoder), nnx.as_pure(rest)

        def encode(group):
            # The copy merged here is thrown away, and with it the running statistics it gathers.
            _, embedded = nnx.merge(graph, params, rest)(group, train=True)
            return embedded

        order = jax.random.permutation(key, images.shape[0])
        grouped = images[order].reshape(self.groups, -1, *images.shape[1:])
        embedded = jax.vmap(encode)(grouped)
        return embedded.reshape(images.shape[0], -1)[jnp.argsort(order)]


def queue_size(asked: int, setting: Setting) -> int:
    """The queue's length by the rule in `MoCoV2`; ValueError if `asked` does not fit."""
    batch, images = setting.batch, setting.images
    if not asked:
        return max(min(PUBLISHED_QUEUE, images // 4) // batch * batch, batch)
    if asked % batch:
        raise ValueError(f"moco_v2: a queue of {asked} is no multiple of the batch of {batch}; change `queue`")
    if asked > images:
        raise ValueError(f"moco_v2: a queue of {asked} is longer than the split of {images} images; lower `queue`")
    return asked
