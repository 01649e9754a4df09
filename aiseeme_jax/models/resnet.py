"""Residual networks (He et al. 2016) of images and volumes, with named endpoints, in the arithmetic of torchvision.

This is "v1.5": the 3x3 convolution of a bottleneck has the stride. Padding is explicit, so that weights of PyTorch fit
without a shift by half a pixel. In three dimensions every window is a cube. Parameters and statistics are float32,
convolutions compute in the given dtype, and the pooled features are float32. `train` is an argument of the call, not a
mode of the module.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.errors import UserError
from aiseeme_jax.models.attention import NONE, SCALE, check_attention, weigh_input
from aiseeme_jax.models.convolution import make_convolution, max_pool
from aiseeme_jax.models.layers import check_input

# Name: (bottleneck blocks?, blocks of each stage).
ARCHITECTURES = {
    "resnet14": (True, (1, 1, 1, 1)),
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
}
# Those that torchvision has too.
OF_TORCHVISION = ("resnet18", "resnet34", "resnet50")
STEMS = ("standard", "small")
STAGE_CHANNELS = (64, 128, 256, 512)
LAST = len(STAGE_CHANNELS) - 1
# A bottleneck has four times as many output channels as inner channels.
EXPANSION = 4

Map = Float[Array, "b *space c"]


class RunningAverage(nnx.BatchStat):
    """A running average of a norm, which is set in a constant time while a program is traced.

    Flax 0.12 asks an array for its sharding before `average[...] = value`. A traced array has none, and jax walks
    through the whole program so far to say so: the time to trace a network grew with the square of its norms.
    `set_value` stores the same array without asking.
    """

    def __setitem__(self, key, value) -> None:
        if key is Ellipsis:
            self.set_value(value)
        else:
            super().__setitem__(key, value)


class Norm(nnx.BatchNorm):
    """Batch normalisation over the global batch, computed in float32 and returned in the dtype of its input.

    As in PyTorch, the batch is normalised by its biased variance, and the running average gathers the unbiased one,
    n / (n - 1) times as large for n values of a channel. (In flax's own layer it gathers the biased one, and in
    bfloat16 it would be rounded.)

    Args:
      channels: of the input.
      zero: whether its scale starts at zero.
      affine: whether it has a scale and a shift.
      careful: computes the variance in two passes. In one pass, as E[x²] - E[x]², no digit of it is left if the mean is
        a few hundred standard deviations. The output of a head that is about to collapse can be like that.
    """

    def __init__(
        self, channels: int, *, zero: bool = False, affine: bool = True, careful: bool = False, rngs: nnx.Rngs
    ):
        super().__init__(
            channels,
            momentum=0.9,
            epsilon=1e-5,
            dtype=jnp.float32,
            use_scale=affine,
            use_bias=affine,
            use_fast_variance=not careful,
            scale_init=nnx.initializers.zeros_init() if zero else nnx.initializers.ones_init(),
            rngs=rngs,
        )
        self.mean, self.var = RunningAverage(self.mean[...]), RunningAverage(self.var[...])

    def __call__(self, x: Float[Array, "... c"], *, train: bool) -> Float[Array, "... c"]:
        """Raises ValueError if `train` and there is one value of each channel: it would be normalised to 0."""
        values = math.prod(x.shape[:-1])
        if train and values < 2:
            raise ValueError(
                f"batch normalisation of {x.shape} in training: a channel needs at least 2 values; raise the batch or "
                "the size of the images"
            )
        kept = self.momentum * self.var.get_value()
        normalised = super().__call__(x, use_running_average=not train).astype(x.dtype)
        if train:
            self.var.set_value(kept + (self.var.get_value() - kept) * (values / (values - 1)))
        return normalised


class Block(nnx.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3 (strided), 1x1 for a bottleneck; of volumes 3x3x3 and 1x1x1.

    The last norm starts at zero, so that the block starts as the identity (Goyal et al. 2017, section 5.1).

    Args:
      dilation: distance of the pixels of the 3x3 convolutions.
      undilated: whether the one that would have the stride keeps its pixels together. Then the result is that of the
        strided block at every second pixel.
      attention: one of `attention.ATTENTIONS`.
      scale: first value of its learnable scale.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        stride: int,
        *,
        bottleneck: bool,
        dimensions: int = 2,
        dilation: int = 1,
        undilated: bool = False,
        attention: str = NONE,
        scale: float = SCALE,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.features = filters * EXPANSION if bottleneck else filters
        if bottleneck:
            plan = [(channels, filters, 1, 1), (filters, filters, 3, stride), (filters, self.features, 1, 1)]
        else:
            plan = [(channels, filters, 3, stride), (filters, filters, 3, 1)]
        kind = {"dimensions": dimensions, "dtype": dtype, "rngs": rngs}
        self.convolutions = nnx.List()
        for place, (*sizes, step) in enumerate(plan):
            alone = sizes[-1] == 1 or (undilated and place == int(bottleneck))
            self.convolutions.append(make_convolution(*sizes, stride=step, dilation=1 if alone else dilation, **kind))
        self.norms = nnx.List(Norm(step[1], zero=step is plan[-1], rngs=rngs) for step in plan)
        self.projects = stride != 1 or channels != self.features
        if self.projects:
            self.projection = make_convolution(channels, self.features, 1, stride=stride, **kind)
            self.projection_norm = Norm(self.features, rngs=rngs)
        self.attention = attention
        if attention != NONE:
            # Of no axis: the optimizers do not decay it.
            self.attention_scale = nnx.Param(jnp.float32(scale))

    def __call__(self, x: Map, *, train: bool) -> Map:
        shortcut = self.projection_norm(self.projection(x), train=train) if self.projects else x
        last = len(self.convolutions) - 1
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x), train=train)
            if i < last:
                x = jax.nn.relu(x)
        whole = x + shortcut
        if self.attention != NONE:
            # One sum in float32, which is rounded once: beside it the term is too small for bfloat16.
            added = weigh_input(x, shortcut, self.attention_scale.get_value(), self.attention)
            whole = (x.astype(jnp.float32) + shortcut.astype(jnp.float32) + added).astype(x.dtype)
        return jax.nn.relu(whole)


def count_filters(width: float) -> list[int]:
    """Channels inside of the blocks of each stage: multiples of 8."""
    return [max(8, 8 * round(channels * width / 8)) for channels in STAGE_CHANNELS]


class ResNet(nnx.Module):
    """ResNet-14, -18, -34 or -50 without its classifier.

    Args:
      architecture: name in `ARCHITECTURES`.
      width: factor on the channels of every layer, rounded to multiples of 8.
      stem: 'standard' (7x7 stride 2, 3x3 max pooling stride 2), or 'small' (3x3 stride 1, no pooling) for small
        images.
      dtype: of the convolutions: float32 or bfloat16.
      channels: of the images.
      dimensions: 2 for images, 3 for volumes.
      patch: must be 0; only a ViT has patches.
      attention: of the blocks, one of `attention.ATTENTIONS`.
      attention_scale: first value of the scale of each block.
      output_stride: side of the images over that of the last map: 32, or 16 with dilated convolutions in the last stage
        in the place of its stride, as in torchvision. (With the small stem it is a quarter of that.)

    Attributes:
      features: D, the length of the pooled features.
      channels, dimensions: of the images.
    """

    def __init__(
        self,
        architecture: str,
        *,
        width: float = 1.0,
        stem: str = "standard",
        dtype: Any = jnp.float32,
        channels: int = 3,
        dimensions: int = 2,
        patch: int = 0,
        attention: str = NONE,
        attention_scale: float = SCALE,
        output_stride: int = 32,
        rngs: nnx.Rngs,
    ):
        if patch:
            raise UserError(f"a ResNet has no patches: leave model.patch at 0, not {patch}")
        if stem not in STEMS:
            raise UserError(f"unknown stem {stem!r}: known are {', '.join(STEMS)}")
        if not width > 0:
            raise UserError(f"the width of a ResNet is a positive factor, not {width}")
        if dimensions not in (2, 3):
            raise UserError(f"a ResNet has 2 dimensions (images) or 3 (volumes), not {dimensions}")
        if output_stride not in (16, 32):
            raise UserError(f"the output stride of a ResNet is 16 or 32, not {output_stride}")
        check_attention(attention, attention_scale)
        bottleneck, depths = ARCHITECTURES[architecture]
        self.attention, self.attention_scale, self.output_stride = attention, float(attention_scale), output_stride
        self.architecture, self.stem, self.width = architecture, stem, width
        self.channels, self.dimensions = channels, dimensions
        self.dtype = jnp.dtype(dtype)
        filters = count_filters(width)
        size, stride = (7, 2) if stem == "standard" else (3, 1)
        kind = {"dimensions": dimensions, "dtype": self.dtype, "rngs": rngs}
        self.stem_convolution = make_convolution(channels, filters[0], size, stride=stride, **kind)
        self.stem_norm = Norm(filters[0], rngs=rngs)
        features = filters[0]
        stages = []
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                dilated = stage == LAST and output_stride == 16
                stride = 2 if stage > 0 and i == 0 and not dilated else 1
                block = Block(
                    features,
                    filters[stage],
                    stride,
                    bottleneck=bottleneck,
                    dimensions=dimensions,
                    dilation=2 if dilated else 1,
                    undilated=i == 0,
                    attention=attention,
                    scale=attention_scale,
                    dtype=self.dtype,
                    rngs=rngs,
                )
                features = block.features
                blocks.append(block)
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.features = features

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of `make_backbone` that make this backbone again."""
        return {
            "name": self.architecture,
            "width": self.width,
            "stem": self.stem,
            "dtype": self.dtype.name,
            "channels": self.channels,
            "dimensions": self.dimensions,
            **({} if self.output_stride == 32 else {"output_stride": self.output_stride}),
            **({} if self.attention == NONE else self._describe_attention()),
        }

    def _describe_attention(self) -> dict[str, Any]:
        return {"attention": self.attention, "attention_scale": self.attention_scale}

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Dotted names of the parameters of each layer: the stem, then the stages."""
        return ("stem_convolution", "stem_norm"), *((f"stages.{stage}",) for stage in range(len(self.stages)))

    def __call__(
        self, x: Map, *, train: bool, before_stage: Callable[[int, Map], Map] | None = None
    ) -> dict[str, Array]:
        """Endpoints of a batch.

        Args:
          x: normalised images [B, H, W, C], or volumes [B, D, H, W, C].
          train: normalise by the statistics of the batch, and update the running averages. Otherwise normalise by the
            running averages.
          before_stage: changes the input of a stage, by its number from 0, for networks that are helped by another one.

        Raises UserError for pixels as they are stored, ValueError for another shape.

        Returns:
          stem (the input of the first stage), stage1 ... stage4: maps in the compute dtype; pooled: [B, D] float32.
        """
        check_input(x, self.dimensions, self.channels)
        x = self.stem_convolution(x.astype(self.dtype))
        x = jax.nn.relu(self.stem_norm(x, train=train))
        if self.stem == "standard":
            x = max_pool(x)
        endpoints = {"stem": x}
        for number, blocks in enumerate(self.stages, start=1):
            if before_stage is not None:
                x = before_stage(number - 1, x)
            for block in blocks:
                x = block(x, train=train)
            endpoints[f"stage{number}"] = x
        endpoints["pooled"] = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
        return endpoints
