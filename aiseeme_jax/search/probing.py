"""Measures what a search of a learning rate and a batch size may need to know before its first trial."""

import dataclasses
import logging
from typing import Any

from aiseeme_jax.curriculum.arms import count_images
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.stages import make_recipe, prepare_stage
from aiseeme_jax.curriculum.trials import PlannedProbe
from aiseeme_jax.curriculum.tuning import RATE
from aiseeme_jax.search import noise_scale, range_test
from aiseeme_jax.training import step
from aiseeme_jax.training.spending import Spending

log = logging.getLogger(__name__)


@step.transient_programs()
def probe(planned: PlannedProbe, context: Context) -> dict[str, Any]:
    """Makes the range test, and measures the gradient noise scale, as far as a search asks for them.

    Returns the record.
    """
    with Spending() as spent:
        return {**_measure(planned, context), **spent.figures()}


def _measure(planned: PlannedProbe, context: Context) -> dict[str, Any]:
    stage, search = planned.stage, planned.fields
    prepared, size = prepare_stage(stage, context), stage.fields.batch_size
    record: dict[str, Any] = {"images": 0}
    if search.range_test and RATE in search.auto:
        found = _test_range(planned, prepared, context)
        record["range_test"] = dataclasses.asdict(found)
        record["images"] += found.steps * count_images(stage.fields)
        log.info("%s: range test: %s", planned.title, found.sentence)
    if search.noise_scale:
        reason = noise_scale.find_obstacle(prepared.task, size)
        if reason:
            record["noise_scale"] = {"value": None, "sentence": reason}
        else:
            found = noise_scale.measure(prepared.task, prepared.batches, search.noise_batches, size, stage.seed)
            record["noise_scale"] = dataclasses.asdict(found)
            # Each image is used twice, in its batch and in its part.
            record["images"] += 2 * search.noise_batches * size
        log.info("%s: gradient noise scale: %s", planned.title, record["noise_scale"]["sentence"])
    return record


def _test_range(planned: PlannedProbe, prepared: Any, context: Context) -> range_test.Range:
    if prepared.task.AT_EPOCH != "never":
        sentence = "not made: the task needs the features of all images first."
        return range_test.Range(False, None, None, None, 0, sentence)
    return range_test.run_range_test(
        prepared.task,
        make_recipe(planned.stage, context),
        prepared.batches,
        spread=planned.fields.spread,
        steps=planned.fields.range_steps,
        frozen=prepared.frozen,
    )
