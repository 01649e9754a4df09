"""Barlow Twins (Zbontar et al., ICML 2021): the same dimension agrees between two views, different ones do not."""

from flax import nnx

from aiseeme_jax import augment, losses, models
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.byol import BYOL
from aiseeme_jax.pretext.two_views import TwoViews
from aiseeme_jax.task import Output, Setting


class BarlowTwins(TwoViews):
    """Squared distance of the cross-correlation of the two views' projections from the identity.

    Args:
      off_diagonal_weight: of the redundancy, beside 1 for the agreement.
      hidden: width of the projection, hidden layers and output; 0 takes four times the backbone's features (8,192 for
        a ResNet-50).
    """

    NAME = "barlow_twins"
    MINIMUM_BATCH = 3
    RECIPE = BYOL.RECIPE
    SHARES = BYOL.SHARES
    EMBEDDING_DISTANCE = "cross_correlation"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        off_diagonal_weight: float = 0.0051,
        hidden: int = 0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_at_least(self, 0, off_diagonal_weight=off_diagonal_weight, hidden=hidden)
        hidden = hidden or 4 * backbone.features
        # The loss subtracts the mean of every dimension, so the last layer needs no bias.
        projector = models.MLP(
            backbone.features, (hidden, hidden), hidden, norm=True, final_bias=False, dtype=setting.dtype, rngs=rngs
        )
        self.encoder = Encoder(backbone, projector)
        self.off_diagonal_weight = off_diagonal_weight

    def loss(self, views, progress) -> Output:
        features_1, z1 = self.encoder(views["first"], train=True)
        features_2, z2 = self.encoder(views["second"], train=True)
        loss = losses.barlow_twins(z1, z2, off_diagonal_weight=self.off_diagonal_weight)
        return self.output(loss, views, features_1, features_2)
