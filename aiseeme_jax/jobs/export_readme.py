"""The README.md of a folder that `export` writes."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from aiseeme_jax import models


def describe_folder(settings: Mapping[str, Any], backbone: nnx.Module, lost: float | None) -> str:
    """The text.

    Args:
      settings: what settings.json has.
      backbone: that is exported.
      lost: the greatest difference between the outputs in the type that the model computes in and in float32; None if
        it computes in float32.
    """
    lines = [
        f"# {_name(settings, backbone)}",
        _describe_use(settings),
        f"**Install.** `pip install torch{_more(settings)} safetensors numpy opencv-python-headless`.",
        "**Check.** `python load.py` computes the output of the image in check.npz, which is synthetic, and prints by "
        f"how much it differs from what aiseeme_jax computed. More than {settings['tolerance']:g} of the largest value "
        "is an error." + _describe_type(backbone, lost),
        _describe_input(settings),
        _describe_output(settings, backbone),
        _describe_loading(settings, backbone),
        "**ONNX.** `python load.py --onnx model.onnx` (`pip install onnx onnxscript`) writes the network, from the "
        "prepared input to the output, for batches of any size. The preparation is not in it.",
        "**Limits.** A model for research. It was not tested for use on patients. Where it fails, its model card says.",
    ]
    return "\n\n".join(lines)


def _name(settings: Mapping[str, Any], backbone: nnx.Module) -> str:
    classes = ", ".join(settings["class_names"])
    return f"{backbone.architecture}: " + (f"a classifier of {classes}" if classes else "a backbone without classes")


def _describe_use(settings: Mapping[str, Any]) -> str:
    return (
        "**Use.** `import load; model = load.load(); load.predict(model, [image])` in this folder, or with it in "
        f"`sys.path`. The weights are in {settings['weights']}, everything else in settings.json."
    )


def _more(settings: Mapping[str, Any]) -> str:
    return " torchvision" if settings["network"]["module"] != "network" else ""


def _describe_type(backbone: nnx.Module, lost: float | None) -> str:
    if lost is None:
        return ""
    return (
        f" PyTorch computes in float32. aiseeme_jax computes this model in {backbone.dtype.name}, and its output on "
        f"that image differs from float32 by at most {lost:.1e}."
    )


def _describe_input(settings: Mapping[str, Any]) -> str:
    known = settings["preprocessing"]
    stored = known["stored"]
    if known["window"] and known["dimensions"] == 3:
        spacing = f", of {stored['size']} voxels at {stored['spacing']:g} mm" if stored else ""
        return f"**Input.** Cubes of CT, int16 HU [D, H, W, 1]{spacing}, axes z, y, x. preprocessing.py cuts none out."
    if known["window"]:
        return f"**Input.** Planes of CT, int16 HU [H, W, {known['channels']}], cut as in training."
    size = (stored or {}).get("size")
    how = f"first squeezed to {size} x {size}, as the training data was stored, then" if size else "resized"
    unknown = "" if stored else " How the training data was stored is not known, and matters a little."
    return (
        f"**Input.** An image uint8 [H, W, 1 or 3], RGB, of any size: {how} to {known['size']} x {known['size']} by "
        f"preprocessing.py, exactly as in training.{unknown}"
    )


def _describe_output(settings: Mapping[str, Any], backbone: nnx.Module) -> str:
    if settings["kind"] == "features":
        return f"**Output.** Features, {backbone.features} for each image."
    each = {
        "class": "Probabilities that sum to 1",
        "findings": "A probability of each finding by itself",
    }[settings["kind"]]
    return f"**Output.** {each}, calibrated: logits are divided by {settings['temperature']:.4g} first."


def _describe_loading(settings: Mapping[str, Any], backbone: nnx.Module) -> str:
    tail = f"load_state_dict(safetensors.torch.load_file({settings['weights']!r}))"
    if settings["network"]["module"] != "network":
        head = {
            "none": "after `network.fc = torch.nn.Identity()`",
            "linear": f"with `num_classes={len(settings['class_names'])}`",
            "cosine": "with the head of load.py",
        }[settings["head"]["kind"]]
        return f"**Elsewhere.** `torchvision.models.{backbone.architecture}` {head} loads the weights too: `{tail}`."
    if isinstance(backbone, models.ViT):
        if backbone.dimensions == 3:
            return "**Elsewhere.** The network is network.py, under timm's names. timm does not load it: it is 3-D."
        return (
            "**Elsewhere.** The network is network.py, under timm's names. timm's `VisionTransformer` loads the "
            'weights too, with the sizes of settings.json, `global_pool="avg"` and `fc_norm=False`, unless the head is '
            "cosine."
        )
    return (
        "**Elsewhere.** The network is network.py, under torchvision's names. torchvision and timm do not load it "
        f"(width {backbone.width:g}, stem {backbone.stem}, {backbone.channels} channels, {backbone.dimensions}-D, "
        f"output stride {backbone.output_stride}, attention {backbone.attention})."
    )
