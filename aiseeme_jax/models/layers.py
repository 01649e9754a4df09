"""What backbones have in common: the check of their input, and their parameters by dotted names, for those who train
some of them otherwise than the rest.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Shaped

from aiseeme_jax.errors import UserError


def check_input(x: Shaped[Array, "..."], dimensions: int, channels: int) -> None:
    """Raises UserError for pixels as they are stored, ValueError for a batch of another shape."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            f"a backbone takes normalised images, float32, and not pixels of type {x.dtype}: make its input with "
            '`preprocess`. backbone, info = load_backbone(path); x = info["preprocessing"].preprocess(images)'
        )
    if x.ndim != dimensions + 2 or x.shape[-1] != channels:
        kind = "images [B, H, W" if dimensions == 2 else "volumes [B, D, H, W"
        raise ValueError(f"this backbone takes {kind}, {channels}], not {x.shape}")


def list_outside_norms(network: nnx.Module) -> tuple[str, ...]:
    """Dotted names of all parameters of a network but the scales and biases of its normalisation layers."""
    norms = [path for path, module in nnx.iter_modules(network) if isinstance(module, nnx.BatchNorm | nnx.LayerNorm)]
    paths = nnx.to_flat_state(nnx.state(network, nnx.Param)).paths
    return tuple(
        ".".join(map(str, path)) for path in paths if not any(path[: len(norm)] == tuple(norm) for norm in norms)
    )


def scale_by_layer(backbone: nnx.Module, decay: float) -> tuple[tuple[str, float], ...]:
    """Factors of the learning rate that fall from the head to the input: decay^(L - i) for layer i of L, from 0.

    The head, and what a backbone has after its last layer, have the factor 1 (BEiT, arXiv 2106.08254, appendix; of a
    ResNet a stage is a layer).

    Args:
      backbone: its `layers` are dotted names, from the input on.
      decay: in (0, 1].

    Returns:
      (dotted name, factor).
    """
    layers = backbone.layers
    return tuple((name, decay ** (len(layers) - place)) for place, names in enumerate(layers) for name in names)
