"""Trains and scores a trial of a search of a learning rate and a batch size."""

import logging
import math
from pathlib import Path
from typing import Any

import jax

from aiseeme_jax import weights
from aiseeme_jax.curriculum.arms import count_images
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.stages import make_recipe, prepare_stage, train_stage
from aiseeme_jax.curriculum.trials import PlannedTrial
from aiseeme_jax.search.scoring import Scorer, score_to_json
from aiseeme_jax.store import checkpoints
from aiseeme_jax.training import barrier, step
from aiseeme_jax.training.loop import Diverged
from aiseeme_jax.training.memory import find_memory_limit, measure_step
from aiseeme_jax.training.spending import Spending
from aiseeme_jax.training.state import make_state

log = logging.getLogger(__name__)

# States of a finished trial.
SCORED, DIVERGED, TOO_LARGE = "scored", "diverged", "too large"
GIB = 2**30


class TrialWork:
    """Does trials. It keeps the images that a proxy scores by, and what a step of each batch size needs."""

    def __init__(self, context: Context):
        self.context, self.scorer = context, Scorer(context)
        # By search and batch size.
        self.needed: dict[tuple[str, int], int | None] = {}

    def do(self, trial: PlannedTrial, directory: Path) -> dict[str, Any]:
        """Trains a trial and scores its backbone. Returns the record.

        A trial that diverges, or whose step needs more memory than there is, has no score, and is no error.
        """
        with Spending() as spent:
            return self._do(trial, directory, spent)

    def _do(self, trial: PlannedTrial, directory: Path, spent: Spending) -> dict[str, Any]:
        fault = self.find_excess(trial)
        if fault:
            log.warning("%s: left out: %s", trial.title, fault)
            return _without_score(TOO_LARGE, fault, images=0, spent=spent)
        log.info("%s", trial.title)
        try:
            trained = train_stage(trial.stage, self.context, directory)
        except Diverged as error:
            log.warning("%s: diverged, and counts as the worst", trial.title)
            checkpoints.drop_checkpoints(directory)
            # How far it came is not known any more; it is at most this.
            return _without_score(DIVERGED, str(error), images=trial.stage.images_shown, spent=spent)
        barrier.wait_for_all(f"trained {trial.artifact.name}")
        score = self.scorer.score_backbone(trial.proxy, trial.set, weights.load_backbone(directory)[0])
        barrier.wait_for_all(f"scored {trial.artifact.name}")
        drop_weights(directory)
        log.info("%s: %s %.4f", trial.title, trial.proxy.proxy, score.value)
        return {
            "state": SCORED if math.isfinite(score.value) else DIVERGED,
            **score_to_json(score),
            "images": trained["steps"] * count_images(trial.stage.fields),
            "steps": trained["steps"],
            "final_loss": trained["final_loss"],
            **spent.figures(trained),
            "score_of": trained["backbone_hash"],
        }

    def find_excess(self, trial: PlannedTrial) -> str:
        """Why a step of a trial does not fit into memory, as the compiler sees it before it runs; '' if it fits."""
        limit = trial.memory_limit * GIB or find_memory_limit()
        if limit is None:
            return ""
        alike = trial.search, trial.candidate.batch_size
        if alike not in self.needed:
            self.needed[alike] = self.measure(trial)
        needed = self.needed[alike]
        if needed is None or needed <= limit:
            return ""
        return (
            f"a step on batches of {trial.candidate.batch_size} needs {needed / GIB:.2f} GiB, and there are "
            f"{limit / GIB:.2f}"
        )

    @step.transient_programs()
    def measure(self, trial: PlannedTrial) -> int | None:
        """Bytes that a step of a trial needs on each device; None if the compiler does not say."""
        prepared = prepare_stage(trial.stage, self.context)
        program, state = make_state(prepared.task, make_recipe(trial.stage, self.context), prepared.frozen)
        return measure_step(program, state, next(prepared.batches(0)))


def drop_weights(directory: Path) -> None:
    """Deletes what only a stage needs: its checkpoints, its backbone and its picture."""
    checkpoints.drop_checkpoints(directory)
    if jax.process_index() == 0:
        for name in (weights.BACKBONE, weights.BEST, "views.png"):
            (directory / name).unlink(missing_ok=True)


def _without_score(state: str, reason: str, *, images: int, spent: Spending) -> dict[str, Any]:
    found = {"state": state, "value": None, "draws": [], "reason": reason, "images": images}
    return {**found, **spent.figures()}
