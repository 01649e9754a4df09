"""What can be judged of a training before its first step."""

from ml_collections import ConfigDict

from aiseeme_jax import data
from aiseeme_jax.errors import UserError
from aiseeme_jax.training import optimizers


def check_training(training: ConfigDict, images: int, *, hold: int = 0) -> None:
    """Judges batch size, length, optimizer and schedule of a pretext stage or of fine-tuning.

    Args:
      training: as `configs.base.training` makes it.
      images: in the split that is trained on.
      hold: steps at the peak rate before the schedule begins.

    Raises UserError, or ValueError of the optimizer or schedule; the message names the field.
    """
    if training.batch_size < 1:
        raise UserError(f"batch_size is {training.batch_size}; it must be at least 1")
    per_epoch = data.steps_per_epoch(images, training.batch_size)
    steps = optimizers.steps_of(training.duration, steps_per_epoch=per_epoch, batch_size=training.batch_size)
    if steps < 1:
        raise UserError("duration is 0; a stage lasts at least one step")
    peak = training.optimizer.learning_rate
    schedule = optimizers.make_schedule(training.schedule, peak, steps, per_epoch, training.batch_size, hold=hold)
    optimizers.make_optimizer(training.optimizer, schedule)
