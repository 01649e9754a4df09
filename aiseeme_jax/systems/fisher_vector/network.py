"""The classifier that Fisher vectors make: a network like any other, and its file.

The file is one of `weights/networks.py`, of the kind "fisher_vector". Its header has these members too:

    model           arguments of `models.make_backbone`
    endpoint        of the backbone, whose map gives the descriptors
    improved        whether vectors have a signed square root and length 1
    shapes          of the arrays of the encoder and the classifier
    kind            "class" | "findings"
    class_names     in the order of the logits
    views           fields of `augment.Views` or `VolumeViews`: how an image is resized and normalised
    preprocessing   how images become the input, see `weights/preprocessing.py`
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import augment, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.systems.fisher_vector.encoding import (
    Encoder,
    Projection,
    find_foreground,
    fisher_gradients,
    flatten_places,
    make_vectors,
    project,
    weigh,
)
from aiseeme_jax.systems.fisher_vector.foreground import LinearClassifier
from aiseeme_jax.systems.fisher_vector.mixture import Mixture
from aiseeme_jax.weights.networks import describe_input, fill_network, load_network, read_input, save_network
from tfds_builders.common.storage import Storage

KIND = "fisher_vector"


class FisherNetwork(nnx.Module):
    """A backbone, the encoder of its maps, and a linear classifier of the vectors.

    Args:
      backbone: of images or volumes.
      encoder: of the maps at `endpoint`.
      classifier: of the vectors.
      improved: see `make_vectors`.
    """

    def __init__(
        self, backbone: nnx.Module, encoder: Encoder, classifier: LinearClassifier, *, endpoint: str, improved: bool
    ):
        self.backbone, self.endpoint, self.improved = backbone, endpoint, improved
        arrays = {**encoder.projection._asdict(), **encoder.mixture._asdict(), **classifier._asdict()}
        arrays = {**arrays, "shares": encoder.mixture.weights, "foreground": encoder.weights}
        del arrays["weights"]
        self.parts = nnx.Dict({name: nnx.Param(jnp.asarray(value, jnp.float32)) for name, value in arrays.items()})

    @property
    def encoder(self) -> Encoder:
        """What makes vectors of maps."""
        value = {name: part.get_value() for name, part in self.parts.items()}
        mixture = Mixture(value["shares"], value["means"], value["variances"])
        return Encoder(Projection(value["mean"], value["axes"]), mixture, value["foreground"])

    @property
    def classifier(self) -> LinearClassifier:
        """What makes logits of vectors."""
        return LinearClassifier(self.parts["kernel"].get_value(), self.parts["bias"].get_value())

    def __call__(
        self, images: Float[Array, "b *space c"], *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b v"]]:
        """Logits and vectors. Raises ValueError for training: nothing here is trained by gradients."""
        if train:
            raise ValueError("a classifier of Fisher vectors is fitted as a whole, not trained by steps")
        encoder, maps = self.encoder, self.backbone(images, train=False)[self.endpoint]
        descriptors = project(encoder.projection, flatten_places(maps))
        gradients = jax.vmap(lambda x: fisher_gradients(encoder.mixture, x))(descriptors)
        vectors = make_vectors(weigh(gradients, encoder.weights), improved=self.improved)
        return self.classifier(vectors), vectors

    @property
    def has_foreground(self) -> bool:
        """Whether its foreground weights were learnt. Otherwise all are 1, and every place is foreground alike."""
        return bool(np.ptp(np.asarray(self.encoder.weights)) > 0)

    def shuffle_foreground(self, seed: int) -> "FisherNetwork":
        """A copy with the same foreground weights in a random order."""
        other = nnx.clone(self)
        weights = np.asarray(self.encoder.weights)
        order = np.random.default_rng(seeds.derive(seed, "foreground")).permutation(len(weights))
        other.parts["foreground"].set_value(jnp.asarray(weights[order]))
        return other

    def find_foreground(self, images: Float[Array, "b *space c"]) -> Float[Array, "b *space"]:
        """How much each place of the map at the endpoint belongs to the foreground, see `find_foreground`."""
        return find_foreground(self.encoder, self.backbone(images, train=False)[self.endpoint])


@dataclasses.dataclass(frozen=True)
class FisherClassifier:
    """The network with everything that is needed to use it on images.

    Attributes:
      network: backbone, encoder and classifier.
      kind: 'class' or 'findings'.
      class_names: of the logits.
      views: how an image is resized and normalised.
      stored: how the data set that it was fitted on stores its images; None if that is not known.
      info: JSON values, other facts. If it was loaded, the whole header of its file.
    """

    network: FisherNetwork
    kind: str
    class_names: tuple[str, ...]
    views: augment.AnyViews
    stored: Storage | None = None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, directory: Path) -> str:
        """Writes the file into the folder of a measurement, whole or not at all, and returns its hash."""
        network = self.network
        info = {
            **self.info,
            **describe_input(network.backbone, self.views, self.stored),
            "endpoint": network.endpoint,
            "improved": network.improved,
            "shapes": {name: list(part.shape) for name, part in network.parts.items()},
            "kind": self.kind,
            "class_names": list(self.class_names),
        }
        return save_network(directory, network, KIND, info)


def load_fisher_classifier(path: str | Path) -> FisherClassifier:
    """Loads it from its file, or from the folder of the measurement that left it.

    Raises MissingFile if there is none, UserError if the file is damaged or contains another network.
    """
    header, tensors = load_network(Path(path), KIND)
    try:
        backbone, views, stored = read_input(header)
        network = _make_empty(backbone, header)
        fill_network(network, tensors)
        return FisherClassifier(network, header["kind"], tuple(header["class_names"]), views, stored, header)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its header does not fit its weights ({error!r})") from error


def _make_empty(backbone: nnx.Module, header: Mapping[str, Any]) -> FisherNetwork:
    """The network of a header with zeros for what its file holds."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in header["shapes"].items()}
    mixture = Mixture(zeros["shares"], zeros["means"], zeros["variances"])
    encoder = Encoder(Projection(zeros["mean"], zeros["axes"]), mixture, zeros["foreground"])
    classifier = LinearClassifier(zeros["kernel"], zeros["bias"])
    return FisherNetwork(backbone, encoder, classifier, endpoint=header["endpoint"], improved=header["improved"])
