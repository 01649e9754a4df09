"""What every piece of work of a run is done with."""

import dataclasses
from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import weights
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import PlannedStage, RandomWeights, Start
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts, keys
from aiseeme_jax.store.artifacts import Store


@dataclasses.dataclass(frozen=True)
class Context:
    """What every piece of work needs beside its own fields.

    Attributes:
      model: config of the network.
      patience: non-finite steps in a row that end a training.
      runtime: config of how and where the work is done.
      store: holds what is finished.
      datasets: of the run.
    """

    model: FrozenConfigDict
    patience: int
    runtime: FrozenConfigDict
    store: Store
    datasets: DataSets

    @classmethod
    def of(cls, config: ConfigDict, store: Store, datasets: DataSets) -> "Context":
        """The context of a run."""
        return cls(FrozenConfigDict(config.model), config.patience, FrozenConfigDict(config.runtime), store, datasets)

    def load_start(self, start: Start) -> nnx.Module:
        """The backbone that a stage or a measurement starts from."""
        if isinstance(start, RandomWeights):
            return weights.starting_backbone(self.model, weights.SCRATCH, start.seed)
        if isinstance(start, PlannedStage):
            return self.load_stage(start)
        if keys.hash_file(weights.find_backbone(Path(start.path))) != start.sha256:
            raise UserError(f"{start.path} has changed since this run began: start it again")
        return weights.starting_backbone(self.model, start.path, 0)

    def load_stage(self, stage: PlannedStage) -> nnx.Module:
        """The backbone that a finished stage left.

        Raises UserError if its file is not there, is damaged, or is not the one that its record tells of.
        """
        directory = self.store.directory(stage.artifact)
        if not (directory / weights.BACKBONE).exists():
            raise MissingFile(f"{directory} has lost its {weights.BACKBONE}; {artifacts.remedy(directory)}")
        backbone, info = weights.load_backbone(directory / weights.BACKBONE)
        if info["backbone_hash"] != self.hash_of(stage):
            raise UserError(f"{directory} holds another backbone than its record says; {artifacts.remedy(directory)}")
        return backbone

    def hash_of(self, stage: PlannedStage) -> str:
        """Hash of the backbone that a finished stage left."""
        return self.store.record(stage.artifact)["backbone_hash"]
