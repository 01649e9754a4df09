"""The context of a run: what every piece of work needs beside its own fields."""

import dataclasses
from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import data, weights
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import PlannedStage, RandomWeights, Start
from aiseeme_jax.curriculum.trials import Candidate
from aiseeme_jax.curriculum.tuning import set_candidate
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import keys
from aiseeme_jax.store.artifacts import Store


@dataclasses.dataclass(frozen=True)
class Context:
    """What every piece of work needs beside its own fields.

    Attributes:
      model: config of the network.
      patience: a training ends after so many non-finite steps in a row.
      runtime: fields that say how and where the work is done.
      store: contains the finished pieces.
      datasets: of the run.
    """

    model: FrozenConfigDict
    patience: int
    runtime: FrozenConfigDict
    store: Store
    datasets: DataSets

    @classmethod
    def of(cls, config: ConfigDict, store: Store, datasets: DataSets) -> "Context":
        """Makes the context of a run from its config."""
        return cls(FrozenConfigDict(config.model), config.patience, FrozenConfigDict(config.runtime), store, datasets)

    @property
    def loading(self) -> data.Loading:
        """How images are read for training."""
        return data.Loading(self.runtime.residence, self.runtime.workers)

    def load_start(self, start: Start) -> nnx.Module:
        """Loads the backbone that a stage or a measurement starts from."""
        if isinstance(start, RandomWeights):
            return weights.starting_backbone(self.model, weights.SCRATCH, start.seed)
        if isinstance(start, PlannedStage):
            return self.load_stage(start)
        if keys.hash_file(weights.find_backbone(Path(start.path))) != start.sha256:
            raise UserError(f"{start.path} has changed since this run was started: start the run again")
        return weights.starting_backbone(self.model, start.path, 0)

    def load_stage(self, stage: PlannedStage) -> nnx.Module:
        """Loads the backbone of a finished stage.

        Raises UserError if its file is missing or damaged, or if it is not the backbone of the stage's record.
        """
        return weights.load_backbone(self.store.directory(stage.artifact))[0]

    def settle(self, stage: PlannedStage) -> PlannedStage:
        """The stage with the learning rate and the batch size that its search has found, if there was one."""
        if stage.tuning is None:
            return stage
        found = self.store.record(stage.tuning.artifact)
        return set_candidate(stage, Candidate(found["learning_rate"], found["batch_size"]))

    def read_hash(self, stage: PlannedStage) -> str:
        """Hash of the backbone of a finished stage."""
        return self.store.record(stage.artifact)["backbone_hash"]
