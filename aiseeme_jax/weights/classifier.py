"""Classifiers as files: a fine-tuned backbone with its head, and everything that is needed to use it on images.

One safetensors file holds the weights under the names that PyTorch programs know. A ResNet has torchvision's, with the
head as `fc.weight` [K, D] and `fc.bias` [K]. A ViT has timm's, with the head as `head.weight` and `head.bias`, and with
`pos_embed` for images of the size of the views. So the tensors of the file are a state dict:

    model = torchvision.models.resnet50(num_classes=K)
    model.load_state_dict(safetensors.torch.load_file("classifier.safetensors"))

A ViT here averages the normalised patch tokens. In timm that is `global_pool="avg", fc_norm=False`.

A cosine head, as `ldam_drw` trains it, has no bias: its logits are `scale` times the cosine between the features and
each row of the head's weights. PyTorch programs have no layer for it: they must compute it from features and weights.

The header of the file has one entry, `aiseeme`, a JSON object with these members:

    file              "classifier"
    format            1; 2 in a file with a cosine head, which older versions cannot read
    model             arguments of `models.make_backbone`
    kind              "class": K classes, one for each image | "findings": K findings, any number for each image
    head              only of a cosine head: {"kind": "cosine", "scale": …}
    class_names       K names, in the order of the head's outputs
    views             fields of `augment.Views` or `VolumeViews`: how an image is resized and normalised
    temperature       logits are divided by it before the softmax (class) or the sigmoid (findings)
    backbone_hash     of the backbone's weights, as in a file with only a backbone
    classifier_hash   of the weights of backbone and head, and of all members above except `file` and `format`
    preprocessing     how images become the input, see `weights/preprocessing.py`; it has a hash of its own, and files
                      of older versions lack it

and other facts about the classifier, such as what it was trained on. As `init` of a config, and for `load_backbone`,
the file stands for its backbone.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from aiseeme_jax import augment, models
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.models.classifier import PROBABILITIES, ClassifierNetwork, CosineHead, linear_head
from aiseeme_jax.store.keys import tree_hash
from aiseeme_jax.weights import preprocessing
from aiseeme_jax.weights import tensors as tensor_files
from aiseeme_jax.weights.backbones import backbone_hash
from aiseeme_jax.weights.formats import format_of
from aiseeme_jax.weights.headers import CLASSIFIER, HEADER, explain_remedy, read_header
from tfds_builders.common.storage import Storage

# Of a file with a linear head, and of one with another head.
LINEAR_FORMAT, FORMAT = 1, 2

# Images predicted at once, unless the caller says otherwise.
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network that was trained on labels, with everything that is needed to use it on images.

    Attributes:
      network: backbone and head.
      kind: 'class' (one of K classes for each image) or 'findings' (any of K findings for each image).
      class_names: [K] names of the classes or findings.
      views: how an image is resized and normalised.
      temperature: divides the logits; 1 changes nothing.
      stored: how the data set that it was trained on stores its images; None if that is not known.
      info: JSON values, other facts about the classifier. If it was loaded, the whole header of its file.
    """

    network: ClassifierNetwork
    kind: str
    class_names: tuple[str, ...]
    views: augment.AnyViews
    temperature: float = 1.0
    stored: Storage | None = None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def predict(
        self,
        images: Shaped[np.ndarray, "n *space c"],
        *,
        calibrated: bool = True,
        batch_size: int = BATCH,
        shown: str = augment.CENTRAL,
    ) -> Float[np.ndarray, "n k"]:
        """Probabilities of each image, float32 [N, K].

        The probabilities of classes sum to 1 in each row. Those of findings do not: each is a probability of its own.

        Args:
          images: as they are stored: uint8 [N, H, W, C], or volumes in HU, int16 [N, D, H, W, 1]; of any size.
          calibrated: divide the logits by the temperature.
          batch_size: number of images on the device at once. It does not change the result.
          shown: one of `augment.EVALUATION_VIEWS`; the probability is the mean over these views.

        Raises UserError for images of another type or shape than the classifier was trained on.
        """
        logits = self.compute_logits(images, batch_size=batch_size, shown=shown)
        return self.average_views(logits, calibrated=calibrated)

    def compute_logits(
        self, images: Shaped[np.ndarray, "n *space c"], *, batch_size: int = BATCH, shown: str = augment.CENTRAL
    ) -> Float[np.ndarray, "n v k"]:
        """Logits of each of the views `shown` of each image. Arguments and errors are those of `predict`."""
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        if shown not in augment.EVALUATION_VIEWS:
            raise UserError(f"the views are {', '.join(augment.EVALUATION_VIEWS)}, not '{shown}'")
        images = np.asarray(images)
        self._check(images, shown)
        starts = range(0, len(images), batch_size)
        logits = [_pad_and_run(self.network, images[i : i + batch_size], self.views, shown) for i in starts]
        return np.concatenate(logits) if logits else np.zeros((0, 1, len(self.class_names)), np.float32)

    def average_views(self, logits: Float[np.ndarray, "n v k"], *, calibrated: bool = True) -> Float[np.ndarray, "n k"]:
        """Probabilities, float32, each the mean over the views."""
        temperature = np.float32(self.temperature if calibrated else 1.0)
        each = np.asarray(PROBABILITIES[self.kind](jnp.asarray(logits / temperature)))
        return each[:, 0] if each.shape[1] == 1 else each.mean(axis=1)

    def hash(self) -> str:
        """Hex SHA-256 of the weights of backbone and head, and of everything else that predictions depend on."""
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        digest.update(tree_hash(nnx.to_pure_dict(nnx.state(self.network))).encode())
        return digest.hexdigest()

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.network.backbone.config,
            "kind": self.kind,
            "class_names": list(self.class_names),
            "views": dataclasses.asdict(self.views),
            "temperature": self.temperature,
            **describe_head(self.network.head),
        }

    def _check(self, images: np.ndarray, shown: str) -> None:
        view = functools.partial(augment.evaluation_views, views=self.views, name=shown)
        try:
            jax.eval_shape(view, jax.ShapeDtypeStruct(images.shape, images.dtype))
        except (TypeError, ValueError) as error:
            raise UserError(f"this classifier cannot take images {images.dtype} {images.shape}: {error}") from error
        channels = self.network.backbone.channels
        if images.shape[-1] != channels:
            raise UserError(f"this classifier takes images of {channels} channels, not of {images.shape[-1]}")


