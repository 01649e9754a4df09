"""Networks of any kind as files: what a protocol trains that is no backbone with a head on pooled features.

One safetensors file holds every parameter and running statistic under its dotted name in the network, float32, in the
layout in which the network has it: the kernel of a convolution is [h, w, in, out], and a single number is [1]. The
header of the file has one entry, `aiseeme`, a JSON object with these members:

    file            what the network is: "segmenter", or the name of the protocol that trained it
    format          1
    network_hash    of the names and values of the tensors, and of all members except `file` and `format`

and everything that its maker needs to build it again, such as the arguments of `models.make_backbone`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aiseeme_jax import augment, models
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts, keys
from aiseeme_jax.weights import preprocessing
from aiseeme_jax.weights import tensors as tensor_files
from aiseeme_jax.weights.headers import HEADER, NETWORK, explain_remedy, read_header
from aiseeme_jax.weights.tensors import Tensors
from tfds_builders.common.storage import Storage

FORMAT = 1
# Members of the header that are not in the hash.
UNHASHED = ("file", "format", "network_hash")


def save_network(directory: Path, network: nnx.Module, kind: str, info: Mapping[str, Any]) -> str:
    """Writes the weights of a network, whole or not at all, and returns the hash of weights and header.

    Only the first process writes. All processes get the hash.

    Args:
      kind: what the network is, the member `file` of the header.
      info: JSON values by which `kind` is built again.
    """
    tensors = list_tensors(network)
    digest = _hash(tensors, info)
    if not jax.process_index():
        header = {**info, "file": kind, "format": FORMAT, "network_hash": digest}
        tensor_files.write_safetensors(directory / NETWORK, tensors, {HEADER: json.dumps(header)})
    return digest


def load_network(path: Path, kind: str) -> tuple[dict[str, Any], Tensors]:
    """Reads a file of `save_network`, or that in the folder of a measurement: its header and its tensors.

    Raises MissingFile if there is none, UserError if it is damaged or is a network of another kind.
    """
    file = path / NETWORK if path.is_dir() else path
    if not file.is_file():
        then = ""
        if (file.parent / artifacts.RECORD).exists():
            remedy = artifacts.explain_remedy(file.parent)
            then = f". This one was made by an older version, which left none: {remedy}. Then give this command again"
        raise MissingFile(f"no network at '{file}': a measurement that trains a {kind} leaves one as {NETWORK}{then}")
    header = read_header(file)
    if header is None or header.get("file") != kind:
        found = "of another program" if header is None else f"a {header.get('file', 'backbone')}"
        raise UserError(f"{file} is {found}, not a {kind} of aiseeme_jax")
    if header.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {header.get('format')} and this version of aiseeme_jax reads format {FORMAT}: use the "
            "version that wrote it"
        )
    try:
        tensors = tensor_files.read_safetensors(file)
    except tensor_files.Damaged as error:
        raise UserError(f"{error}; {explain_remedy(file)}") from None
    if _hash(tensors, header) != header["network_hash"]:
        raise UserError(f"{file} is damaged: its content does not have the hash in its header; {explain_remedy(file)}")
    return header, tensors


def describe_input(backbone: nnx.Module, views: augment.AnyViews, stored: Storage | None) -> dict[str, Any]:
    """The members of a header that say which backbone a network has, and how images become its input."""
    return {
        "model": backbone.config,
        "views": dataclasses.asdict(views),
        preprocessing.PREPROCESSING: preprocessing.describe(views, backbone.channels, stored),
    }


def read_input(header: Mapping[str, Any]) -> tuple[nnx.Module, augment.AnyViews, Storage | None]:
    """What `describe_input` wrote: the backbone, with fresh weights, the views, and how images are stored."""
    models.check_config(header["model"])
    backbone = models.make_backbone(**header["model"], rngs=nnx.Rngs(0))
    views = augment.views_of({name: tuple(v) if isinstance(v, list) else v for name, v in header["views"].items()})
    return backbone, views, preprocessing.Preprocessing(header[preprocessing.PREPROCESSING]).stored


def fill_network(network: nnx.Module, tensors: Tensors) -> None:
    """Puts tensors into a network, all or none. Raises ValueError that counts and names those that do not fit."""
    variables = _variables(network)
    expected = {name: tensor.shape for name, tensor in list_tensors(network).items()}
    problems = tensor_files.describe_misfits(expected, tensors)
    if problems:
        raise ValueError(f"these weights do not fit the network: {problems}")
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(tensors[name]).reshape(variable.shape))


def list_tensors(network: nnx.Module) -> Tensors:
    """Every parameter and running statistic of a network by its dotted name."""
    return {name: np.atleast_1d(np.asarray(variable.get_value())) for name, variable in _variables(network).items()}


def _variables(network: nnx.Module) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(network, WEIGHTS))}


# Other state, such as a generator of random numbers, is made anew.
WEIGHTS = (nnx.Param, nnx.BatchStat)


def _hash(tensors: Tensors, info: Mapping[str, Any]) -> str:
    told = {name: value for name, value in info.items() if name not in UNHASHED}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    digest.update(keys.tree_hash(dict(tensors)).encode())
    return digest.hexdigest()
