"""The fields of the system `fisher_vector`, with their defaults."""

import dataclasses

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.labels import check_class_weight

# How vectors are made: plain gradients | with a signed square root and length 1 | these, of c_l G_l.
PLAIN, IMPROVED, FOREGROUND = "fv", "ifv", "fgfv"
ENCODINGS = (PLAIN, IMPROVED, FOREGROUND)
# What makes the maps: the backbone of the arm as it is, or after it was fine-tuned on the same labels.
AS_IT_IS, FINETUNED = "as_it_is", "finetuned"
BACKBONES = (AS_IT_IS, FINETUNED)


@dataclasses.dataclass(frozen=True)
class FisherSettings:
    """Fields of a target. Where the paper is silent, the value is ours.

    Attributes:
      encoding: 'fv', 'ifv' or 'fgfv'.
      backbone: 'as_it_is', or 'finetuned': the classifier under `earlier` is made first, and its backbone encoded.
      endpoint: of the backbone, whose map gives the descriptors. Published: the last convolutional maps.
      dimensions: principal components of the descriptors, at most; ours.
      components: of the mixture; ours.
      descriptors: of all training images together, from which projection and mixture are fitted; ours.
      iterations: of expectation-maximisation; ours.
      floor: of the variances, as a share of that of each dimension; ours.
      strengths: C of the linear classifier, chosen on validation. Vectors are not standardised.
      class_weight: 'balanced' or 'none'.
      max_iter: of each fit.
      held_share: of the training images of each class, of whole patients, on which the foreground weights are learnt;
        ours.
      weight_steps, weight_rate: of Adam for the foreground weights; ours.
      sparsity: weight of the L1 norm of the foreground weights over their L2 norm; ours.
    """

    encoding: str = FOREGROUND
    backbone: str = AS_IT_IS
    endpoint: str = "stage4"
    dimensions: int = 64
    components: int = 32
    descriptors: int = 50_000
    iterations: int = 100
    floor: float = 1e-3
    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    class_weight: str = "balanced"
    max_iter: int = 1000
    held_share: float = 0.5
    weight_steps: int = 500
    weight_rate: float = 0.01
    sparsity: float = 0.1

    def __post_init__(self):
        _check_among("encoding", self.encoding, ENCODINGS)
        _check_among("backbone", self.backbone, BACKBONES)
        check_class_weight(self.class_weight)
        if not self.strengths or not all(strength > 0 for strength in self.strengths):
            raise UserError(f"system.strengths are {tuple(self.strengths)}; there must be some, each positive")
        for name in ("dimensions", "components", "descriptors", "iterations", "max_iter", "weight_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"system.{name} is {getattr(self, name)}; it must be at least 1")
        if self.descriptors < self.components:
            raise UserError(
                f"system.descriptors is {self.descriptors} and components {self.components}; a mixture needs at least "
                "as many descriptors as components"
            )
        if not 0 < self.held_share < 1:
            raise UserError(f"system.held_share is {self.held_share}; it must lie between 0 and 1")
        for name in ("floor", "weight_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"system.{name} is {getattr(self, name)}; it must be positive")
        if self.sparsity < 0:
            raise UserError(f"system.sparsity is {self.sparsity}; it must be at least 0")


def _check_among(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"system.{name} is '{value}'; known are {', '.join(known)}")
