"""Parts of a config that stages, targets and proxies have in common: fields with their defaults and their meaning."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from aiseeme_jax import augment
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import imbalance


def duration(*, epochs: float | None = None, steps: int | None = None, examples: int | None = None) -> ConfigDict:
    """A length of training. Exactly one of the three must be set."""
    d = ConfigDict({"epochs": placeholder(float), "steps": placeholder(int), "examples": placeholder(int)})
    d.update({k: v for k, v in (("epochs", epochs), ("steps", steps), ("examples", examples)) if v is not None})
    return d.lock()


def optimizer() -> ConfigDict:
    return ConfigDict(
        {
            "name": "sgd",  # sgd | adamw | lars
            "learning_rate": 0.03,  # peak, for the whole batch; it is not scaled
            "weight_decay": 1e-4,  # not of norms and biases
            "momentum": 0.9,  # sgd, lars
            "nesterov": False,  # sgd, lars
            "b1": 0.9,  # adamw
            "b2": 0.999,  # adamw
            "trust_coefficient": 0.001,  # lars
            "clip_norm": 0.0,  # largest global gradient norm; 0 = no clipping
        }
    )


def schedule() -> ConfigDict:
    return ConfigDict(
        {
            "name": "cosine",  # cosine | step | constant
            "warmup": duration(steps=0),  # linear, up to the peak
            "final_scale": 0.0,  # cosine: last learning rate over peak
            "milestones": (0.6, 0.8),  # step: shares of the stage
            "factor": 0.1,  # step: multiplies the learning rate at each milestone
        }
    )


def training() -> ConfigDict:
    """The fields that a pretext stage and fine-tuning have in common."""
    return ConfigDict(
        {
            "duration": duration(epochs=200),
            "batch_size": 256,  # over all devices
            "optimizer": optimizer(),
            "schedule": schedule(),
        }
    )


def views(recipe, fixed, *, size: int, preset: str) -> ConfigDict:
    """All fields of `augment.Views`, or of `VolumeViews`: the task's recipe, changed by the preset of the modality."""
    made = augment.make_views(preset, size=size, recipe=recipe, fixed=fixed)
    return ConfigDict({field.name: getattr(made, field.name) for field in dataclasses.fields(made)})


def distillation(**changes: Any) -> ConfigDict:
    """One term of a stage's distillation from frozen teachers. `docs/distillation.md` explains the kinds."""
    config = ConfigDict(
        {
            # none | kl | mse | cosine | relational | similarity_preserving | pfr | cassle: compares features
            # l2_sp | ewc: compares weights | weight_average: averages weights at the end of the stage
            "kind": "none",
            "weight": 1.0,
            "schedule": "constant",  # constant | linear | cosine: from weight to final_weight over the stage
            "final_weight": 0.0,  # at the last step; linear, cosine
            # previous: the weights that the stage starts from | an earlier stage by position or task | a workdir, stage
            # or file. Several are averaged.
            "teachers": ("previous",),
            "endpoint": "pooled",  # of the backbone: stem | stage1 … stage4 | pooled; not for cassle, l2_sp, ewc
            "temperature": 4.0,  # kl
            "angle": 2.0,  # relational: weight of angles beside 1 for distances
            "hidden": 0,  # pfr, cassle: width of the predictor; 0 = four times the features, at most 2,048
            "share": 0.5,  # weight_average: of the teacher; 0 = the trained weights
        }
    )
    return change(config, changes)


def several(terms: Any) -> ConfigDict:
    """Several terms of distillation, named by their kinds: `distill.ewc.weight`. A second one of a kind is `ewc_2`."""
    found: dict[str, ConfigDict] = {}
    for changes in terms:
        term = distillation(**changes)
        alike = sum(other.kind == term.kind for other in found.values())
        found[f"{term.kind}_{alike + 1}" if alike else term.kind] = term
    return ConfigDict(found).lock()


def sample_pacing(given: str | Mapping[str, Any] = "all") -> ConfigDict:
    """Which images a stage shows: the name of an order, or a mapping with its `order` and other fields.

    `docs/pacing.md` explains them.
    """
    config = ConfigDict(
        {
            # all: no pacing | easiest | hardest: by the loss of each image, a growing share of them | random: as many
            "order": "all",
            "start": 0.5,  # share of the images in the first epoch after the warm-up; it grows with the steps
            "warmup": 0.1,  # share of the stage in which all images are shown first, in whole epochs, at least one
            "until": 0.6,  # share of the stage from which on all images are shown again
            "every": 1,  # easiest, hardest: epochs from one measurement of the losses to the next
            "passes": 2,  # easiest, hardest: over the images in a measurement, in other views; the mean loss counts
        }
    )
    return change(config, {"order": given} if isinstance(given, str) else dict(given))


def data_sets(given: str | Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """One data set by its name, or several with their shares of every batch: {"isic2019/224": 0.7, "mine/224": 0.3}."""
    return ((given, 1.0),) if isinstance(given, str) else tuple((name, float(share)) for name, share in given.items())


def imbalance_method(given: str | Mapping[str, Any]) -> ConfigDict:
    """The method against class imbalance that a target names, with all its fields.

    Raises UserError for an unknown method, AttributeError that names an unknown field.
    """
    fields = {"name": given} if isinstance(given, str) else dict(given)
    if "name" not in fields:
        raise UserError(f"imbalance {fields} has no name: write imbalance={{'name': …, …}}, or the name alone")
    defaults = imbalance.default_fields(fields.pop("name"))
    config = ConfigDict({key: placeholder(float) if value is None else value for key, value in defaults.items()})
    return change(config, fields)


def common_fields(names: Sequence[str], changes: dict[str, Any]) -> dict[str, Any]:
    """Some of the fields that 'finetune' and supervised systems have in common. `imbalance` is taken from `changes`."""
    every: dict[str, Any] = {
        "layer_decay": 1.0,  # learning rate of a layer over that of the next; of a ViT 0.5 to 0.75 is usual
        # central | flip | right_angles | nine_crops: views of a test image, over which probabilities are averaged
        "test_views": "central",
    }
    if "imbalance" in names:
        # none | inverse_frequency | balanced_sampling | class_balanced | focal | ldam_drw | logit_adjustment
        # | balanced_softmax | ccl: by its name, or with fields, imbalance={"name": "ldam_drw", "max_margin": 0.3}.
        # `docs/measuring.md` explains them, and `aiseeme_jax/evaluate/imbalance/` their fields.
        every["imbalance"] = imbalance_method(changes.pop("imbalance", imbalance.DEFAULT))
    return {name: every[name] for name in names}


def change(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """Locks `config` and applies `changes`. A nested dict changes the fields that it names. A duration is replaced."""
    config.lock()
    for key, value in changes.items():
        if key not in config:
            known = ", ".join(sorted([*config.keys(), *config.get("fields", {}).keys()]))
            raise AttributeError(f"unknown field '{key}': known are {known}")
        if isinstance(value, dict):
            change(config[key], value)
        elif isinstance(value, ConfigDict):
            with config.unlocked():
                config[key] = value.lock()
        else:
            config[key] = value
    return config
