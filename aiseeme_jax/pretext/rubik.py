"""Rubik's cube (Zhuang et al., MICCAI 2019; with masks Zhu et al., Medical Image Analysis 2020, "Rubik's cube+").

A volume is cut into eight cubes with gaps between them. The cubes change places, some are turned by half a turn, some
lose half of their voxels. The network names their order, the turned ones, and those that lost voxels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.pretext import grid, ranges
from aiseeme_jax.pretext.permutations import max_hamming
from aiseeme_jax.task import Output, Setting, Task

SIDE = 2
CUBES = SIDE**3
# Half turns about z and about y: each turns two axes of a cube [z, y, x, c] over. Both together are one about x.
HALF_TURNS = ((1, 2), (0, 2))
# Share of the voxels a cube with gaps loses.
LOST = 0.5


class Rubik(Task):
    """Cross-entropy over the orders, and binary ones over turns and gaps. Views: cubes [B, 8, s, s, s, C].

    The heads get the hidden layers of all cubes side by side. Each cube is turned about z, about y, and has gaps with
    probability 1/2 each. Sizes, shares and weights are this project's choice.

    Args:
      permutations: size of the set of orders, max-Hamming as in the jigsaw.
      patch: side of a cube in voxels; 0 takes three quarters of half the view's.
      hidden: width of a cube's hidden layer; 0 takes half the backbone's features.
      orientation: weight of the turns beside the order.
      masking: weight of the gaps; 0 gives Rubik's cube without them.

    Raises UserError for cubes that do not fit the view, or a number of permutations that eight cubes do not have.
    """

    NAME = "rubik"
    IMAGE_LOSSES = True
    DIMENSIONS = (3,)
    RECIPE = {"crop_scale": (0.7, 1.0)}
    # A turn of the whole volume would change the answer for every cube. One flip alone is no turn.
    FIXED = {"right_angles": False, "flip_z": 0.0, "flip_y": 0.0}

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.VolumeViews,
        setting: Setting,
        *,
        permutations: int = 100,
        patch: int = 0,
        hidden: int = 0,
        orientation: float = 1.0,
        masking: float = 1.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_at_least(self, 0, hidden=hidden, orientation=orientation, masking=masking)
        self.patch = grid.patch_size(self, patch, backbone, spec, side=SIDE)
        max_hamming(CUBES, permutations)
        self.permutations, self.orientation, self.masking = permutations, orientation, masking
        hidden = hidden or max(backbone.features // 2, 1)
        self.hidden = models.MLP(backbone.features, (), hidden, final_norm=True, dtype=setting.dtype, rngs=rngs)
        self.order_head = nnx.Linear(CUBES * hidden, permutations, rngs=rngs)
        self.turn_head = nnx.Linear(CUBES * hidden, CUBES * len(HALF_TURNS), rngs=rngs)
        self.gap_head = nnx.Linear(CUBES * hidden, CUBES, rngs=rngs)

    def views(self, key: PRNGKeyArray, batch):
        view_key, patch_key, order_key, turn_key, gap_key, voxel_key = jax.random.split(key, 6)
        cubes = grid.draw(view_key, patch_key, batch["image"], self.spec, self.patch, side=SIDE)
        images = cubes.shape[0]
        order = jax.random.randint(order_key, (images,), 0, self.permutations)
        orders = jnp.asarray(max_hamming(CUBES, self.permutations))[order]
        cubes = jax.vmap(lambda pieces, order: pieces[order])(cubes, orders)
        turned = jax.random.bernoulli(turn_key, 0.5, (images, CUBES, len(HALF_TURNS)))
        for number, axes in enumerate(HALF_TURNS):
            over = jnp.flip(cubes, [axis + 2 for axis in axes])
            cubes = jnp.where(_beside(turned[..., number], cubes), over, cubes)
        gaps = jax.random.bernoulli(gap_key, 0.5 if self.masking else 0.0, (images, CUBES))
        lost = jax.random.bernoulli(voxel_key, LOST, cubes.shape) & _beside(gaps, cubes)
        return {"patches": jnp.where(lost, 0.0, cubes), "order": order, "turned": turned, "gaps": gaps}

    def shown_images(self, views):
        return views["patches"].reshape(-1, *views["patches"].shape[2:])

    def loss(self, views, progress) -> Output:
        images, order = self.shown_images(views), views["order"]
        features = self.backbone(images, train=True)["pooled"]
        hidden = jax.nn.relu(self.hidden(features, train=True)).reshape(order.shape[0], -1)
        orders, turns, gaps = self.order_head(hidden), self.turn_head(hidden), self.gap_head(hidden)
        order_rows = losses.cross_entropies(orders, order)
        turn_rows = losses.binary_cross_entropies(turns, views["turned"].reshape(turns.shape))
        gap_rows = losses.binary_cross_entropies(gaps, views["gaps"])
        order_loss, turn_loss, gap_loss = jnp.mean(order_rows), jnp.mean(turn_rows), jnp.mean(gap_rows)
        metrics = {"accuracy": accuracy(orders, order), "order_loss": order_loss, "orientation_loss": turn_loss}
        metrics["masking_loss"] = gap_loss
        loss = order_loss + self.orientation * turn_loss + self.masking * gap_loss
        of_turns, of_gaps = jnp.mean(turn_rows, axis=1), jnp.mean(gap_rows, axis=1)
        of_images = order_rows + self.orientation * of_turns + self.masking * of_gaps
        return Output(loss, metrics, images, features, image_losses=of_images)


def _beside(chosen: Array, cubes: Float[Array, "b n *size c"]) -> Array:
    """One flag for each cube, in the rank of the cubes."""
    return chosen.reshape(*chosen.shape, *[1] * (cubes.ndim - 2))
