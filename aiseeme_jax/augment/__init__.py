"""Image operations on the accelerator, and the view presets of each modality.

A view is a pure function of key, stored image or volume, and `Views` or `VolumeViews`. It is float32 and normalised.
"""

from aiseeme_jax.augment.geometry import rotate90
from aiseeme_jax.augment.patches import patches
from aiseeme_jax.augment.presets import PRESETS, make_views
from aiseeme_jax.augment.views import (
    CENTRAL,
    EVALUATION_VIEWS,
    AnyViews,
    Views,
    central_view,
    evaluation_views,
    from_display,
    random_view,
    random_view_with_mask,
    stored_to_display,
    to_display,
    views_of,
)
from aiseeme_jax.augment.volumes import VolumeViews, rotate_cube

__all__ = [
    "CENTRAL",
    "EVALUATION_VIEWS",
    "PRESETS",
    "AnyViews",
    "Views",
    "VolumeViews",
    "central_view",
    "evaluation_views",
    "from_display",
    "make_views",
    "patches",
    "random_view",
    "random_view_with_mask",
    "rotate90",
    "rotate_cube",
    "stored_to_display",
    "to_display",
    "views_of",
]
