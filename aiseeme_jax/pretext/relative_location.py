"""Relative location (Doersch et al., ICCV 2015): where a patch lies, relative to the centre of a 3 x 3 grid."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.models.heads import drop
from aiseeme_jax.pretext import grid, ranges
from aiseeme_jax.task import Output, Setting, Task


class RelativeLocation(Task):
    """Eight-way cross-entropy on (centre, neighbour) feature pairs, all eight pairs of each image.

    Args:
      patch: side of a patch in pixels; 0 takes three quarters of a grid cell (64 of 85 at 255 px, as OpenSelfSup).
      hidden: width of the pair's hidden layer; 0 takes twice the backbone's features (4,096 for a ResNet-50).
      dropout: share of the hidden layer dropped in training.
    """

    NAME = "relative_location"
    IMAGE_LOSSES = True
    DIMENSIONS = (2,)
    RECIPE = grid.RECIPE
    FIXED = {"rotation": 0.0}

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.Views,
        setting: Setting,
        *,
        patch: int = 0,
        hidden: int = 0,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_dropout(self, dropout)
        ranges.check_at_least(self, 0, hidden=hidden)
        self.patch = grid.patch_size(self, patch, backbone, spec)
        cells = grid.SIDE**spec.dimensions
        self.centre = cells // 2
        self.neighbours = tuple(cell for cell in range(cells) if cell != self.centre)
        hidden = hidden or 2 * backbone.features
        self.hidden = models.MLP(2 * backbone.features, (), hidden, final_norm=True, dtype=setting.dtype, rngs=rngs)
        self.head = nnx.Linear(hidden, len(self.neighbours), rngs=rngs)
        self.dropout = dropout

    def views(self, key: PRNGKeyArray, batch):
        view_key, patch_key, dropout_key = jax.random.split(key, 3)
        patches = grid.draw(view_key, patch_key, batch["image"], self.spec, self.patch)
        return {"patches": patches, "dropout": dropout_key}

    def shown_images(self, views):
        return views["patches"].reshape(-1, *views["patches"].shape[2:])

    def loss(self, views, progress) -> Output:
        count, cells = views["patches"].shape[:2]
        images = self.shown_images(views)
        features = self.backbone(images, train=True)["pooled"]
        placed = features.reshape(count, cells, -1)
        neighbours = placed[:, jnp.array(self.neighbours)]
        centre = jnp.broadcast_to(placed[:, self.centre, None], neighbours.shape)
        pairs = jnp.concatenate([centre, neighbours], axis=-1)
        hidden = jax.nn.relu(self.hidden(pairs.reshape(-1, pairs.shape[-1]), train=True))
        logits = self.head(drop(views["dropout"], hidden, self.dropout))
        labels = jnp.tile(jnp.arange(len(self.neighbours)), count)
        rows = losses.cross_entropies(logits, labels)
        of_images = losses.image_means(rows, count)
        metrics = {"accuracy": accuracy(logits, labels)}
        return Output(jnp.mean(rows), metrics, images, features, image_losses=of_images)
