"""Jigsaw (Noroozi & Favaro, ECCV 2016): name the order in which the nine pieces of an image lie.

The orders are a set of permutations that differ in as many places as possible. Each piece passes the network by itself.
A classifier gets the nine outputs side by side.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.pretext import grid, ranges
from aiseeme_jax.pretext.permutations import max_hamming
from aiseeme_jax.task import Output, Setting, Task

PIECES = grid.SIDE**2
PUBLISHED_PERMUTATIONS = 2000


class Jigsaw(Task):
    """Cross-entropy over the permutations, one drawn for each image. Views: patches [B, 9, p, p, C].

    Layers as in VISSL: a hidden layer shared by the pieces, their nine outputs side by side, a linear classifier.

    Args:
      permutations: size of their set; 0 takes one for every hundred images, at least 100 and at most the published
        2,000. (More are no better: VISSL's model zoo has 48.6 % on ImageNet for 100, 46.7 % for 2,000.)
      patch: side of a piece in pixels; 0 takes three quarters of a grid cell (64 of 85 at 255 px, as VISSL).
      hidden: width of a piece's hidden layer; 0 takes half the backbone's features (VISSL: 1,000 of 2,048).

    Raises UserError for a patch that does not fit its cell or a number of permutations that nine pieces do not have.
    """

    NAME = "jigsaw"
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
        permutations: int = 0,
        patch: int = 0,
        hidden: int = 0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_at_least(self, 0, permutations=permutations, hidden=hidden)
        self.patch = grid.patch_size(self, patch, backbone, spec)
        self.permutations = permutations or min(max(setting.images // 100, 100), PUBLISHED_PERMUTATIONS)
        max_hamming(PIECES, self.permutations)
        hidden = hidden or max(backbone.features // 2, 1)
        self.hidden = models.MLP(backbone.features, (), hidden, final_norm=True, dtype=setting.dtype, rngs=rngs)
        self.head = nnx.Linear(PIECES * hidden, self.permutations, rngs=rngs)

    def views(self, key: PRNGKeyArray, batch):
        view_key, patch_key, order_key = jax.random.split(key, 3)
        patches = grid.draw(view_key, patch_key, batch["image"], self.spec, self.patch)
        labels = jax.random.randint(order_key, patches.shape[:1], 0, self.permutations)
        orders = jnp.asarray(max_hamming(PIECES, self.permutations))[labels]
        laid = jax.vmap(lambda pieces, order: pieces[order])(patches, orders)
        return {"patches": laid, "label": labels}

    def shown_images(self, views):
        return views["patches"].reshape(-1, *views["patches"].shape[2:])

    def loss(self, views, progress) -> Output:
        images, labels = self.shown_images(views), views["label"]
        features = self.backbone(images, train=True)["pooled"]
        hidden = jax.nn.relu(self.hidden(features, train=True))
        logits = self.head(hidden.reshape(labels.shape[0], -1))
        rows = losses.cross_entropies(logits, labels)
        return Output(jnp.mean(rows), {"accuracy": accuracy(logits, labels)}, images, features, image_losses=rows)
