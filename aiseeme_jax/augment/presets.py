"""What is known about the images of a modality, laid over what a pretext task was published with.

A task brings the strengths of its paper, tuned on photographs of everyday things. A preset then says what the
modality allows (a skin lesion has no upright position) and forbids (its colour is diagnostic). Last comes
what the task itself cannot bear (the answer of rotation prediction must not be drawn at random). A new preset
is one entry of `PRESETS`.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from aiseeme_jax.augment.views import Views

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Preset(NamedTuple):
    """What a modality does to a recipe.

    Attributes:
      overrides: fields of `Views` set as they stand.
      at_most: caps on the task's strengths.
      smallest_crop: floor of the lower end of `crop_scale`.
    """

    overrides: Mapping[str, Any] = NOTHING
    at_most: Mapping[str, float] = NOTHING
    smallest_crop: float = 0.0


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "natural": Preset(),
        # Dermoscopy has no up. Blue-white veil, red and brown are criteria of diagnosis, so colours stay near
        # what they are. Skin is bright: much brighter, it is white, and the lesion is gone. A crop of 8 % of
        # the image mostly shows skin, or a piece of lesion without border. The caps are this project's
        # choice, not published values; mean and deviation are those of HAM10000, a large part of ISIC 2019.
        "dermoscopy": Preset(
            overrides={
                "flip_horizontal": 0.5,
                "flip_vertical": 0.5,
                "right_angles": True,
                "rotation": 15.0,
                "mean": (0.765, 0.547, 0.572),
                "std": (0.139, 0.151, 0.168),
            },
            at_most={
                "brightness": 0.4,
                "contrast": 0.4,
                "saturation": 0.4,
                "hue": 0.05,
                "solarise_probability": 0.0,
            },
            smallest_crop=0.25,
        ),
    }
)


def make_views(
    preset: str, size: int, recipe: Mapping[str, Any] = NOTHING, fixed: Mapping[str, Any] = NOTHING
) -> Views:
    """Defaults of `Views`, then the task's published strengths, then the modality, then what the task needs.

    Args:
      preset: name in `PRESETS`.
      size: side of the views in pixels.
      recipe: fields of `Views`, strengths of the task's paper.
      fixed: fields of `Views` the task needs to make sense; they win over the preset.

    Raises:
      ValueError: an unknown preset or field; the message names the known ones.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown view preset {preset!r}: known are {', '.join(sorted(PRESETS))}")
    modality = PRESETS[preset]
    fields = {field.name: field.default for field in dataclasses.fields(Views)}
    for given in (recipe, modality.overrides, modality.at_most, fixed):
        unknown = sorted(set(given) - set(fields))
        if unknown:
            raise ValueError(f"unknown fields of views: {', '.join(unknown)}; known are {', '.join(fields)}")
    fields |= dict(recipe)
    fields |= {name: min(cap, fields[name]) for name, cap in modality.at_most.items()}
    low, high = fields["crop_scale"]
    fields["crop_scale"] = (max(low, min(modality.smallest_crop, high)), high)
    fields |= {**modality.overrides, "size": size, **fixed}
    return Views(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
