"""Relative location (Doersch et al., ICCV 2015): where does a patch lie, seen from the centre patch of a 3 x 3 grid?

Shortcuts are closed the way the paper does it: gaps and jitter between patches against continuing edges, patches
normalised one by one and often grey against chromatic aberration.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.pretext.base import Output, Setting, Task, accuracy

GRID = 3
CENTRE = GRID * GRID // 2
NEIGHBOURS = tuple(i for i in range(GRID * GRID) if i != CENTRE)


class RelativeLocation(Task):
    """Eight-way cross-entropy on (centre, neighbour) feature pairs, all eight pairs of each image.

    Args:
      patch: side of a patch in pixels; 0 takes three quarters of a grid cell (64 of 85 at 255 px, as OpenSelfSup).
      hidden: width of the pair's hidden layer; 0 takes twice the backbone's features (4,096 for a ResNet-50).
      dropout: share of the hidden layer dropped in training.
    """

    RECIPE = {"crop_scale": (0.7, 1.0), "flip_horizontal": 0.5, "grey_probability": 0.66}
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
        cell = spec.size // GRID
        self.patch = patch or max(cell * 3 // 4, 1)
        if self.patch > cell:
            raise ValueError(
                f"relative_location: a patch of {self.patch} px does not fit a cell of {cell} px "
                f"(views.size {spec.size} / {GRID}); lower `patch` or raise `views.size`"
            )
        hidden = hidden or 2 * backbone.features
        self.hidden = models.MLP(2 * backbone.features, (), hidden, final_norm=True, dtype=setting.dtype, rngs=rngs)
        self.head = nnx.Linear(hidden, len(NEIGHBOURS), rngs=rngs)
        self.dropout = dropout

    def views(self, key: PRNGKeyArray, batch):
        view_key, patch_key, dropout_key = jax.random.split(key, 3)
        images = augment.random_view(view_key, batch["image"], self.spec)
        # Half of the room moves the patches, the other half keeps them apart.
        jitter = (self.spec.size // GRID - self.patch) // 2
        patches = augment.patches(patch_key, images, grid=GRID, size=self.patch, jitter=jitter, normalise=True)
        return {"patches": patches, "dropout": dropout_key}

    def seen(self, views):
        return views["patches"].reshape(-1, *views["patches"].shape[2:])

    def loss(self, views, *, train: bool = True) -> Output:
        count = views["patches"].shape[0]
        images = self.seen(views)
        features = self.backbone(images, train=train)["pooled"]
        grid = features.reshape(count, GRID * GRID, -1)
        centre = jnp.broadcast_to(grid[:, CENTRE : CENTRE + 1], (count, len(NEIGHBOURS), grid.shape[-1]))
        pairs = jnp.concatenate([centre, grid[:, jnp.array(NEIGHBOURS)]], axis=-1)
        pairs = pairs.reshape(count * len(NEIGHBOURS), -1)
        hidden = jax.nn.relu(self.hidden(pairs, train=train))
        if train and self.dropout > 0:
            kept = jax.random.bernoulli(views["dropout"], 1 - self.dropout, hidden.shape)
            hidden = jnp.where(kept, hidden / (1 - self.dropout), 0.0)
        logits = self.head(hidden)
        labels = jnp.tile(jnp.arange(len(NEIGHBOURS)), count)
        loss = losses.cross_entropy(logits, labels)
        return Output(loss, {"accuracy": accuracy(logits, labels)}, images, features)
