"""The network of this folder in PyTorch; README.md says what it is.

python load.py                      compares its output with what aiseeme_jax computed
python load.py --onnx model.onnx    writes it as ONNX (pip install onnx onnxscript)
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parent
# The other files of this folder, also where this one is imported from elsewhere.
sys.path.insert(0, str(FOLDER))
from preprocessing import preprocess  # noqa: E402

SETTINGS = json.loads((FOLDER / "settings.json").read_text(encoding="utf-8"))


class CosineHead(torch.nn.Module):
    """`scale` times the cosine between the features and each row of the weights."""

    def __init__(self, in_features, out_features, scale):
        super().__init__()
        self.weight, self.scale = torch.nn.Parameter(torch.zeros(out_features, in_features)), scale

    def forward(self, x):
        return self.scale * torch.nn.functional.linear(*(torch.nn.functional.normalize(v) for v in (x, self.weight)))


class Model(torch.nn.Module):
    """Calibrated probabilities [B, K] of prepared images; of a backbone without classes its features [B, D]."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        output = self.network(x)
        if SETTINGS["kind"] == "features":
            return output
        logits = output / SETTINGS["temperature"]
        return logits.softmax(dim=1) if SETTINGS["kind"] == "class" else logits.sigmoid()


def load():
    """The model, in evaluation mode."""
    made, head = SETTINGS["network"], SETTINGS["head"]
    network = getattr(importlib.import_module(made["module"]), made["name"])(**made["arguments"])
    heads = {"none": torch.nn.Identity, "linear": torch.nn.Linear, "cosine": CosineHead}
    setattr(network, head["at"], heads[head["kind"]](**head["arguments"]))
    network.load_state_dict(load_file(FOLDER / SETTINGS["weights"]))
    return Model(network).eval()


def predict(model, images):
    """Output for a list of images, each uint8 [H, W, 1 or 3], or of HU int16, see preprocessing.py."""
    with torch.no_grad():
        return model(torch.from_numpy(preprocess(images, SETTINGS["preprocessing"]))).numpy()


def check(model):
    """Prints by how much input and output differ from those in check.npz, relative to their largest value."""
    with np.load(FOLDER / "check.npz") as known:
        made = preprocess([known["image"]], SETTINGS["preprocessing"])
        pairs = {"input": (made, known["input"]), "output": (predict(model, [known["image"]]), known["output"])}
    differences = {name: float(abs(ours - theirs).max() / abs(theirs).max()) for name, (ours, theirs) in pairs.items()}
    print(", ".join(f"the {name} differs by {value:.1e}" for name, value in differences.items()))
    if not max(differences.values()) <= SETTINGS["tolerance"]:
        sys.exit(f"more than {SETTINGS['tolerance']:g}: this is not the network that was exported")


def write_onnx(model, path):
    """Writes the model for batches of any size; its input is what `preprocess` makes."""
    with np.load(FOLDER / "check.npz") as known:
        # Two images, since a batch of one would be taken for a constant.
        x = torch.from_numpy(np.concatenate([known["input"]] * 2))
    shapes = {"x": {0: torch.export.Dim("batch")}}
    names = {"input_names": ["x"], "output_names": [SETTINGS["kind"]]}
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, **names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", help="file to write")
    options = parser.parse_args()
    check(load())
    if options.onnx:
        write_onnx(load(), options.onnx)
