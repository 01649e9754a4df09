"""Fine-tuning of the normalisation layers alone, for a few steps, as a score of backbones.

Scales and biases of the norms are a small part of a network, yet enough to bring its random features to a task (Frankle
et al., arXiv 2003.00152). So a short training of them, with a head, says what fine-tuning could make of a backbone.
"""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune, imbalance
from aiseeme_jax.evaluate.labels import make_labels
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.training import checks, optimizers, step
from aiseeme_jax.training.state import Recipe, make_state, task_of

# `class_weight` of a proxy -> method of fine-tuning.
METHODS = {"balanced": "inverse_frequency", "none": "none"}


def train_norms(
    fields: FrozenConfigDict, backbone: nnx.Module, splits: Mapping[str, data.Split], batch: int
) -> Float[np.ndarray, "n c"]:
    """Probabilities of the validation images after a training on the training images.

    Args:
      fields: of the proxy `norms`.
      backbone: is not changed.
      splits: 'train' and 'validation', with a label for each image.
      batch: validation images at once.
    """
    split = splits["train"]
    labels = make_labels(split.labels, len(split.class_names))
    size = finetune.batch_size_for(fields.batch_size, len(split))
    batches = data.Batches(split, batch_size=size, seed=fields.seed)
    steps = optimizers.steps_of(fields.duration, steps_per_epoch=batches.steps_per_epoch, batch_size=size)
    task = FineTuning(
        nnx.clone(backbone),
        augment.views_of(fields.views),
        method=imbalance.make_method(imbalance.default_fields(METHODS[fields.class_weight])),
        counts=imbalance.count(labels),
        kind=labels.KIND,
        trained="norms",
        rngs=nnx.Rngs(seeds.derive(fields.seed, "heads")),
    )
    training = {name: fields[name] for name in ("duration", "optimizer", "schedule")}
    training |= {"batch_size": size, "task_weight": 1.0, "distill": {"kind": "none"}}
    recipe = Recipe(FrozenConfigDict(training), steps, batches.steps_per_epoch, fields.seed)
    program, state = make_state(task, recipe)
    key, stream = jax.random.key(seeds.derive(fields.seed, "steps")), batches(0)
    for _ in range(steps):
        state, _, _ = step.train_step(program, state, next(stream), key)
    trained = task_of(program, state)
    settings = {"kind": trained.kind, "views": trained.spec, "batch_size": batch}
    return finetune.predict(trained.network, splits["validation"], **settings)


def check_training(fields: ConfigDict) -> None:
    """Raises UserError for a length, batch size, optimizer or schedule that cannot be, whatever the images."""
    if fields.duration.steps is None:
        raise UserError("duration of the proxy 'norms' must be in steps: it trains for as long on every share")
    checks.check_training(fields, fields.batch_size)
