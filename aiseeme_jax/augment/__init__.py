"""Image operations on the accelerator, and the view presets of each modality.

uint8 images in, normalised float32 views out, a pure function of key, image and `Views`.
"""

from aiseeme_jax.augment.geometry import rotate90
from aiseeme_jax.augment.patches import patches
from aiseeme_jax.augment.presets import PRESETS, make_views
from aiseeme_jax.augment.views import Views, central_view, random_view, to_display

__all__ = [
    "PRESETS",
    "Views",
    "central_view",
    "make_views",
    "patches",
    "random_view",
    "rotate90",
    "to_display",
]
