"""What a study measured: one entry for each variant, arm, target, share of the labels and seed, read from the store."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aiseeme_jax.curriculum.costs import Cost, cost_of_stage, mean_costs, sum_costs
from aiseeme_jax.curriculum.pieces import Plan, PlannedArm
from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.bootstrap import Draws
from aiseeme_jax.evaluate.scores import check_predictions, make_scoring
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.study.variants import Study, StudyRun


@dataclass(frozen=True)
class Scored:
    """Headline metrics of one measurement on everything that their intervals are made of.

    Attributes:
      draws: by the name of the metric; those that are undefined on the test images are left out.
      kind: of the predictions, as `Scoring.kind`.
      images: tells the test images, with their labels and groups, from others.
    """

    draws: Mapping[str, Draws]
    kind: str
    images: str


@dataclass(frozen=True)
class Measured:
    """One finished measurement.

    Attributes:
      seed: of the pretraining.
      label_seed: of the draw of the labels, and of fine-tuning.
      key: of the measurement. Equal keys are one measurement, as of a backbone that no pretraining seed changes.
      validation: what was chosen scored so much on validation images.
    """

    variant: str
    arm: str
    target: str
    fraction: float
    seed: int
    label_seed: int
    key: str
    scored: Scored
    validation: float


@dataclass
class Reader:
    """Reads measurements of a study. Each is scored once, when it is first read.

    Args:
      statistics: samples and seed of the bootstrap.
    """

    study: Study
    store: Store
    statistics: Mapping[str, int]
    _scored: dict[str, Scored] = field(default_factory=dict)

    def read(self, plans: Sequence[tuple[StudyRun, Plan]]) -> list[Measured]:
        """The finished measurements of some runs."""
        return [one for run, plan in plans for arm in plan.arms for one in self._read_arm(run, arm)]

    def _read_arm(self, run: StudyRun, arm: PlannedArm) -> list[Measured]:
        found = []
        positions = {results.name_target(t, run.config.data.name): i for i, t in enumerate(run.config.targets)}
        for planned in arm.measurements:
            record = self.store.record(planned.artifact)
            if record is None:
                continue
            found.append(
                Measured(
                    variant=run.variant.name,
                    arm=arm.name,
                    target=self.study.targets[positions[planned.name]],
                    fraction=planned.fraction,
                    seed=run.seed,
                    label_seed=planned.seed,
                    key=planned.artifact.key,
                    scored=self._score(planned.artifact.key, self.store.directory(planned.artifact)),
                    validation=record.get("validation_score", np.nan),
                )
            )
        return found

    def _score(self, key: str, directory: Path) -> Scored:
        if key not in self._scored:
            check_predictions(directory)
            self._scored[key] = score(results.load_predictions(directory), self.statistics)
        return self._scored[key]

    def sum_costs(self, plans: Sequence[tuple[StudyRun, Plan]]) -> dict[tuple[str, str], Cost]:
        """What the pretraining of each variant and arm costs, as a mean over the seeds. NaN where it is not known yet.

        Stages that other arms share count.
        """
        found: dict[tuple[str, str], list[Cost]] = {}
        for run, plan in plans:
            for arm in plan.arms:
                found.setdefault((run.variant.name, arm.name), []).append(self._sum_cost(arm))
        return {place: mean_costs(costs) for place, costs in found.items()}

    def _sum_cost(self, arm: PlannedArm) -> Cost:
        artifacts = (stage.artifact for stage in arm.stages)
        return sum_costs(cost_of_stage(self.store.record(artifact), artifact.content) for artifact in artifacts)


def score(predictions: results.AnyPredictions, statistics: Mapping[str, int]) -> Scored:
    """Scores predictions, in whatever order they were stored."""
    test = predictions.by_id()
    scoring = make_scoring(test, **statistics)
    draws = {name: scoring.of(name) for name in scoring.headline_names}
    digest = hashlib.sha256()
    for name in test.TABLES:
        table = np.asarray(getattr(test, name))
        # Findings that are not known are NaN, of which there are many bit patterns.
        table = np.nan_to_num(table, nan=-1.0) if table.dtype.kind == "f" else table
        digest.update(str(table.tolist()).encode())
    defined = {name: drawn for name, drawn in draws.items() if np.isfinite(drawn.value)}
    return Scored(defined, scoring.kind, digest.hexdigest())
