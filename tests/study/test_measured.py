"""What the arms of a study cost."""

import types

from aiseeme_jax.curriculum.costs import Cost
from aiseeme_jax.store.artifacts import STAGES, Artifact, Store
from aiseeme_jax.study.measured import Reader


def test_a_stage_that_ended_early_counts_the_steps_that_it_took(tmp_path):
    store, plans = Store(tmp_path), []
    for seed, steps in enumerate((3, 5)):
        artifact = Artifact(STAGES, "rotation", {"seed": seed, "fields": {"batch_size": 8}})
        store.begin(artifact)
        store.finish(artifact, {"task": "rotation", "steps": steps, "seconds": 2.0, "devices": 1, "joules": 9.0})
        stage = types.SimpleNamespace(artifact=artifact, images_shown=800)
        run = types.SimpleNamespace(variant=types.SimpleNamespace(name="all"))
        plans.append((run, types.SimpleNamespace(arms=[types.SimpleNamespace(name="curriculum", stages=(stage,))])))
    assert Reader(None, store, {}).sum_costs(plans) == {("all", "curriculum"): Cost(4 * 8, 2.0, 9.0)}
