"""SimSiam (Chen & He, CVPR 2021): two views predict each other; the predicted side gets no gradient.

This is BYOL without the moving average. Stopping the gradient on one side keeps the features from collapsing.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from aiseeme_jax import augment, losses, models
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.moco_v2 import MoCoV2
from aiseeme_jax.pretext.two_views import TwoViews
from aiseeme_jax.task import Output, Setting


class SimSiam(TwoViews):
    """Mean over both directions of -cos(prediction of one view, projection of the other), from -1 to 1.

    The predictor learns at the stage's peak rate throughout, while all else follows its schedule (section 4.1 of the
    paper).

    Args:
      hidden: width of the projection, hidden layers and output; 0 takes the backbone's features (2,048 for a
        ResNet-50).
      bottleneck: width of the predictor's hidden layer; 0 takes a quarter of `hidden`.
    """

    NAME = "simsiam"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 3
    RECIPE = MoCoV2.RECIPE
    CONSTANT_RATE = ("predictor",)
    EMBEDDING_DISTANCE = "cosine"
    LOWEST_LOSS = -1.0

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        hidden: int = 0,
        bottleneck: int = 0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_at_least(self, 0, hidden=hidden, bottleneck=bottleneck)
        hidden = hidden or backbone.features
        head = {"norm": True, "dtype": setting.dtype, "rngs": rngs}
        projector = models.MLP(backbone.features, (hidden, hidden), hidden, final_norm=True, final_affine=False, **head)
        self.encoder = Encoder(backbone, projector)
        self.predictor = models.MLP(hidden, (bottleneck or max(hidden // 4, 1),), hidden, **head)

    def loss(self, views, progress) -> Output:
        features_1, z1 = self.encoder(views["first"], train=True)
        features_2, z2 = self.encoder(views["second"], train=True)
        forth = -losses.cosines(self.predictor(z1, train=True), jax.lax.stop_gradient(z2))
        back = -losses.cosines(self.predictor(z2, train=True), jax.lax.stop_gradient(z1))
        loss = (jnp.mean(forth) + jnp.mean(back)) / 2
        return self.output(loss, views, features_1, features_2, (forth + back) / 2)
