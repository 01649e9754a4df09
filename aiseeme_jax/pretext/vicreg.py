"""VICReg (Bardes et al., ICLR 2022): two views agree, each dimension keeps its variance, no two correlate."""

from flax import nnx

from aiseeme_jax import augment, losses, models
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.two_views import TwoViews
from aiseeme_jax.task import Output, Setting


class VICReg(TwoViews):
    """Invariance, variance and covariance terms of the two views' projections.

    Args:
      invariance, variance, covariance: weights of the terms.
      hidden: width of the projection, hidden layers and output; 0 takes four times the backbone's features (8,192 for
        a ResNet-50).
    """

    NAME = "vicreg"
    MINIMUM_BATCH = 3
    RECIPE = {
        "crop_scale": (0.08, 1.0),
        "jitter_probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
        "grey_probability": 0.2,
        "blur_probability": 0.5,
        "solarise_probability": 0.1,
    }
    EMBEDDING_DISTANCE = "invariance"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        hidden: int = 0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_at_least(self, 0, invariance=invariance, variance=variance, covariance=covariance, hidden=hidden)
        hidden = hidden or 4 * backbone.features
        # No bias in the last layer: it would move both views by the same amount, which changes no term of the loss.
        projector = models.MLP(
            backbone.features, (hidden, hidden), hidden, norm=True, final_bias=False, dtype=setting.dtype, rngs=rngs
        )
        self.encoder = Encoder(backbone, projector)
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def loss(self, views, progress) -> Output:
        features_1, z1 = self.encoder(views["first"], train=True)
        features_2, z2 = self.encoder(views["second"], train=True)
        loss = losses.vicreg(z1, z2, invariance=self.invariance, variance=self.variance, covariance=self.covariance)
        return self.output(loss, views, features_1, features_2)
