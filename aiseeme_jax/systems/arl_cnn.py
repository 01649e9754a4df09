"""ARL-CNN: attention residual blocks on any ResNet, fine-tuned on labels (Zhang et al., IEEE TMI 38(9), 2019).

The blocks stand in `models/attention.py`. A backbone without attention gets them here: its weights are copied, and the
scales are new. With a scale of 0 every block is the plain one, so `finetune` with the same fields is the control.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from aiseeme_jax import data, models
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune, imbalance
from aiseeme_jax.evaluate.measurement import COMMON_FIELDS, Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.models import resnet
from aiseeme_jax.models.attention import ATTENTIONS, NONE, SCALE, check_attention
from aiseeme_jax.systems import one_against_rest
from aiseeme_jax.task import Output


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of the system.

    Attributes:
      attention: 'arl', the softmax over positions; 'arl_gain', times the number of positions (ours).
      scale: first value of the scale of each block. The paper's is not known: ours.
      scale_rate: learning rate of the scales over that of the other parameters: ours.
      classes: 'softmax', one network for all classes; 'one_against_rest', one network for each class, with attention of
        its own, as the paper has it for melanoma and for keratosis.
    """

    attention: str = "arl"
    scale: float = SCALE
    scale_rate: float = 1.0
    classes: str = one_against_rest.SOFTMAX

    def __post_init__(self):
        if self.attention not in ATTENTIONS[1:]:
            raise UserError(f"system.attention is '{self.attention}'; known are {', '.join(ATTENTIONS[1:])}")
        check_attention(self.attention, self.scale)
        if not 0 <= self.scale_rate < math.inf:
            raise UserError(f"system.scale_rate is {self.scale_rate}; it must be at least 0 and finite")
        one_against_rest.check_way(self.classes)


class AttentionFineTuning(FineTuning):
    """Fine-tuning of a backbone with attention, which logs the scale of each block, and its gain.

    The gain is scale · positions: the factor by which uniform attention weighs the input of the block.

    Args:
      scale_rate: learning rate of the scales over that of the other parameters.
    """

    def __init__(self, backbone: nnx.Module, *arguments: Any, scale_rate: float, **options: Any):
        super().__init__(backbone, *arguments, **options)
        self.positions = count_positions(backbone, self.spec.size)
        factors = tuple((f"backbone.stages.{block}.attention_scale", scale_rate) for block, _ in self.positions)
        self.rate_factors = (*self.rate_factors, *factors)

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        output = super().loss(views, progress)
        return output.replace(metrics={**output.metrics, **self.describe_scales()})

    def describe_scales(self) -> dict[str, Float[Array, ""]]:
        """`scale/STAGE.BLOCK` and `gain/STAGE.BLOCK` of each block."""
        found = {}
        for block, positions in self.positions:
            stage, place = map(int, block.split("."))
            scale = self.backbone.stages[stage][place].attention_scale.get_value()
            found |= {f"scale/{stage + 1}.{place}": scale, f"gain/{stage + 1}.{place}": scale * positions}
        return found


def count_positions(backbone: nnx.Module, size: int) -> tuple[tuple[str, int], ...]:
    """The positions of the maps of each block, for images of a size: ('STAGE.BLOCK', positions), counted from 0."""
    images = jax.ShapeDtypeStruct((1, *(size,) * backbone.dimensions, backbone.channels), jnp.float32)
    endpoints = nnx.eval_shape(lambda body, x: body(x, train=False), backbone, images)
    return tuple(
        (f"{stage}.{place}", math.prod(endpoints[f"stage{stage + 1}"].shape[1:-1]))
        for stage, blocks in enumerate(backbone.stages)
        for place in range(len(blocks))
    )


def add_attention(backbone: nnx.Module, kind: str, scale: float) -> nnx.Module:
    """The backbone with attention in its blocks: its own weights, new scales; as it is if it has attention."""
    if backbone.attention != NONE:
        return backbone
    fields = {**backbone.config, "attention": kind, "attention_scale": scale}
    made = models.make_backbone(**fields, rngs=nnx.Rngs(0))
    nnx.update(made, nnx.state(backbone))
    return made


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Fine-tunes a copy of the backbone with attention, one for all classes or one for each of them."""
    settings = ARL_CNN.read_settings(measurement.target)
    with_attention = add_attention(subject.backbone, settings.attention, settings.scale)
    subject = dataclasses.replace(subject, backbone=with_attention, _features={})
    make = functools.partial(AttentionFineTuning, scale_rate=settings.scale_rate)

    def measure_one(subject: Subject, directory: Path) -> Measured:
        task = finetune.make_task(measurement, subject, runtime, make)
        measured = finetune.measure_classifier(task, measurement, subject, directory, runtime)
        return dataclasses.replace(measured, chosen={**measured.chosen, **_read_scales(measured.classifier.network)})

    if settings.classes == one_against_rest.SOFTMAX:
        return measure_one(subject, directory)
    return one_against_rest.measure_each_class(measure_one, measurement, subject, directory)


def _read_scales(network: nnx.Module) -> dict[str, Any]:
    """What the record says about the trained scales."""
    scales = {
        f"{stage}.{place}": float(np.asarray(block.attention_scale.get_value()))
        for stage, blocks in enumerate(network.backbone.stages, start=1)
        for place, block in enumerate(blocks)
    }
    return {"attention_scales": scales}


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for what `finetune` refuses, and for a field of the system that cannot be."""
    ARL_CNN.read_settings(target)
    finetune.check(target, train)
    if imbalance.make_method(target.imbalance).needs_baseline:
        raise UserError(
            f"imbalance is '{imbalance.describe(target.imbalance)}', which learns from a classifier that is trained "
            "before: arl_cnn has none, so take another method"
        )


def check_splits(target: ConfigDict, splits: Mapping[str, data.Split]) -> None:
    """Raises UserError if a class that has a network of its own cannot be learnt or chosen by."""
    if ARL_CNN.read_settings(target).classes == one_against_rest.ONE_AGAINST_REST:
        one_against_rest.check_classes(splits)


def check_model(target: ConfigDict, model: ConfigDict) -> None:
    """Raises UserError for a network without residual blocks, or with attention of another kind."""
    if model.name not in resnet.ARCHITECTURES:
        known = ", ".join(resnet.ARCHITECTURES)
        raise UserError(f"model.name is '{model.name}'; arl_cnn puts attention into the blocks of a ResNet: {known}")
    wanted = target.system.attention
    if model.attention not in (NONE, wanted):
        raise UserError(
            f"model.attention is '{model.attention}' and system.attention '{wanted}': make them the same, or leave "
            f"model.attention at '{NONE}'"
        )


ARL_CNN = Protocol(
    "arl_cnn",
    trains=True,
    check=check,
    measure=measure,
    settings=Settings,
    common=COMMON_FIELDS,
    check_splits=check_splits,
    check_model=check_model,
)
