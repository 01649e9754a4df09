"""MoCo (He et al., CVPR 2020): a query matches the key of its other view against a queue of earlier keys.

A linear projection, where MoCo v2 has two layers, and the colder softmax and the views of NPID.
"""

from flax import nnx

from aiseeme_jax import augment, models
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.momentum_contrast import MomentumContrast
from aiseeme_jax.pretext.npid import NPID
from aiseeme_jax.task import Setting


class MoCoV1(MomentumContrast):
    """InfoNCE against a queue of keys [queue, dimensions].

    Args:
      temperature: of the softmax over similarities.
      queue: keys kept; 0 takes the largest multiple of the batch within a quarter of the images and the published
        65,536, at least one batch. A multiple of the batch, at most the number of images.
      momentum: of the moving average that gives the keys.
      groups: virtual groups the keys are shuffled over for batch normalisation (8 GPUs in the paper); must divide the
        batch.
      dimensions: of the projection.

    Raises UserError if queue or groups do not fit the batch or the data set.
    """

    NAME = "moco_v1"
    IMAGE_LOSSES = True
    RECIPE = NPID.RECIPE

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        temperature: float = 0.07,
        queue: int = 0,
        momentum: float = 0.999,
        groups: int = 8,
        dimensions: int = 128,
        rngs: nnx.Rngs,
    ):
        ranges.check_at_least(self, 1, dimensions=dimensions)
        projector = models.MLP(backbone.features, (), dimensions, dtype=setting.dtype, rngs=rngs)
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
