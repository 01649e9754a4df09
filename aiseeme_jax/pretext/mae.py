"""Masked autoencoder (He et al., CVPR 2022): restore an image from a quarter of its patches.

The encoder, a ViT, gets the visible patches only, which makes the step cheap. A small decoder gets all places, the
hidden ones as one learnt token with their position. The decoder is not used after the stage.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.errors import UserError
from aiseeme_jax.models import vit
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.reconstruction import image_keys
from aiseeme_jax.task import Output, Setting, Task

# Added to a patch's variance before the root, as in the authors' code.
EPSILON = 1e-6
# Features of a head of the decoder: 512 / 16.
HEAD = 32


class PatchDecoder(nnx.Module):
    """Pixels of the hidden patches from what the encoder made of the visible ones.

    Args:
      backbone: the encoder.
      width: features of its tokens, a multiple of `heads`.
    """

    def __init__(self, backbone: models.ViT, *, width: int, blocks: int, heads: int, dtype: str, rngs: nnx.Rngs):
        options = {"dtype": jnp.dtype(dtype), "rngs": rngs}
        self.embedding = vit.linear(backbone.features, width, **options)
        # One axis, so that it takes no weight decay.
        self.token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        self.blocks = nnx.List(vit.TransformerBlock(width, heads, **options) for _ in range(blocks))
        self.norm = vit.LayerNorm(width, rngs=rngs)
        self.head = vit.linear(width, backbone.patch**backbone.dimensions * backbone.channels, **options)

    def __call__(
        self,
        encoded: Float[Array, "b more d"],
        visible: Int[Array, "b v"],
        hidden: Int[Array, "b m"],
        space: tuple[int, ...],
    ) -> Float[Array, "b m p"]:
        """Hidden patches [B, M, pixels] in float32.

        Args:
          encoded: the class token, then the visible patches in the order of `visible`.
          visible, hidden: places in the grid of patches, `space`.
        """
        # In any order: blocks know a token's place by its position alone.
        x = self.embedding(encoded)
        positions = vit.positions(space, x.shape[-1]).astype(x.dtype)
        first, shown = x[:, :1], x[:, 1:] + positions[visible]
        guessed = self.token.get_value().astype(x.dtype) + positions[hidden]
        x = jnp.concatenate([first, shown, guessed], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -hidden.shape[1] :])).astype(jnp.float32)


class MAE(Task):
    """Mean squared error over the pixels of the hidden patches. Images and volumes.

    `Output.images` are whole views, and a teacher gets all of each. `Output.features` come from the visible patches
    only, which saves a second pass. So distillation of pooled features asks the student to compute from a part what the
    teacher computes from the whole.

    Args:
      share: of the patches that are hidden, drawn anew for each image; the visible ones are rounded down, as published.
      normalised: restore each patch in units of its own mean and standard deviation over pixels and channels; views as
        they are otherwise.
      width: features of the decoder; 0 takes two thirds of the backbone's in multiples of 32, at least 32 (512 for a
        ViT-B, as published).
      blocks: of the decoder; 0 takes two thirds of the backbone's, at least one (8 of 12, as published).
      heads: of the decoder; 0 takes one for 32 features (16 for a ViT-B, as published).

    Raises UserError for a backbone that is no ViT, a share that leaves no patch visible or none hidden, or a width
    that is no multiple of the heads.
    """

    NAME = "mae"
    IMAGE_LOSSES = True
    RECIPE = {"crop_scale": (0.2, 1.0), "flip_horizontal": 0.5}

    def __init__(
        self,
        backbone: models.ViT,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        share: float = 0.75,
        normalised: bool = True,
        width: int = 0,
        blocks: int = 0,
        heads: int = 0,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_shares(self, share=share)
        ranges.check_at_least(self, 0, width=width, blocks=blocks, heads=heads)
        if not isinstance(backbone, models.ViT):
            raise UserError(
                f"{self.NAME} needs a ViT, which can be shown a part of the patches: "
                f"set model.name to {', '.join(vit.ARCHITECTURES)}"
            )
        vit.check_side(spec.size, backbone.patch)
        self.space = (spec.size // backbone.patch,) * spec.dimensions
        self.visible, self.normalised = visible_count(self, share, self.space, backbone.patch), normalised
        size = decoder_size(self, backbone, width=width, blocks=blocks, heads=heads)
        self.decoder = PatchDecoder(backbone, **size, dtype=setting.dtype, rngs=rngs)

    def views(self, key: PRNGKeyArray, batch):
        view_key, place_key = jax.random.split(key)
        image = augment.random_view(view_key, batch["image"], self.spec)
        count = self.space[0] ** len(self.space)
        order = jax.vmap(lambda key: jax.random.permutation(key, count))(image_keys(place_key, image))
        return {"image": image, "visible": order[:, : self.visible], "hidden": order[:, self.visible :]}

    def loss(self, views, progress) -> Output:
        images, hidden = views["image"], views["hidden"]
        encoded = self.backbone.encode(chosen(self.backbone.tokens(images), views["visible"]))
        restored = self.decoder(encoded, views["visible"], hidden, self.space)
        wanted = chosen(vit.patchify(images, self.backbone.patch), hidden)
        errors = losses.squared_errors(restored, standardised(wanted) if self.normalised else wanted)
        of_images = losses.image_means(errors, images.shape[0])
        return Output(jnp.mean(errors), {}, images, self.backbone.pool(encoded), image_losses=of_images)


def visible_count(task: Task, share: float, space: tuple[int, ...], patch: int) -> int:
    """Patches left visible of a grid, by the rule in `MAE`; UserError if that is none or all."""
    count = space[0] ** len(space)
    # A little above, since 10 (1 - 0.9) is a little below 1.
    visible = int(count * (1 - share) + 1e-6)
    if not 0 < visible < count:
        raise UserError(
            f"{task.NAME}: `share` {share:g} of {count} patches of {patch} px leaves {max(visible, 0)} visible; "
            "some must be and some must not: change `share`, or lower model.patch"
        )
    return visible


def decoder_size(task: Task, backbone: models.ViT, *, width: int, blocks: int, heads: int) -> dict[str, int]:
    """Size of the decoder by the rules in `MAE`; UserError if its width is no multiple of its heads."""
    width = width or max(HEAD * round(2 * backbone.features / (3 * HEAD)), HEAD)
    blocks = blocks or max(2 * len(backbone.blocks) // 3, 1)
    heads = heads or max(width // HEAD, 1)
    if width % heads:
        raise UserError(
            f"{task.NAME}: a decoder of {width} features does not divide into {heads} heads; change `heads`"
        )
    return {"width": width, "blocks": blocks, "heads": heads}


def chosen(rows: Float[Array, "b n d"], places: Int[Array, "b m"]) -> Float[Array, "b m d"]:
    """The rows of each image at its places."""
    return jnp.take_along_axis(rows, places[..., None], axis=1)


def standardised(patches: Float[Array, "b n p"]) -> Float[Array, "b n p"]:
    """Each patch less its mean, over its standard deviation (variance over p - 1, plus 1e-6)."""
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    return (patches - mean) * jax.lax.rsqrt(jnp.var(patches, axis=-1, keepdims=True, ddof=1) + EPSILON)
