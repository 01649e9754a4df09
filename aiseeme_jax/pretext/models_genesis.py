"""Models Genesis (Zhou et al., MICCAI 2019): restore a damaged view.

Three ways to damage a view, in this order, each with its probability: pixels shuffled within small blocks (texture),
intensities bent by a random curve (appearance), boxes inside or all outside of them painted over with noise (context).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.augment import corruption
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.reconstruction import Reconstruction
from aiseeme_jax.task import Setting


class ModelsGenesis(Reconstruction):
    """Mean squared error over the whole view; the decoder has skips. Probabilities are the published ones.

    Beside the published code: blocks of shuffled pixels tile the view, with sides drawn from the published range (1
    px to a tenth of the view, at least 2), where it lays thousands of blocks over one another; the output is linear and
    the target normalised, where it has a sigmoid and [0, 1]. In colour images all channels are bent by one curve.

    Args:
      shuffling: probability of shuffled pixels.
      bending: of bent intensities; half of the curves fall.
      painting: of paint, uniform noise.
      outside: that paint covers the outside of boxes, given that there is paint.

    Raises UserError for a probability outside [0, 1].
    """

    NAME = "models_genesis"
    IMAGE_LOSSES = True
    SKIPS = True

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        shuffling: float = 0.5,
        bending: float = 0.9,
        painting: float = 0.9,
        outside: float = 0.8,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec, setting, rngs=rngs)
        self.shuffling, self.bending, self.painting, self.outside = shuffling, bending, painting, outside
        for name in ("shuffling", "bending", "painting", "outside"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{self.NAME}: `{name}` is a probability, not {getattr(self, name)}")

    def damage(self, key, view):
        draw_key, block_key, shuffle_key, inner_key, outer_key, paint_key = jax.random.split(key, 6)
        shuffled, bent, falling, painted, outside, *points = jax.random.uniform(draw_key, (9,))
        image, space = augment.to_display(view, self.spec), view.shape[:-1]
        blocks = corruption.random_blocks(block_key, space, largest=max(space[0] // 10, 2))
        mixed = corruption.shuffle_within(shuffle_key, image, blocks)
        image = jnp.where(shuffled < self.shuffling, mixed, image)
        curved = corruption.bezier(image, points[:2], points[2:], falling=falling < 0.5)
        image = jnp.where(bent < self.bending, curved, image)
        inner, outer = corruption.inner_boxes(inner_key, space), corruption.outside_boxes(outer_key, space)
        covered = jnp.where(outside < self.outside, outer, inner) & (painted < self.painting)
        image = jnp.where(covered[..., None], jax.random.uniform(paint_key, image.shape), image)
        return augment.from_display(image, self.spec)
