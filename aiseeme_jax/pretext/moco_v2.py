"""MoCo v2 (Chen et al., 2020): MoCo with a hidden layer in the projection, stronger views and a warmer softmax."""

from flax import nnx

from aiseeme_jax import augment, models
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.momentum_contrast import MomentumContrast
from aiseeme_jax.task import Setting


class MoCoV2(MomentumContrast):
    """InfoNCE against a queue of keys [queue, dimensions].

    Args:
      temperature: of the softmax over similarities.
      queue: keys kept; 0 takes the largest multiple of the batch within a quarter of the images and the published
        65,536, at least one batch. A multiple of the batch, at most the number of images.
      momentum: of the moving average that gives the keys.
      groups: virtual groups the keys are shuffled over for batch normalisation (8 GPUs in the paper); must divide the
        batch.
      hidden: width of the projection's hidden layer; 0 takes the backbone's features.
      dimensions: of the projection.

    Raises UserError if queue or groups do not fit the batch or the data set.
    """

    NAME = "moco_v2"
    IMAGE_LOSSES = True
    RECIPE = {
        "crop_scale": (0.2, 1.0),
        "jitter_probability": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "grey_probability": 0.2,
        "blur_probability": 0.5,
    }

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        temperature: float = 0.2,
        queue: int = 0,
        momentum: float = 0.999,
        groups: int = 8,
        hidden: int = 0,
        dimensions: int = 128,
        rngs: nnx.Rngs,
    ):
        ranges.check_at_least(self, 0, hidden=hidden)
        ranges.check_at_least(self, 1, dimensions=dimensions)
        width = backbone.features
        projector = models.MLP(width, (hidden or width,), dimensions, norm=False, dtype=setting.dtype, rngs=rngs)
        super().__init__(
            backbone,
            projector,
            spec,
            setting,
            temperature=temperature,
            queue=queue,
            momentum=momentum,
            groups=groups,
            dimensions=dimensions,
            rngs=rngs,
        )
