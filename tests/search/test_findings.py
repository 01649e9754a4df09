"""What a search cost, as the records in its store tell."""

import types

from aiseeme_jax.search.findings import Cost, sum_cost
from aiseeme_jax.store.artifacts import SCORES, STAGES, Artifact, Store


def write(store, kind, name, record):
    """A finished piece of work."""
    artifact = Artifact(kind, name, {"of": name, "fields": {"batch_size": 8}})
    store.begin(artifact)
    store.finish(artifact, record)
    return types.SimpleNamespace(artifact=artifact)


def arm(stages, scores):
    return types.SimpleNamespace(stages=tuple(stages), scores=tuple(scores))


def test_scores_count_and_a_stage_that_ended_early_counts_the_steps_that_it_took(tmp_path):
    store = Store(tmp_path)
    first = write(store, STAGES, "a", {"task": "rotation", "steps": 3, "seconds": 2.0, "devices": 2, "joules": 70.0})
    second = write(store, STAGES, "ab", {"task": "npid", "steps": 5, "seconds": 1.0, "devices": 1, "joules": 20.0})
    score = write(store, SCORES, "a", {"seconds": 1.5, "devices": 2, "joules": 30.0})
    missing = types.SimpleNamespace(artifact=Artifact(SCORES, "ab", {"of": "ab"}))
    short, long = arm([first], [score]), arm([first, second], [missing])
    assert sum_cost([short, long], store) == Cost(2, (3 + 5) * 8, 2 * 2.0 + 1.0 + 2 * 1.5, 70.0 + 20.0 + 30.0)
    assert sum_cost([long], store, without=[short]) == Cost(1, 5 * 8, 1.0, 20.0)
    assert sum_cost([short], store, without=[short]) == Cost(0, 0, 0.0, None), "nothing was measured"
    # As an earlier version has written it.
    older = write(store, SCORES, "start", {"seconds": 1.5})
    assert sum_cost([short, arm([], [older])], store) == Cost(1, 3 * 8, 2 * 2.0 + 2 * 1.5 + 1.5, None)
