"""The pieces of work of a search of a learning rate and a batch size.

A plan has the search alone. Which trials it has follows from their scores.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import FrozenConfigDict

from aiseeme_jax.store.artifacts import Artifact

if TYPE_CHECKING:
    from aiseeme_jax.curriculum.pieces import Piece, PlannedStage


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a stage may be trained with: a peak learning rate, and the images of a batch."""

    learning_rate: float
    batch_size: int


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedTuning:
    """A search of the learning rate and the batch size of a stage.

    Attributes:
      artifact: its folder and key.
      stage: the stage with the values around which it searches, `published`.
      fields: the node `tuning` of the stage's config.
      batches: the batch sizes that it may try.
      skipped: why others of `fields.batches` are left out, one sentence for each.
      judge: the part of a key for its proxy.
      set: the data set on whose images the proxy scores.
    """

    artifact: Artifact
    stage: "PlannedStage"
    fields: FrozenConfigDict
    batches: tuple[int, ...]
    skipped: tuple[str, ...]
    judge: Mapping[str, Any]
    set: str

    @property
    def published(self) -> Candidate:
        return Candidate(self.stage.fields.optimizer.learning_rate, self.stage.fields.batch_size)

    @property
    def inputs(self) -> dict[str, "Piece"]:
        """What its stage needs. Its trials are not here: each round follows from the scores of those before it."""
        return self.stage.inputs

    @property
    def title(self) -> str:
        return f"{self.stage.title}, learning rate and batch size"


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedTrial:
    """A candidate to be trained for a share of a stage's length, and scored.

    Attributes:
      artifact: its folder and key.
      stage: so trained; it is no piece of work of its own.
      share: of the length.
      proxy: config of the proxy.
      set: the data set on whose images it scores.
      memory_limit: GiB; 0 is what the device has.
      search: key of the search that it belongs to.
    """

    artifact: Artifact
    stage: "PlannedStage"
    share: float
    proxy: FrozenConfigDict
    set: str
    memory_limit: float
    search: str

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.stage.fields.optimizer.learning_rate, self.stage.fields.batch_size)

    @property
    def inputs(self) -> dict[str, "Piece"]:
        return self.stage.inputs

    @property
    def title(self) -> str:
        one = self.candidate
        return f"{self.stage.title}, {100 * self.share:.3g} %: rate {one.learning_rate:g}, batch {one.batch_size}"


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedProbe:
    """What is measured before the first trial of a search: a range test of learning rates, and the gradient noise.

    Attributes:
      artifact: its folder and key.
      stage: with the published values.
      fields: the node `tuning` of the stage's config.
      search: key of the search that it belongs to.
    """

    artifact: Artifact
    stage: "PlannedStage"
    fields: FrozenConfigDict
    search: str

    @property
    def inputs(self) -> dict[str, "Piece"]:
        return self.stage.inputs

    @property
    def title(self) -> str:
        return f"{self.stage.title}, before the search"
