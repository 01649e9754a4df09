"""Writes a folder with a model for a colleague who has PyTorch and not this package.

    python -m aiseeme_jax export MODEL --out FOLDER

MODEL is a workdir, the folder of a measurement or of a stage, or a file of weights. A classifier is exported with its
head, its class names and its temperature; --backbone exports the backbone alone. FOLDER then has the weights, the
network and the preparation of its input as code, an input with the output that is expected, and a README. There
`python load.py` checks itself, and `python load.py --onnx model.onnx` writes ONNX.
"""

import argparse
import dataclasses
import importlib.resources
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Shaped

from aiseeme_jax import models, weights
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.jobs.embed import add_view_arguments, make_views
from aiseeme_jax.jobs.export_readme import describe_folder
from aiseeme_jax.jobs.predict import find_classifier
from aiseeme_jax.models import resnet, vit
from aiseeme_jax.models.attention import NONE
from aiseeme_jax.models.classifier import ClassifierNetwork, CosineHead
from aiseeme_jax.store import files
from aiseeme_jax.weights.classifier import Classifier
from aiseeme_jax.weights.formats import format_of
from aiseeme_jax.weights.headers import read_header
from aiseeme_jax.weights.preprocessing import Preprocessing

TEMPLATES = importlib.resources.files("aiseeme_jax.jobs") / "pytorch_folder"
FEATURES = "features"
# The greatest difference between PyTorch's float32 and ours, relative to the largest value of the output.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Exported:
    """What is exported.

    Attributes:
      backbone: with its weights.
      head: of a classifier; None of a backbone.
      kind: of the output: 'class' or 'findings' (probabilities), or 'features'.
      class_names, temperature: of a classifier.
      preprocessing: how images become the input.
      info: the header of the file.
    """

    backbone: nnx.Module
    head: nnx.Module | None
    kind: str
    class_names: tuple[str, ...]
    temperature: float
    preprocessing: Preprocessing
    info: Mapping[str, Any]


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a workdir, the folder of a measurement or a stage, or a file")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--arm", help="of a workdir; by default the curriculum")
    parser.add_argument("--backbone", action="store_true", help="the backbone alone, also of a classifier")
    add_view_arguments(parser)
    options = parser.parse_args(arguments)
    check_out(options.out)
    exported = load_exported(options)
    write_folder(options.out, exported)
    what = "backbone" if exported.head is None else f"classifier of {', '.join(exported.class_names)}"
    print(f"{what}: {options.out}\nwhere PyTorch is: python {options.out / 'load.py'}")


def check_out(out: Path) -> None:
    """Raises UserError unless the folder can be made: an old file in it might be taken for one of this model."""
    files.check_folder(out, "--out")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out: '{out}' is not empty: name a new folder")


def load_exported(options: argparse.Namespace) -> Exported:
    """Loads the classifier at a path, or its backbone. Raises what the loaders raise."""
    file = None if options.backbone else find_file_of_classifier(options.model, options.arm)
    if file is not None:
        classifier = weights.load_classifier(file)
        channels = classifier.network.backbone.channels
        known = weights.describe_preprocessing(classifier.views, channels, classifier.stored)
        head, fields = classifier.network.head, (classifier.kind, classifier.class_names, classifier.temperature)
        return Exported(classifier.network.backbone, head, *fields, known, classifier.info)
    backbone, info = weights.load_backbone(options.model, options.arm)
    known = info.get(weights.PREPROCESSING)
    if known is None:
        known = weights.describe_preprocessing(make_views(options), backbone.channels, None)
    models.check_size(info["model"], known["size"])
    return Exported(backbone, None, FEATURES, (), 1.0, known, info)


def find_file_of_classifier(model: Path, arm: str | None) -> Path | None:
    """The file of the classifier at a path; None if there is a backbone, or nothing."""
    try:
        found = find_classifier(model, arm)
    except MissingFile:
        return None
    file = found / weights.CLASSIFIER if found.is_dir() else found
    header = read_header(file) if file.is_file() else None
    return file if header and header.get("file") == "classifier" else None


def write_folder(out: Path, exported: Exported) -> None:
    """Writes all files of the folder, README.md last."""
    out.mkdir(parents=True, exist_ok=True)
    file = weights.BACKBONE if exported.head is None else weights.CLASSIFIER
    size = exported.preprocessing["size"]
    if exported.head is None:
        info = {**exported.info, weights.PREPROCESSING: exported.preprocessing}
        weights.export_backbone(exported.backbone, out / file, info=info, size=size)
    else:
        weights.save_classifier(out / file, make_classifier(exported, exported.backbone))
    network, head = describe_network(exported), describe_head(exported)
    settings = {
        "weights": file,
        "network": network,
        "head": head,
        "kind": exported.kind,
        "class_names": exported.class_names,
        "temperature": exported.temperature,
        "preprocessing": exported.preprocessing,
        "tolerance": TOLERANCE,
    }
    write_text(out / "settings.json", json.dumps(settings, indent=1, ensure_ascii=False))
    image = make_image(exported.preprocessing)
    expected, lost = compute_output(exported, image)
    with files.write_whole(out / "check.npz") as beside, open(beside, "wb") as opened:
        np.savez(opened, image=image, input=prepare(exported, image), output=expected)
    templates = {"load.py": "load.py", "preprocessing.py": "preprocessing.py"}
    if network["module"] == "network":
        templates["network.py"] = "vit.py" if isinstance(exported.backbone, models.ViT) else "resnet.py"
    for name, template in templates.items():
        with importlib.resources.as_file(TEMPLATES / template) as source, files.write_whole(out / name) as beside:
            shutil.copyfile(source, beside)
    write_text(out / "README.md", describe_folder(settings, exported.backbone, lost))


