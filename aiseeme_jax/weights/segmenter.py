"""Segmenters as files: a backbone with a decoder on its maps, and everything that is needed to use it on images.

The file is one of `weights/networks.py`, of the kind "segmenter". Its header has these members too:

    model           arguments of `models.make_backbone`
    decoder         {"kind": one of `models.DECODERS`, and its arguments beside the backbone}
    views           fields of `augment.Views`: how an image is resized and normalised
    preprocessing   how images become the input, see `weights/preprocessing.py`

and other facts, such as what it was trained on.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from aiseeme_jax import augment, models
from aiseeme_jax.errors import UserError
from aiseeme_jax.models.segmentation import SegmentationNetwork, resize_logits
from aiseeme_jax.weights.networks import describe_input, fill_network, load_network, read_input, save_network
from tfds_builders.common.storage import Storage

KIND = "segmenter"


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A network that was trained on masks, with everything that is needed to use it on images.

    Attributes:
      network: backbone and decoder.
      views: how an image is resized and normalised.
      stored: how the data set that it was trained on stores its images; None if that is not known.
      info: JSON values, other facts. If it was loaded, the whole header of its file.
    """

    network: SegmentationNetwork
    views: augment.Views
    stored: Storage | None = None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def predict(self, images: Shaped[np.ndarray, "n h w c"], *, batch_size: int = 64) -> Float[np.ndarray, "n h w"]:
        """The probability that a pixel is inside, float32, in the size of the images.

        Args:
          images: as they are stored, uint8 or int16 HU.
          batch_size: number of images on the device at once. It does not change the result.

        Raises UserError for images of another type or shape than the segmenter was trained on.
        """
        images, channels = np.asarray(images), self.network.backbone.channels
        try:
            jax.eval_shape(
                functools.partial(augment.central_view, views=self.views),
                jax.ShapeDtypeStruct(images.shape, images.dtype),
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"this segmenter cannot take images {images.dtype} {images.shape}: {error}") from error
        if images.shape[-1] != channels:
            raise UserError(f"this segmenter takes images of {channels} channels, not of {images.shape[-1]}")
        parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        found = [np.asarray(_probabilities(self.network, jnp.asarray(part), self.views)) for part in parts]
        return np.concatenate(found) if found else np.zeros(images.shape[:3], np.float32)

    def save(self, directory: Path) -> str:
        """Writes the file into the folder of a measurement, whole or not at all, and returns its hash."""
        backbone, decoder = self.network.backbone, self.network.decoder
        kinds = {made: name for name, made in models.DECODERS.items()}
        info = {
            **self.info,
            **describe_input(backbone, self.views, self.stored),
            "decoder": {"kind": kinds[type(decoder)], **decoder.config},
        }
        return save_network(directory, self.network, KIND, info)


def load_segmenter(path: str | Path) -> Segmenter:
    """Loads a segmenter from its file, or from the folder of the measurement that left it.

    Raises MissingFile if there is none, UserError if the file is damaged or contains another network.
    """
    header, tensors = load_network(Path(path), KIND)
    try:
        backbone, views, stored = read_input(header)
        decoder = models.make_decoder(**header["decoder"], backbone=backbone, rngs=nnx.Rngs(0))
        network = SegmentationNetwork(backbone, decoder)
        fill_network(network, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its header does not fit its weights ({error!r})") from error
    return Segmenter(network, views, stored, header)


@functools.partial(nnx.jit, static_argnames="views")
def _probabilities(
    network: SegmentationNetwork, images: Shaped[Array, "b h w c"], views: augment.Views
) -> Float[Array, "b h w"]:
    logits, _ = network(augment.central_view(images, views), train=False)
    return jax.nn.sigmoid(resize_logits(logits, *images.shape[1:3]))
