"""Colorization (Zhang et al., ECCV 2016): predict the colour of each pixel, of 261, from the lightness."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.augment import geometry, lab
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.task import Bank, Output, Setting, Task

# Result and answer are coarser than the view, as in the paper.
STRIDE = 4
# Of the Gaussian over (a*, b*) that smooths the frequencies (Zhang et al., section 2.2).
SMOOTHING = 5.0


class Colorization(Task):
    """Cross-entropy over bins of (a*, b*), rare colours weighted up. The decoder has no skips.

    The backbone gets the view's lightness as a grey image in all three channels, so that later stages can use it. Bins
    are the 261 squares of 10 x 10 that contain a colour of sRGB, computed here (the paper's list has 313). Two more
    differences: each pixel has one true bin, the nearest, not a mixture of five; frequencies are those of the data, a
    moving average that starts uniform, not those of ImageNet. Views: 'image', and 'label' [B, s, s], s a quarter of the
    view's side.

    Args:
      mixing: lambda, share of the uniform distribution in that of the colours, whose inverse is the weight.
      memory: of the moving average of frequencies, share kept at each step.

    Raises UserError for images of one channel, and for shares outside [0, 1].
    """

    NAME = "colorization"
    IMAGE_LOSSES = True
    DIMENSIONS = (2,)
    RECIPE = {"crop_scale": (0.2, 1.0), "flip_horizontal": 0.5}
    FIXED = {"grey_probability": 0.0}

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.Views,
        setting: Setting,
        *,
        mixing: float = 0.5,
        memory: float = 0.99,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        if backbone.channels != 3:
            raise UserError(
                f"{self.NAME}: these images have one channel (model.channels), so there is no colour to predict; "
                "take 'context_restoration' or 'inpainting' instead"
            )
        if not (0 <= mixing <= 1 and 0 <= memory <= 1):
            raise UserError(f"{self.NAME}: `mixing` and `memory` are shares of 1, not {mixing} and {memory}")
        self.mixing, self.memory = mixing, memory
        self.bins = len(lab.colour_bins())
        self.frequencies = Bank(jnp.full((self.bins,), 1 / self.bins, jnp.float32))
        options = {"dimensions": 2, "skips": False, "stride": STRIDE, "dtype": setting.dtype}
        self.decoder = models.Decoder(backbone, spec.size, self.bins, **options, rngs=rngs)

    def views(self, key: PRNGKeyArray, batch):
        shown = augment.to_display(augment.random_view(key, batch["image"], self.spec), self.spec)
        size, side = self.spec.size, self.decoder.side
        shrink = geometry.resample_weights(0.0, float(size), size, side)
        colours = jax.vmap(lambda image: geometry.separable(image, shrink, shrink))(lab.to_lab(shown)[..., 1:])
        grey = augment.from_display(lab.lightness_as_grey(shown), self.spec)
        return {"image": grey, "label": lab.nearest_bin(colours)}

    def loss(self, views, progress) -> Output:
        endpoints = self.backbone(views["image"], train=True)
        logits = self.decoder(endpoints, train=True).reshape(-1, self.bins)
        labels, weights = views["label"].reshape(-1), self.weights()
        loss = losses.cross_entropy(logits, labels, weights=weights)
        rows = losses.cross_entropies(logits, labels)
        of_images = losses.image_shares(rows, weights[labels], views["image"].shape[0])
        present = jnp.zeros(self.bins).at[labels].add(1 / labels.shape[0])
        self.frequencies.set_value(self.memory * self.frequencies.get_value() + (1 - self.memory) * present)
        metrics = {"accuracy": accuracy(logits, labels)}
        return Output(loss, metrics, views["image"], endpoints["pooled"], image_losses=of_images)

    def weights(self) -> Float[Array, "bins"]:
        """1 / ((1 - mixing) p + mixing / bins), p the smoothed frequencies (eq. 4; the loss divides out its factor)."""
        p = jnp.asarray(_smoothing(), jnp.float32) @ self.frequencies.get_value()
        return 1 / ((1 - self.mixing) * p + self.mixing / self.bins)


def _smoothing() -> Float[np.ndarray, "bins bins"]:
    """Spreads each bin over its neighbours; columns sum to 1, so that frequencies still do."""
    bins = lab.colour_bins()
    kernel = np.exp(-np.square(bins[:, None] - bins).sum(axis=-1) / (2 * SMOOTHING**2))
    return kernel / kernel.sum(axis=0)