def write_text(path: Path, text: str) -> None:
    with files.write_whole(path) as beside:
        Path(beside).write_text(text + "\n", encoding="utf-8")


def make_classifier(exported: Exported, backbone: nnx.Module) -> Classifier:
    """The classifier around a backbone with the weights of its own."""
    return Classifier(
        ClassifierNetwork(backbone, exported.head),
        exported.kind,
        exported.class_names,
        exported.preprocessing.views,
        exported.temperature,
        exported.preprocessing.stored,
        exported.info,
    )


def describe_network(exported: Exported) -> dict[str, Any]:
    """The class that builds the network in PyTorch, and its arguments: torchvision's, if that has this network."""
    body = exported.backbone
    common = {"channels": body.channels, "dimensions": body.dimensions}
    if isinstance(body, models.ViT):
        heads = vit.ARCHITECTURES[body.architecture][2]
        sides = {"patch": body.patch, "size": exported.preprocessing["size"]}
        arguments = {"features": body.features, "blocks": len(body.blocks), "heads": heads, **sides, **common}
        return {"module": "network", "name": "Network", "arguments": arguments}
    plain = (body.width, body.stem, body.channels, body.dimensions) == (1.0, "standard", 3, 2)
    if body.architecture in resnet.OF_TORCHVISION and plain and (body.attention, body.output_stride) == (NONE, 32):
        # Without weights of its own, whatever the version has as its default.
        return {"module": "torchvision.models", "name": body.architecture, "arguments": {"weights": None}}
    bottleneck, depths = resnet.ARCHITECTURES[body.architecture]
    sizes = {"depths": depths, "filters": resnet.count_filters(body.width)}
    more = {"dilated": body.output_stride == 16, "attention": body.attention}
    arguments = {"bottleneck": bottleneck, **sizes, "stem": body.stem, **common, **more}
    return {"module": "network", "name": "Network", "arguments": arguments}


def describe_head(exported: Exported) -> dict[str, Any]:
    """Where the head belongs, its kind and its arguments."""
    at = format_of(exported.backbone).head
    if exported.head is None:
        return {"at": at, "kind": "none", "arguments": {}}
    arguments = {"in_features": exported.backbone.features, "out_features": len(exported.class_names)}
    if isinstance(exported.head, CosineHead):
        return {"at": at, "kind": "cosine", "arguments": {**arguments, "scale": exported.head.scale}}
    return {"at": at, "kind": "linear", "arguments": arguments}


def make_image(known: Preprocessing) -> Shaped[np.ndarray, "*space c"]:
    """A synthetic image that is not square and must be resized; of a patient's nothing is handed on. HU: a cube."""
    stored = known.stored
    side = (stored.size if stored is not None else None) or known["size"]
    space = (side,) * known["dimensions"] if known["window"] else (side * 5 // 4, side * 3 // 2)
    random = np.random.default_rng(0)
    coarse = random.random((*(-(-length // 8) for length in space), known["channels"]))
    for axis, length in enumerate(space):
        coarse = coarse.repeat(8, axis=axis).take(range(length), axis=axis)
    values = 0.8 * coarse + 0.2 * random.random(coarse.shape)
    if known["window"]:
        low, high = known["window"]
        return np.rint(low + (high - low) * values).astype(np.int16)
    return np.rint(255 * values).astype(np.uint8)


def prepare(exported: Exported, image: Shaped[np.ndarray, "*space c"]) -> Float[np.ndarray, "1 c *space"]:
    """The input of the network as PyTorch lays it out."""
    return np.moveaxis(np.asarray(exported.preprocessing.preprocess([image])), -1, 1)


def compute_output(
    exported: Exported, image: Shaped[np.ndarray, "*space c"]
) -> tuple[Float[np.ndarray, "1 k"], float | None]:
    """The output in float32, which PyTorch computes too; and by how much that of the model's own type differs."""
    config = exported.backbone.config
    exact = models.make_backbone(**{**config, "dtype": "float32"}, rngs=nnx.Rngs(0))
    nnx.update(exact, nnx.state(exported.backbone))
    # A GPU would round the products of float32.
    with jax.default_matmul_precision("highest"):
        expected = _run(exported, exact, image)
    if config["dtype"] == "float32":
        return expected, None
    return expected, float(np.abs(_run(exported, exported.backbone, image) - expected).max())


def _run(exported: Exported, backbone: nnx.Module, image: Shaped[np.ndarray, "*space c"]) -> Float[np.ndarray, "1 k"]:
    made = exported.preprocessing.preprocess([image])
    network = backbone if exported.head is None else ClassifierNetwork(backbone, exported.head)
    output = nnx.jit(lambda module, x: module(x, train=False))(network, made)
    if exported.head is None:
        return np.asarray(output["pooled"])
    return make_classifier(exported, backbone).average_views(np.asarray(output[0])[:, None])
