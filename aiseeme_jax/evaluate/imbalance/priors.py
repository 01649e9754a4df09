"""Methods that use the shares of the classes among the training images: logit adjustment and balanced softmax."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aiseeme_jax import losses
from aiseeme_jax.evaluate.imbalance.base import Counts, Loss, Method, Moment, Table, check_field

MODES = ("post_hoc", "loss")


@dataclasses.dataclass(frozen=True)
class LogitAdjustment(Method):
    """Logits are adjusted by tau log pi_c, with pi_c the share of the class among the training images.

    'post_hoc': the network is trained without correction, and then tau log pi_c is taken off its logits. They are taken
    off wherever the network is used: on validation, where the best epoch and the temperature are chosen, on test, and
    in the exported classifier, whose bias contains them. 'loss': tau log pi_c is added in the loss, and the network is
    used as it is. Both aim at the balanced error. Source: Menon et al., ICLR 2021 (arXiv 2007.07314), eqs. 9 and 10. A
    class without training images is treated as the largest one (ours), see `losses.log_priors`.

    Attributes:
      mode: 'post_hoc' or 'loss'.
      tau: at least 0, where it is no correction.
    """

    NAME: ClassVar[str] = "logit_adjustment"
    mode: str = "post_hoc"
    tau: float = 1.0

    def __post_init__(self):
        check_field(self, "mode", self.mode in MODES, f"one of {', '.join(MODES)}")
        check_field(self, "tau", 0 <= self.tau < float("inf"), "at least 0 and finite")

    def tabulate(self, counts: Counts) -> dict[str, np.ndarray]:
        log_priors = losses.log_priors(counts)
        return {"shift": -self.tau * log_priors} if self.mode == "post_hoc" else {"log_priors": log_priors}

    def logit_shift(self, table: Table) -> Float[np.ndarray, " c"] | None:
        return np.asarray(table["shift"]) if self.mode == "post_hoc" else None

    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        if self.mode == "post_hoc":
            return Loss(losses.cross_entropy(logits, labels))
        return Loss(losses.cross_entropy(logits + self.tau * jnp.float32(moment.table["log_priors"]), labels))


@dataclasses.dataclass(frozen=True)
class BalancedSoftmax(Method):
    """Cross-entropy of the logits plus log n_c, in training only.

    Source: Ren et al., NeurIPS 2020 (arXiv 2007.10740), eq. 3. log n_c and log pi_c differ by one number for all
    classes, which a softmax does not notice: this is `logit_adjustment` in the loss with tau 1.
    """

    NAME: ClassVar[str] = "balanced_softmax"

    def tabulate(self, counts: Counts) -> dict[str, np.ndarray]:
        return LogitAdjustment(mode="loss").tabulate(counts)

    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        return LogitAdjustment(mode="loss").loss(kind, logits, labels, counts, moment)
