"""ClusterFit (Yan et al., CVPR 2020): the clusters of a trained network's features are the classes of the next one.

The clusters forget what was special to the pretext task of the network before, and keep what it knew of the images.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, models
from aiseeme_jax.pretext.pseudo_labels import PseudoLabels
from aiseeme_jax.task import Setting

PUBLISHED_CLUSTERS = 16_000


class ClusterFit(PseudoLabels):
    """Cross-entropy on clusters found once, before the first step.

    k-means clusters the features of the whole split: of central views, in evaluation mode, brought to length one (this
    project's choice), from the backbone that the stage starts from. After a stage of another task these are that task's
    features. A stage that starts from random weights learns the clusters of random features.

    Args:
      clusters: 0 takes one for 128 images, at least 16 and at most the published 16,000, but never more than half the
        images. From 2 to that half.
      iterations: of k-means, at most; published.
      scratch: train new weights on the labels, as the paper does, instead of those the stage starts from. The default
        is to go on with those, since a curriculum would otherwise lose everything but the labels.

    Raises UserError if the clusters do not fit the data set, or without an iteration.
    """

    NAME = "clusterfit"
    IMAGE_LOSSES = True
    RECIPE = {
        "crop_scale": (0.08, 1.0),
        "flip_horizontal": 0.5,
        "jitter_probability": 1.0,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.2,
    }
    AT_EPOCH = "first"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        clusters: int = 0,
        iterations: int = 50,
        scratch: bool = False,
        rngs: nnx.Rngs,
    ):
        sizes = {"clusters": clusters, "iterations": iterations, "published": PUBLISHED_CLUSTERS}
        super().__init__(backbone, spec, setting, **sizes, rngs=rngs)
        self.scratch = scratch

    def at_epoch(self, features: Float[Array, "n d"], key: PRNGKeyArray) -> None:
        labels, weights = jax.random.split(key)
        self.cluster(features, labels)
        if self.scratch:
            fresh = models.make_backbone(**self.backbone.config, rngs=nnx.Rngs(weights))
            nnx.update(self.backbone, nnx.state(fresh))
