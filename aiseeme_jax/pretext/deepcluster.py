"""DeepCluster (Caron et al., ECCV 2018): the clusters of an epoch's features are the classes of that epoch.

Clustering and training alternate. Images with similar features get one label, and training on the labels makes their
features more similar.
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

    Three differences from the paper. It draws images so that all clusters are equally frequent. Here the order of
    images is that of every task, an image has the weight of one over the size of its cluster, the weights in a batch
    sum to one, and an epoch shows each image once. It gives the network edges (two Sobel maps) without colours, which a
    backbone of another task could not use. Here colours are jittered. It trains the layer without momentum. Here the
    momentum is the optimizer's, and starts again with the layer.

    Args:
      clusters: 0 takes one for 128 images, about as published, at least 16 and at most 10,000, but never more than
        half the images. From 2 to that half.
      components: of the whitened features, or as many as there are.
      iterations: of k-means, at most; this project's choice.

    Raises UserError if the clusters do not fit the data set, or without a component or an iteration.
    """

    NAME = "deepcluster"
    IMAGE_LOSSES = True
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
