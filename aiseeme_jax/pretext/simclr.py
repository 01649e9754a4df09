"""SimCLR (Chen et al., ICML 2020): two views of an image attract, all other views of the batch repel."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.two_views import interleave, two_views
from aiseeme_jax.task import Output, Setting, Task


class SimCLR(Task):
    """NT-Xent over the 2B views of the global batch.

    Args:
      temperature: of the softmax over similarities.
      hidden: width of the projection's hidden layer; 0 takes the backbone's features.
      dimensions: of the projection.
    """

    NAME = "simclr"
    IMAGE_LOSSES = True
    MINIMUM_BATCH = 2
    RECIPE = {
        "crop_scale": (0.08, 1.0),
        "jitter_probability": 0.8,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "grey_probability": 0.2,
        "blur_probability": 0.5,
    }
    EMBEDDING_DISTANCE = "contrastive"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.Views,
        setting: Setting,
        *,
        temperature: float = 0.1,
        hidden: int = 0,
        dimensions: int = 128,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(self, temperature=temperature)
        ranges.check_at_least(self, 0, hidden=hidden)
        ranges.check_at_least(self, 1, dimensions=dimensions)
        width = backbone.features
        self.projector = models.MLP(
            width, (hidden or width,), dimensions, norm=True, final_norm=True, dtype=setting.dtype, rngs=rngs
        )
        self.temperature = temperature

    def views(self, key: PRNGKeyArray, batch):
        return {"image": interleave(*two_views(key, batch["image"], self.spec))}

    def loss(self, views, progress) -> Output:
        images = views["image"]
        features = self.backbone(images, train=True)["pooled"]
        z = self.projector(features, train=True).astype(jnp.float32)
        z1, z2 = z[0::2], z[1::2]
        rows = losses.nt_xents(z1, z2, temperature=self.temperature)
        return Output(jnp.mean(rows), {}, images, features, image_losses=jnp.mean(rows.reshape(2, -1), axis=0))
