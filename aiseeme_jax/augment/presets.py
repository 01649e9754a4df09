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

from aiseeme_jax.augment.views import AnyViews, Views
from aiseeme_jax.augment.volumes import VolumeViews

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Preset(NamedTuple):
    """What a modality does to a recipe.

    Attributes:
      overrides: fields of the views set as they stand.
      at_most: caps on the task's strengths.
      smallest_crop: floor of the lower end of `crop_scale`.
      kind: class of the views: `Views` of images, `VolumeViews` of volumes.
    """

    overrides: Mapping[str, Any] = NOTHING
    at_most: Mapping[str, float] = NOTHING
    smallest_crop: float = 0.0
    kind: type[AnyViews] = Views


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
        # A chest X-ray has an up, and is grey. Mirrored, it has the heart on the wrong side; but disease comes in both
        # lungs and no target here asks for a side, so that costs little and doubles the images (MoCo-CXR, Sowrirajan
        # et al. 2021, mirrors and turns by 10 degrees as well). Opacity is a matter of contrast, so that stays near
        # what it is. From 0.34 of the area up, no crop is narrower than half the image (ratios from 3/4), so each
        # reaches the midline and none shows but the rim of a lung. The caps are this project's choice; mean and
        # deviation were measured on the 4,099 images in the `train` folder of Kermany's data.
        "cxr": Preset(
            overrides={
                "flip_horizontal": 0.5,
                "flip_vertical": 0.0,
                "right_angles": False,
                "rotation": 10.0,
                "crop_ratio": (3 / 4, 4 / 3),
                "mean": (0.482,),
                "std": (0.237,),
            },
            at_most={
                "brightness": 0.4,
                "contrast": 0.4,
                "saturation": 0.0,
                "hue": 0.0,
                "grey_probability": 0.0,
                "solarise_probability": 0.0,
            },
            smallest_crop=0.34,
        ),
        # Patches of a CT around a nodule. A patch has no up and no side, so all 48 positions of a cube are alike. HU
        # are a measure by which calcium, fat and ground glass are told: the window moves by a tenth of its width at
        # most. A crop of 0.4 of the volume has 0.74 of its edge, so a nodule of 30 mm (larger is called a mass) in
        # the middle of a patch of 64 mm is in every crop as a whole. Strengths are this project's choice.
        "ct": Preset(
            overrides={
                "flip_z": 0.5,
                "flip_y": 0.5,
                "flip_x": 0.5,
                "right_angles": True,
                "window": (-1000.0, 400.0),
                "noise_probability": 0.5,
                "noise": (0.0, 0.02),
            },
            at_most={"brightness": 0.1, "contrast": 0.2},
            smallest_crop=0.4,
            kind=VolumeViews,
        ),
        # Planes through a nodule, as images in HU: the nine of `lidc_idri/views` and `/patches`, one or three channels.
        # As in a volume there is no up and no side, and densities stay near what they are. The channels of a patch are
        # the nodule and its surroundings, not colours. From 0.55 of the area up, a crop is as wide as one of 0.4 of a
        # volume. Strengths are this project's choice.
        "ct_planes": Preset(
            overrides={
                "flip_horizontal": 0.5,
                "flip_vertical": 0.5,
                "right_angles": True,
                "window": (-1000.0, 400.0),
                "mean": (0.5,),
                "std": (0.5,),
            },
            at_most={
                "brightness": 0.1,
                "contrast": 0.2,
                "saturation": 0.0,
                "hue": 0.0,
                "grey_probability": 0.0,
                "solarise_probability": 0.0,
            },
            smallest_crop=0.55,
        ),
    }
)


def make_views(
    preset: str, size: int, recipe: Mapping[str, Any] = NOTHING, fixed: Mapping[str, Any] = NOTHING
) -> AnyViews:
    """Defaults of the views, then the task's published strengths, then the modality, then what the task needs.

    Args:
      preset: name in `PRESETS`; it says whether the views are of images or of volumes.
      size: side of the views in pixels.
      recipe: fields of views, strengths of the task's paper.
      fixed: fields of views the task needs to make sense; they win over the preset.

    A task may be published for images and used on volumes, or have fields for both: of recipe and fixed, those that
    only the other kind of views has are left out. So a recipe of images is laid over volumes without its colours (hue,
    saturation, grey, solarisation), its rotation, the ratio of its crops and its flips, which a preset of volumes sets
    for all three axes.

    Raises:
      ValueError: an unknown preset or field; the message names the known ones.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown view preset {preset!r}: known are {', '.join(sorted(PRESETS))}")
    modality = PRESETS[preset]
    fields, other = ({f.name: f.default for f in dataclasses.fields(kind)} for kind in _kinds(modality))
    recipe, fixed = ({k: v for k, v in given.items() if k in fields or k not in other} for given in (recipe, fixed))
    for given in (recipe, modality.overrides, modality.at_most, fixed):
        unknown = sorted(set(given) - set(fields))
        if unknown:
            raise ValueError(f"unknown fields of views: {', '.join(unknown)}; known are {', '.join(fields)}")
    fields |= dict(recipe)
    fields |= {name: min(cap, fields[name]) for name, cap in modality.at_most.items()}
    low, high = fields["crop_scale"]
    fields["crop_scale"] = (max(low, min(modality.smallest_crop, high)), high)
    fields |= {**modality.overrides, "size": size, **fixed}
    return modality.kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def _kinds(modality: Preset) -> tuple[type[AnyViews], type[AnyViews]]:
    """The modality's class of views, and the other one."""
    return (Views, VolumeViews) if modality.kind is Views else (VolumeViews, Views)
