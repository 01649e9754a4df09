"""DeepCluster (Caron et al., ECCV 2018): the clusters of an epoch's features are the classes of that epoch.

Clustering and training take turns: what the network finds alike becomes a label, and learning the labels sharpens what
it finds alike.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext import clustering
from aiseeme_jax.pretext.pseudo_labels import PseudoLabels
from aiseeme_jax.task import Setting

PUBLISHED_CLUSTERS = 10_000


class DeepCluster(PseudoLabels):
    """Cross-entropy on clusters that are found anew, and learnt by a new layer, every epoch.

    At the start of each epoch the features of the whole split, of central views in evaluation mode, are whitened along
    their principal axes and brought to length one; k-means labels them.

    Three departures from what is published. There, images are drawn so that all clusters are seen alike; the order of
    images here is that of every task, so an image counts by one over the size of its cluster instead, the weights in a
    batch sum to one, and an epoch shows each image once. There, the network sees edges (two Sobel maps) and no colours,
    which would fit no backbone of another task; here colours are merely jittered. There, the layer learns without
    momentum; here momentum is the optimizer's, and starts anew with the layer.

    Args:
      clusters: 0 takes one for 128 images, about as published, at least 16 and at most 10,000, but never more than
        half the images. From 2 to that half.
      components: of the whitened features, or as many as there are.
      iterations: of k-means, at most; this project's choice.

    Raises UserError if the clusters do not fit the data set, or without a component or an iteration.
    """

    NAME = "deepcluster"
    RECIPE = {
        "crop_scale": (0.08, 1.0),
        "flip_horizontal": 0.5,
        "rotation": 2.0,
        "jitter_probability": 1.0,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 1.0,
        "hue": 0.5,
        "grey_probability": 0.2,
    }
    AT_EPOCH = "every"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        clusters: int = 0,
        components: int = 256,
        iterations: int = 20,
        rngs: nnx.Rngs,
    ):
        if components < 1:
            raise UserError(f"{self.NAME}: {components} components; `components` must be at least 1")
        self.components = components
        sizes = {"clusters": clusters, "iterations": iterations, "published": PUBLISHED_CLUSTERS}
        super().__init__(backbone, spec, setting, **sizes, rngs=rngs)

    def at_epoch(self, features: Float[Array, "n d"], key: PRNGKeyArray) -> None:
        self.cluster(clustering.whitened(features, self.components), key)

    def weights(self) -> Float[Array, "k"]:
        return 1 / jnp.maximum(self.counts.get_value(), 1)
