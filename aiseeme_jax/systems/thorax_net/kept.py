"""Thorax-Net as a file.

The file is one of `weights/networks.py`, of the kind "thorax_net". Its header has these members too:

    model           arguments of `models.make_backbone`
    head            of a cosine head: {"kind": "cosine", "scale": …}
    hidden, standardise    of the attention branch
    kind            "class" | "findings"
    class_names     in the order of the logits
    views           fields of `augment.Views` or `VolumeViews`: how an image is resized and normalised
    preprocessing   how images become the input, see `weights/preprocessing.py`
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.errors import UserError
from aiseeme_jax.systems.thorax_net.network import ThoraxNetwork, make_network
from aiseeme_jax.weights.classifier import describe_head, make_head
from aiseeme_jax.weights.networks import describe_input, fill_network, load_network, read_input, save_network
from tfds_builders.common.storage import Storage

KIND = "thorax_net"


@dataclasses.dataclass(frozen=True)
class ThoraxClassifier:
    """The network with everything that is needed to use it on images.

    Attributes:
      network: backbone, head and attention branch.
      kind: 'class' or 'findings'.
      class_names: of the logits.
      views: how an image is resized and normalised.
      stored: how the data set that it was trained on stores its images; None if that is not known.
      info: JSON values, other facts. If it was loaded, the whole header of its file.
    """

    network: ThoraxNetwork
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
            **describe_head(network.head),
            "hidden": network.branch.hidden,
            "standardise": network.branch.standardise,
            "kind": self.kind,
            "class_names": list(self.class_names),
        }
        return save_network(directory, network, KIND, info)


def load_thorax_classifier(path: str | Path) -> ThoraxClassifier:
    """Loads it from its file, or from the folder of the measurement that left it.

    Raises MissingFile if there is none, UserError if the file is damaged or contains another network.
    """
    header, tensors = load_network(Path(path), KIND)
    try:
        backbone, views, stored = read_input(header)
        network = make_network(
            backbone,
            make_head(header, backbone.features),
            size=views.size,
            hidden=header["hidden"],
            standardise=header["standardise"],
            rngs=nnx.Rngs(0),
        )
        fill_network(network, tensors)
        return ThoraxClassifier(network, header["kind"], tuple(header["class_names"]), views, stored, header)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its header does not fit its weights ({error!r})") from error
