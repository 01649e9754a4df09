"""View presets: how the images of a modality change the published augmentation of a pretext task.

A task has the strengths of augmentation of its paper, which were tuned on photographs of everyday things. A preset says
what the modality allows (a skin lesion has no upright position) and what it forbids (its colour is diagnostic). Last
come fields that the task needs (the answer of rotation prediction must not be drawn at random). A new preset is one
entry of `PRESETS`.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from aiseeme_jax.augment.views import AnyViews, Views
from aiseeme_jax.augment.volumes import VolumeViews

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Preset(NamedTuple):
    """The changes that a modality makes to a recipe.

    Attributes:
      overrides: values of fields of the views.
      at_most: upper limits of the task's strengths.
      smallest_crop: lower limit of the lower end of `crop_scale`.
      kind: class of the views: `Views` of images, `VolumeViews` of volumes.
    """

    overrides: Mapping[str, Any] = NOTHING
    at_most: Mapping[str, float] = NOTHING
    smallest_crop: float = 0.0
    kind: type[AnyViews] = Views


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "natural": Preset(),
        # Dermoscopy has no upright position. Blue-white veil, red and brown are criteria of diagnosis, so colours
        # change little. Skin is bright: if it is made much brighter, it becomes white, and the lesion disappears. A
        # crop of 8 % of the image mostly shows skin, or a piece of lesion without border. The limits are this project's
        # choice, not published values. Mean and deviation are those of HAM10000, a large part of ISIC 2019.
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
        # A chest X-ray has an upright position, and is grey. A mirrored one has the heart on the wrong side. But
        # disease occurs in both lungs and no target here asks for a side, so mirroring costs little and doubles the
        # images (MoCo-CXR, Sowrirajan et al. 2021, also mirrors, and turns by 10 degrees). Opacity is judged by
        # contrast, so contrast changes little. A crop of at least 0.34 of the area is at least half as wide as the
        # image (its ratio is at least 3/4). So each crop reaches the midline, and none shows only the rim of a lung.
        # The limits are this project's choice. Mean and deviation were measured on the 4,099 images in Kermany's folder
        # `train`.
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
        # Patches of a CT around a nodule. A patch has no upright position and no side, so all 48 positions of a cube
        # are equally good. Calcium, fat and ground glass are distinguished by their HU, so the window moves by at most
        # a tenth of its width. A crop of 0.4 of the volume has 0.74 of its edge. So a nodule of 30 mm (a larger one is
        # called a mass) in the middle of a patch of 64 mm is complete in every crop. The strengths are this project's
        # choice.
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
        # As in a volume, there is no upright position and no side, and densities change little. The channels of a patch
        # are the nodule and its surroundings, not colours. A crop of at least 0.55 of the area is as wide as one of 0.4
        # of a volume. The strengths are this project's choice.
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
        # The same planes as grey values, those of `lidc_nodules`. Mean and deviation are those of its training nodules.
        "grey_planes": Preset(
            overrides={
                "flip_horizontal": 0.5,
                "flip_vertical": 0.5,
                "right_angles": True,
                "mean": (0.252,),
                "std": (0.236,),
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
    """Makes views from their defaults, then the task's recipe, then the preset, then the fields that the task needs.

    Args:
      preset: name in `PRESETS`. It decides whether the views are of images or of volumes.
      size: side of the views in pixels.
      recipe: fields of views with the strengths of the task's paper.
      fixed: fields of views that the task needs. They override the preset.

    A task may be published for images and used on volumes, or have fields for both. Fields of `recipe` and `fixed` that
    only the other kind of views has are ignored. So a recipe of images is used on volumes without its colours (hue,
    saturation, grey, solarisation), rotation, ratio of crops, and flips, which a preset of volumes sets for all three
    axes.

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
