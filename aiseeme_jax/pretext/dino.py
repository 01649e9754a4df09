"""DINO, self-distillation with no labels (Caron et al., ICCV 2021): every crop predicts the teacher's output.

The teacher is a moving average of the student, and gets the two global crops. Centring its outputs keeps one prototype
from winning for all images. Sharpening them keeps all prototypes from being equally likely.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.models.heads import Encoder
from aiseeme_jax.pretext import ranges
from aiseeme_jax.pretext.byol import BYOL
from aiseeme_jax.pretext.multicrop import by_image, multi_crop
from aiseeme_jax.task import Average, Bank, Output, Setting, Task, raise_momentum

PUBLISHED_PROTOTYPES = 65_536
# The published number for the 1.28 million images of ImageNet.
IMAGES_PER_PROTOTYPE = 20
FEWEST_PROTOTYPES = 16


class Prototypes(nnx.Module):
    """Three layers with GELU, rows of length one, then similarities to prototypes of length one.

    Weight normalisation with a gain of 1, so that only directions are learnt.
    """

    def __init__(self, features: int, hidden: int, bottleneck: int, prototypes: int, *, dtype: str, rngs: nnx.Rngs):
        # No batch normalisation: with a ViT the whole network is then free of it.
        gelu = functools.partial(jax.nn.gelu, approximate=False)
        self.mlp = models.MLP(features, (hidden, hidden), bottleneck, activation=gelu, dtype=dtype, rngs=rngs)
        self.directions = nnx.Param(jax.random.normal(rngs.params(), (bottleneck, prototypes)))

    def __call__(self, x: Float[Array, "n d"], *, train: bool) -> Float[Array, "n k"]:
        return normalise(self.mlp(x, train=train)) @ normalise(self.directions.get_value().T).T


class DINO(Task):
    """Cross-entropy of the student's prototypes of each crop with the teacher's of the other global crops.

    Lengths that the paper gives in epochs are shares of the stage here. The stage leaves the teacher's backbone, which
    is the better one in the paper. In a stage of few steps, lower `momentum`, or the teacher stays behind.

    Args:
      student_temperature: of its softmax.
      teacher_temperature: of the teacher's, after the warm-up.
      warmup_temperature: of the teacher's at the start.
      warmup: share of the stage over which the teacher's temperature rises linearly (30 of 300 epochs).
      momentum: of the teacher at the start; it rises along a cosine and is 1 at the end of the stage. The authors'
        code suggests 0.9995 for batches of 256.
      centre_momentum: of the mean of the teacher's outputs, which is taken from them.
      frozen: share of the stage in which the prototypes do not learn (1 of 100 epochs).
      prototypes: 0 takes one for 20 images, as published, at least 16 and at most 65,536. From 2 to the number of
        images.
      hidden: width of the head's two hidden layers.
      bottleneck: length of what is compared with the prototypes.
      local_crops, local_size, local_scale: as in `multicrop.multi_crop`. Without local crops the authors' code
        suggests a `crop_scale` of (0.14, 1).

    Raises UserError if prototypes or crops do not fit the data set.
    """

    NAME = "dino"
    IMAGE_LOSSES = True
    RECIPE = {**BYOL.RECIPE, "crop_scale": (0.4, 1.0)}
    SHARES = (*BYOL.SHARES, {"blur_probability": 0.5, "solarise_probability": 0.0})
    EMBEDDING_DISTANCE = "prototypes"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        setting: Setting,
        *,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        warmup_temperature: float = 0.04,
        warmup: float = 0.1,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        frozen: float = 0.01,
        prototypes: int = 0,
        hidden: int = 2048,
        bottleneck: int = 256,
        local_crops: int = 8,
        local_size: int = 0,
        local_scale: tuple[float, float] = (0.05, 0.4),
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(
            self,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            warmup_temperature=warmup_temperature,
        )
        ranges.check_shares(self, warmup=warmup, momentum=momentum, centre_momentum=centre_momentum, frozen=frozen)
        ranges.check_at_least(self, 0, local_size=local_size)
        ranges.check_at_least(self, 1, hidden=hidden, bottleneck=bottleneck)
        self.crops = multi_crop(
            self,
            backbone,
            spec,
            local_crops=local_crops,
            local_size=local_size,
            local_scale=local_scale,
            shares=self.SHARES,
        )
        count = prototype_count(self, prototypes, setting)
        head = Prototypes(backbone.features, hidden, bottleneck, count, dtype=setting.dtype, rngs=rngs)
        self.encoder = Encoder(backbone, head)
        self.target = Average(self.encoder, statistics=True)
        self.centre = Bank(jnp.zeros((count,)))
        self.student_temperature, self.momentum, self.centre_momentum = student_temperature, momentum, centre_momentum
        self.temperatures, self.warmup = (warmup_temperature, teacher_temperature), warmup
        self.frozen_share = frozen

    def views(self, key: PRNGKeyArray, batch):
        return self.crops.views(key, batch["image"])

    def shown_images(self, views):
        return views["global"]

    def loss(self, views, progress) -> Output:
        count = views["global"].shape[0] // 2
        teacher = self.target.module(self.encoder)
        wanted = by_image(jax.lax.stop_gradient(teacher(views["global"], train=True)[1]), count)
        features, logits = self.encoder(views["global"], train=True)
        scores = by_image(logits, count)
        if "local" in views:
            local = by_image(self.encoder(views["local"], train=True)[1], count)
            scores = jnp.concatenate([scores, local], axis=1)
        centre = self.centre.get_value()
        options = {
            "centre": centre,
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.teacher_temperature(progress),
        }
        loss, of_images = losses.dino(scores, wanted, **options), losses.dino_losses(scores, wanted, **options)
        mean = jnp.mean(wanted, axis=(0, 1))
        self.target.take_statistics(teacher)
        self.centre.set_value(self.centre_momentum * centre + (1 - self.centre_momentum) * mean)
        return Output(loss, {}, views["global"], features, image_losses=of_images)

    def projection(self) -> nnx.Module:
        return self.encoder.projector.mlp

    def prototypes(self) -> Float[Array, "d k"]:
        return self.encoder.projector.directions.get_value()

    def teacher_temperature(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Linear from the warm-up's start to its end, constant after it."""
        start, end = self.temperatures
        share = jnp.minimum(progress / self.warmup, 1.0) if self.warmup else jnp.ones(())
        return jnp.asarray(start + (end - start) * share, jnp.float32)

    def frozen(self, progress: Float[Array, ""]):
        return {"encoder.projector.directions": progress < self.frozen_share}

    def handed_over(self) -> nnx.Module:
        return self.target.module(self.encoder).backbone

    def after_update(self, progress: Float[Array, ""]) -> None:
        self.target.update(self.encoder, raise_momentum(self.momentum, progress))


def prototype_count(task: Task, asked: int, setting: Setting) -> int:
    """The number of prototypes by the rule in `DINO`; UserError if `asked` does not fit."""
    if not asked:
        return min(max(setting.images // IMAGES_PER_PROTOTYPE, FEWEST_PROTOTYPES), PUBLISHED_PROTOTYPES)
    if not 2 <= asked <= setting.images:
        raise UserError(
            f"{task.NAME}: {asked} prototypes for a split of {setting.images} images; "
            f"`prototypes` must lie between 2 and {setting.images}"
        )
    return asked
