"""Inpainting (Pathak et al., CVPR 2016, context encoders): fill the holes of an image from what surrounds them.

The reconstruction part of the paper; its adversarial loss and its heavier weight on the rim of holes are left out.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from aiseeme_jax import augment, losses
from aiseeme_jax.augment import corruption
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.reconstruction import Reconstruction, image_keys
from aiseeme_jax.task import Output, Setting


class Inpainting(Reconstruction):
    """Mean squared error over the holes; the decoder has no skips. Holes hold the mean, 0 in a normalised view.

    The paper's random blocks: several of one size, which may overlap. Views: 'hole' [B, *space, 1] too.

    Args:
      share: of the view that the holes cover where they do not overlap (published: up to a quarter).
      holes: their number; this project's choice.

    Raises UserError for a share outside (0, 1), or holes that are no whole pixel.
    """

    NAME = "inpainting"
    IMAGE_LOSSES = True

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        share: float = 0.25,
        holes: int = 4,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec, setting, rngs=rngs)
        if not 0 < share < 1 or holes < 1:
            raise UserError(f"{self.NAME}: `share` lies in (0, 1) and `holes` is at least 1, not {share} and {holes}")
        self.holes, self.side = holes, round(spec.size * (share / holes) ** (1 / spec.dimensions))
        if self.side < 1:
            raise UserError(
                f"{self.NAME}: {holes} holes in {share:g} of a view of {spec.size} px have no whole pixel each; "
                "lower `holes` or raise `share`"
            )

    def views(self, key, batch):
        view_key, hole_key = jax.random.split(key)
        target = augment.random_view(view_key, batch["image"], self.spec)
        hole = jax.vmap(lambda key: self._hole(key, target.shape[1:-1]))(image_keys(hole_key, target))[..., None]
        return {"image": jnp.where(hole, 0.0, target), "target": target, "hole": hole}

    def loss(self, views, progress) -> Output:
        endpoints = self.backbone(views["image"], train=True)
        restored = self.decoder(endpoints, train=True)
        target, hole = views["target"], views["hole"]
        loss = losses.masked_mse(restored, target, hole)
        inside = jnp.broadcast_to(hole, target.shape).astype(jnp.float32)
        of_images = losses.image_shares(losses.squared_errors(restored, target), inside, target.shape[0])
        return Output(loss, {}, views["image"], endpoints["pooled"], image_losses=of_images)

    def _hole(self, key, space):
        sides = [(self.side, self.side)] * len(space)
        return corruption.random_boxes(key, space, count=self.holes, sides=sides, sure=self.holes, more=0.0, margin=0)
