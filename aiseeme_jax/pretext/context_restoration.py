"""Context restoration (Chen et al., Medical Image Analysis 2019): pairs of patches were swapped; put them back.

No pixel is lost and the histogram stays the same. So the network must look at the surroundings of a patch to find out
whether it belongs there.
"""

from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.augment import corruption
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.reconstruction import Reconstruction
from aiseeme_jax.task import Setting


class ContextRestoration(Reconstruction):
    """Mean squared error over the whole view; the decoder has no skips, as in the paper's networks for classification.

    Args:
      patch: side of a patch in pixels; 0 takes an eighth of the view's. Size and number are this project's choice.
      swaps: pairs swapped in each image, one after another.

    Raises UserError for a patch larger than about a third of the view.
    """

    NAME = "context_restoration"
    IMAGE_LOSSES = True

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        patch: int = 0,
        swaps: int = 10,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec, setting, rngs=rngs)
        ranges.check_at_least(self, 1, swaps=swaps)
        self.patch, self.swaps = patch or max(spec.size // 8, 1), swaps
        largest = (spec.size + 1) // 3
        if not 1 <= self.patch <= largest:
            raise UserError(
                f"{self.NAME}: a patch of {self.patch} px leaves no place apart from it in a view of "
                f"{spec.size} px; `patch` is at most {largest}"
            )

    def damage(self, key, view):
        return corruption.swap_patches(key, view, size=self.patch, swaps=self.swaps)
