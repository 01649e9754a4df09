"""MoCo v3 (Chen, Xie & He, ICCV 2021): contrast with the other images of the batch, keys from a moving average.

No queue: the batch is large. A predictor on the query side, as in BYOL.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import augment, losses, models
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.byol import BYOL
from aiseeme_jax.pretext.two_views import TwoViews
from aiseeme_jax.task import Average, Output, Setting, raise_momentum


class MoCoV3(TwoViews):
    """Sum over both directions of 2 T InfoNCE of the predictions of one view in the keys of the other.

    The patch projection of a ViT, which the paper freezes at random to steady large batches, is trained here.

    Args:
      temperature: T, of the softmax over similarities; 1 for a ResNet-50, the paper's ViTs have 0.2.
      momentum: of the moving average at the start; it rises along a cosine and is 1 at the end of the stage.
      hidden: width of the hidden layers of projection and predictor; 0 takes twice the backbone's features (4,096 for
        a ResNet-50).
      layers: of the projection; the paper's ViTs have 3.
      dimensions: of the projection.
    """

    NAME = "moco_v3"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 3
    RECIPE = {**BYOL.RECIPE, "crop_scale": (0.2, 1.0)}
    SHARES = BYOL.SHARES
    EMBEDDING_DISTANCE = "contrastive"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        temperature: float = 1.0,
        momentum: float = 0.99,
        hidden: int = 0,
        layers: int = 2,
        dimensions: int = 256,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(self, temperature=temperature)
        ranges.check_shares(self, momentum=momentum)
        ranges.check_at_least(self, 0, hidden=hidden)
        ranges.check_at_least(self, 1, dimensions=dimensions)
        if layers < 1:
            raise UserError(f"{self.NAME}: a projection of {layers} layers; it takes at least one: raise `layers`")
        width = hidden or 2 * backbone.features
        head = {"norm": True, "final_affine": False, "final_bias": False, "dtype": setting.dtype, "rngs": rngs}
        projector = models.MLP(backbone.features, (width,) * (layers - 1), dimensions, final_norm=True, **head)
        self.encoder = Encoder(backbone, projector)
        # As in the authors' code, which does not normalise what is predicted of a ResNet.
        final_norm = isinstance(backbone, models.ViT)
        self.predictor = models.MLP(dimensions, (width,), dimensions, final_norm=final_norm, **head)
        self.target = Average(self.encoder)
        self.temperature, self.momentum = temperature, momentum

    def loss(self, views, progress) -> Output:
        target = self.target.module(self.encoder)

        def view(name: str):
            features, embedded = self.encoder(views[name], train=True)
            key = jax.lax.stop_gradient(target(views[name], train=True)[1])
            return features, normalise(self.predictor(embedded, train=True)), normalise(key)

        (features_1, query_1, key_1), (features_2, query_2, key_2) = view("first"), view("second")
        forth = losses.info_nces_in_batch(query_1, key_2, temperature=self.temperature)
        back = losses.info_nces_in_batch(query_2, key_1, temperature=self.temperature)
        loss = 2 * self.temperature * (jnp.mean(forth) + jnp.mean(back))
        return self.output(loss, views, features_1, features_2, 2 * self.temperature * (forth + back))

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.target.update(self.encoder, raise_momentum(self.momentum, progress))