def save_classifier(path: str | Path, classifier: Classifier) -> str:
    """Writes a classifier as a safetensors file, whole or not at all, and returns its hash.

    Only the first process writes. The format of the file is described at the top of this module.
    """
    network, digest = classifier.network, classifier.hash()
    if jax.process_index():
        return digest
    names = format_of(network.backbone)
    tensors = {
        **names.write(network.backbone, classifier.views.size),
        f"{names.head}.weight": np.asarray(network.head.kernel[...], np.float32).T,
    }
    if isinstance(network.head, nnx.Linear):
        tensors[f"{names.head}.bias"] = np.asarray(network.head.bias[...], np.float32)
    header = {
        **classifier.info,
        "file": "classifier",
        "format": FORMAT if describe_head(network.head) else LINEAR_FORMAT,
        **classifier._settings(),
        "backbone_hash": backbone_hash(network.backbone),
        "classifier_hash": digest,
        preprocessing.PREPROCESSING: preprocessing.describe(
            classifier.views, network.backbone.channels, classifier.stored
        ),
    }
    tensor_files.write_safetensors(path, tensors, {HEADER: json.dumps(header)})
    return digest


def load_classifier(path: str | Path) -> Classifier:
    """Loads a classifier from its file, or from the folder of the measurement that left it.

    Raises MissingFile if there is none, UserError if the file is damaged, contains only a backbone, or was not written
    by this package.
    """
    file = Path(path)
    file = file / CLASSIFIER if file.is_dir() else file
    if not file.is_file():
        raise MissingFile(f"no classifier at '{file}': fine-tuning leaves one as {CLASSIFIER}")
    header = read_header(file)
    _check_header(file, header)
    if preprocessing.PREPROCESSING in header:
        entry = preprocessing.read(file, header[preprocessing.PREPROCESSING], explain_remedy(file))
        header = {**header, preprocessing.PREPROCESSING: entry}
    try:
        tensors = tensor_files.read_weights(file)
        classifier = _make(header, tensors)
    except tensor_files.Damaged as error:
        raise UserError(f"{error}; {explain_remedy(file)}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged: its header does not fit its weights ({error!r}); {explain_remedy(file)}"
        ) from error
    if classifier.hash() != header.get("classifier_hash"):
        raise UserError(f"{file} is damaged: its content does not have the hash in its header; {explain_remedy(file)}")
    return classifier


