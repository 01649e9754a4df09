"""NNCLR (Dwibedi et al., ICCV 2021): contrast with the nearest neighbour of the other view, not with the view itself.

Neighbours come from a support set of earlier embeddings, so that positives vary more than augmentation can make them.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import augment, losses, models
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.momentum_contrast import Queue, queue_size
from aiseeme_jax.pretext.simclr import SimCLR
from aiseeme_jax.pretext.two_views import TwoViews
from aiseeme_jax.task import Output, Setting

PUBLISHED_SUPPORT = 98_304


class NNCLR(TwoViews):
    """Mean over both directions of InfoNCE of neighbours of one view in the predictions of the other (algorithm 1).

    The support set holds the first view's embeddings of the last batches. Views are SimCLR's.

    Args:
      temperature: of the softmax over similarities.
      support: embeddings kept; 0 takes the largest multiple of the batch within a quarter of the images and the
        published 98,304, at least one batch. A multiple of the batch, at most the number of images.
      hidden: width of the projection's two hidden layers; 0 takes the backbone's features (2,048 for a ResNet-50).
        The predictor's is twice as wide.
      dimensions: of the projection.

    Raises UserError if the support set does not fit the batch or the data set.
    """

    NAME = "nnclr"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 3
    RECIPE = SimCLR.RECIPE
    EMBEDDING_DISTANCE = "contrastive"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        temperature: float = 0.1,
        support: int = 0,
        hidden: int = 0,
        dimensions: int = 256,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(self, temperature=temperature)
        ranges.check_at_least(self, 0, hidden=hidden)
        ranges.check_at_least(self, 1, dimensions=dimensions)
        hidden = hidden or backbone.features
        head = {"norm": True, "dtype": setting.dtype, "rngs": rngs}
        projector = models.MLP(backbone.features, (hidden, hidden), dimensions, final_norm=True, **head)
        self.encoder = Encoder(backbone, projector)
        self.predictor = models.MLP(dimensions, (2 * hidden,), dimensions, **head)
        size = queue_size(self, "support", support, setting, PUBLISHED_SUPPORT)
        self.support = Queue(size, dimensions, rngs=rngs)
        self.temperature = temperature

    def loss(self, views, progress) -> Output:
        support = self.support.rows.get_value()

        def view(name: str):
            features, embedded = self.encoder(views[name], train=True)
            return features, normalise(embedded), normalise(self.predictor(embedded, train=True))

        (features_1, z1, prediction_1), (features_2, z2, prediction_2) = view("first"), view("second")
        forth = losses.info_nces_in_batch(nearest(z1, support), prediction_2, temperature=self.temperature)
        back = losses.info_nces_in_batch(nearest(z2, support), prediction_1, temperature=self.temperature)
        self.support.push(jax.lax.stop_gradient(z1))
        loss = (jnp.mean(forth) + jnp.mean(back)) / 2
        return self.output(loss, views, features_1, features_2, (forth + back) / 2)


def nearest(rows: Float[Array, "b d"], support: Float[Array, "s d"]) -> Float[Array, "b d"]:
    """The row of `support` most similar to each row, all of length one. No gradient reaches `rows`."""
    return support[jnp.argmax(jnp.matmul(rows, support.T, precision=jax.lax.Precision.HIGHEST), axis=1)]
