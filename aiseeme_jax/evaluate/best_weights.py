"""A task that carries a copy of its best weights so far, for training that is judged on validation images."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from aiseeme_jax.task import Bank, Task


class Best(NamedTuple):
    """The step with the best score on validation, and that score."""

    step: int
    score: float


class BestKeeper(Task):
    """Base of the tasks that are trained on labels or masks.

    The copy lies in checkpoints, so a run that was killed and goes on ends with the same weights.

    Class attributes:
      KEPT: the attributes whose parameters and running statistics are kept.
    """

    KEPT: ClassVar[tuple[str, ...]]

    def start_keeping(self) -> None:
        """Makes the place for the copy. Called once the networks are there."""
        self.best_score = Bank(jnp.float32(-jnp.inf))
        self.best_step = Bank(jnp.int32(0))
        # A variable per array: one that held a tree would not survive the split into plain arrays.
        self.best = nnx.List(Bank(value) for value in self._copy())

    def remember(self, score: float, step: int) -> None:
        """Keeps a copy of the present weights and running statistics if `score` is above all scores before.

        Args:
          step: steps done.
        """
        if np.float32(score) > float(self.best_score.get_value()):
            replace_value(self.best_score, np.float32(score))
            replace_value(self.best_step, np.int32(step))
            for kept, value in zip(self.best, self._copy(), strict=True):
                kept.set_value(value)

    def end_epoch(self) -> None:
        """Called after each epoch, once it is scored."""

    def recall(self) -> Best | None:
        """Puts the best weights back and says which they are; None, changing nothing, if there are none."""
        score = float(self.best_score.get_value())
        if not np.isfinite(score):
            return None
        for variable, kept in zip(self._variables(), self.best, strict=True):
            variable.set_value(jnp.copy(kept.get_value()))
        return Best(int(self.best_step.get_value()), score)

    def _variables(self) -> list[nnx.Variable]:
        """Parameters and running statistics of what is kept, in a fixed order."""
        state = nnx.state(tuple(getattr(self, name) for name in self.KEPT))
        return jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    def _copy(self) -> list[Array]:
        # A copy: the train step donates its buffers, and a buffer can be donated once.
        return [jnp.copy(variable.get_value()) for variable in self._variables()]


def replace_value(variable: nnx.Variable, value: np.ndarray | np.generic) -> None:
    """Places the value where the old one was: a state that lies elsewhere would make the train step compile again."""
    variable.set_value(jax.device_put(value, variable.get_value().sharding))