def _check_header(file: Path, header: dict[str, Any] | None) -> None:
    if header is None:
        raise UserError(
            f"{file} was not written by aiseeme_jax, so its network, classes and views are not known. "
            "Weights of other programs can be fine-tuned: use the file as `init` of a config"
        )
    if header.get("file") != "classifier":
        raise UserError(
            f"{file} contains a backbone without a head: load it with `load_backbone`, or fine-tune it with a target "
            "'finetune' first"
        )
    if header.get("format") not in (LINEAR_FORMAT, FORMAT):
        raise UserError(
            f"{file} has format {header.get('format')} and this version of aiseeme_jax reads formats {LINEAR_FORMAT} "
            f"and {FORMAT}: use the version that wrote it"
        )


def _make(header: Mapping[str, Any], tensors: tensor_files.Tensors) -> Classifier:
    """Makes the classifier of a header and tensors. Raises KeyError, TypeError or ValueError if they do not fit."""
    models.check_config(header["model"])
    backbone = models.make_backbone(**header["model"], rngs=nnx.Rngs(0))
    names = format_of(backbone)
    head = make_head(header, backbone.features)
    weight = tensors[f"{names.head}.weight"]
    bias = tensors[f"{names.head}.bias"] if isinstance(head, nnx.Linear) else None
    if weight.T.shape != head.kernel.shape or (bias is not None and bias.shape != head.bias.shape):
        raise ValueError(f"the head is {weight.shape} for {len(header['class_names'])} class names")
    if header["kind"] not in PROBABILITIES:
        raise ValueError(f"unknown kind of labels '{header['kind']}'")
    names.fill(backbone, tensors)
    head.kernel.set_value(jnp.asarray(weight.T))
    if bias is not None:
        head.bias.set_value(jnp.asarray(bias))
    return Classifier(
        ClassifierNetwork(backbone, head),
        header["kind"],
        tuple(header["class_names"]),
        augment.views_of({k: tuple(v) if isinstance(v, list) else v for k, v in header["views"].items()}),
        header["temperature"],
        header[preprocessing.PREPROCESSING].stored if preprocessing.PREPROCESSING in header else None,
        header,
    )


def describe_head(head: nnx.Module) -> dict[str, Any]:
    """The member of the header for a head that is not linear."""
    return {"head": {"kind": "cosine", "scale": head.scale}} if isinstance(head, CosineHead) else {}


def make_head(header: Mapping[str, Any], features: int) -> nnx.Module:
    """The head that a header describes. Raises KeyError, TypeError or ValueError if it cannot be."""
    outputs, described = len(header["class_names"]), header.get("head", {"kind": "linear"})
    if described["kind"] == "linear":
        return linear_head(features, outputs, rngs=nnx.Rngs(0))
    if described["kind"] != "cosine":
        raise ValueError(f"unknown kind of head '{described['kind']}'")
    return CosineHead(features, outputs, scale=described["scale"], rngs=nnx.Rngs(0))


def _pad_and_run(
    network: ClassifierNetwork, images: Shaped[np.ndarray, "n *space c"], views: augment.AnyViews, shown: str
) -> Float[np.ndarray, "n v k"]:
    """Logits of the views of a few images, filled up to a power of two, so that few programs must be compiled."""
    size = 1 << (len(images) - 1).bit_length()
    filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
    return np.asarray(_logits(network, jnp.asarray(filled), views, shown))[: len(images)]


@functools.partial(nnx.jit, static_argnames=("views", "shown"))
def _logits(
    network: ClassifierNetwork, images: Shaped[Array, "b *space c"], views: augment.AnyViews, shown: str
) -> Float[Array, "b v k"]:
    # One after another: a batch of all views might not fit.
    made = augment.evaluation_views(images, views, shown)
    return jnp.stack([network(view, train=False)[0] for view in made], axis=1)
