"""BYOL, bootstrap your own latent (Grill et al., NeurIPS 2020): predict the embedding of the other view.

The target is computed by a moving average of the network. There are no negatives: the predictor on one side and the
slow average on the other keep the features from collapsing.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import augment, losses, models
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.two_views import TwoViews
from aiseeme_jax.task import Average, Output, Setting, raise_momentum


class BYOL(TwoViews):
    """Sum over both directions of 2 - 2 cos(prediction of one view, target of the other), from 0 to 8.

    Args:
      momentum: of the moving average at the start; it rises along a cosine and is 1 at the end of the stage.
      hidden: width of the hidden layers of projection and predictor; 0 takes twice the backbone's features (4,096 for
        a ResNet-50).
      dimensions: of the projection.
    """

    NAME = "byol"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 3
    RECIPE = {
        "crop_scale": (0.08, 1.0),
        "jitter_probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
        "grey_probability": 0.2,
        "blur_probability": 1.0,
        "solarise_probability": 0.2,
    }
    SHARES = ({"solarise_probability": 0.0}, {"blur_probability": 0.1})
    EMBEDDING_DISTANCE = "cosine"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        momentum: float = 0.996,
        hidden: int = 0,
        dimensions: int = 256,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_shares(self, momentum=momentum)
        ranges.check_at_least(self, 0, hidden=hidden)
        ranges.check_at_least(self, 1, dimensions=dimensions)
        hidden = hidden or 2 * backbone.features
        head = {"norm": True, "dtype": setting.dtype, "rngs": rngs}
        self.encoder = Encoder(backbone, models.MLP(backbone.features, (hidden,), dimensions, **head))
        self.predictor = models.MLP(dimensions, (hidden,), dimensions, **head)
        self.target = Average(self.encoder)
        self.momentum = momentum

    def loss(self, views, progress) -> Output:
        target = self.target.module(self.encoder)

        def view(name: str):
            features, embedded = self.encoder(views[name], train=True)
            wanted = jax.lax.stop_gradient(target(views[name], train=True)[1])
            return features, self.predictor(embedded, train=True), wanted

        (features_1, prediction_1, target_1), (features_2, prediction_2, target_2) = view("first"), view("second")
        forth, back = losses.cosines(prediction_1, target_2), losses.cosines(prediction_2, target_1)
        loss = 4 + 2 * (-jnp.mean(forth) + -jnp.mean(back))
        return self.output(loss, views, features_1, features_2, 4 - 2 * (forth + back))

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.target.update(self.encoder, raise_momentum(self.momentum, progress))
