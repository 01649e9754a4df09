"""A search of a learning rate and a batch size over a store: its trials so far, and what it found.

Everything is computed from the records of trials. So no second list of trials is kept, in a storage of Optuna for
instance, that could disagree with the store.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aiseeme_jax import seeds
from aiseeme_jax.curriculum.trials import Candidate, PlannedProbe, PlannedTrial, PlannedTuning
from aiseeme_jax.curriculum.tuning import BATCH, RATE, list_shares, plan_probe, plan_trial
from aiseeme_jax.evaluate.proxies import Score, error_of_difference
from aiseeme_jax.search import hparams
from aiseeme_jax.search.hparams import Run, Space
from aiseeme_jax.search.scoring import score_from_json
from aiseeme_jax.search.trial_work import DIVERGED, SCORED, TOO_LARGE
from aiseeme_jax.store import keys, records
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.store.listing import TRIALS_OF_A_SEARCH
from aiseeme_jax.training.energy import add_joules
from aiseeme_jax.training.loop import Diverged

Round = list[PlannedTrial] | list[PlannedProbe]
# What became of a trial that has a score, where the program asks for it.
CHOSEN, PRUNED = "chosen", "pruned"


def list_rounds(tuning: PlannedTuning, store: Store) -> Iterator[Round]:
    """The rounds of a search, each after those before it are finished.

    It ends after the last round, or after the first that is not finished.
    """
    probe = plan_probe(tuning)
    if probe is not None:
        yield [probe]
        if store.record(probe.artifact) is None:
            return
    proposals = hparams.propose(make_space(tuning, store), tuning.fields, seeds.derive(tuning.stage.seed, "search"))
    scores: Mapping[Run, float] | None = None
    while True:
        try:
            runs = next(proposals) if scores is None else proposals.send(scores)
        except StopIteration:
            return
        planned = {run: plan_trial(tuning, run.candidate, run.share) for run in runs}
        # What was drawn twice is one trial.
        yield list({trial.artifact.key: trial for trial in planned.values()}.values())
        if any(store.record(trial.artifact) is None for trial in planned.values()):
            return
        scores = {run: read_score(store, trial).value for run, trial in planned.items()}


def list_trials(tuning: PlannedTuning, store: Store) -> list[PlannedTrial]:
    """The trials so far, each once."""
    found: dict[str, PlannedTrial] = {}
    for planned in list_rounds(tuning, store):
        found |= {trial.artifact.key: trial for trial in planned if isinstance(trial, PlannedTrial)}
    return list(found.values())


def note_trials(tuning: PlannedTuning, store: Store) -> None:
    """Writes which trials the search has, into its folder, so that `store prune` leaves them alone."""
    found = [piece.artifact.key for planned in list_rounds(tuning, store) for piece in planned]
    records.write_json(store.begin(tuning.artifact) / TRIALS_OF_A_SEARCH, {"trials": list(dict.fromkeys(found))})


def make_space(tuning: PlannedTuning, store: Store) -> Space:
    """What the search may try: within the bounds of the range test, if there was one that found any."""
    spread = tuning.fields.spread if RATE in tuning.fields.auto else 1.0
    low, high = 1 / spread, spread
    probe = plan_probe(tuning)
    found = store.record(probe.artifact).get("range_test") if probe is not None else None
    if found and found["resolved"]:
        published = tuning.published.learning_rate
        bounded = max(low, found["low"] / published), min(high, found["high"] / published)
        # A range test that contradicts the published rate bounds nothing.
        low, high = bounded if bounded[0] < bounded[1] else (low, high)
    optimizer = tuning.stage.fields.optimizer.name
    return Space(tuning.published, tuning.batches, low, high, tuning.fields.scaling, optimizer)


def read_score(store: Store, trial: PlannedTrial) -> Score:
    """The score of a finished trial; NaN if it diverged or was too large."""
    return score_from_json(store.record(trial.artifact))


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial in the table of a search.

    Attributes:
      value: its score; None if there is none.
      error: standard error of the score over other images.
      state: 'chosen', 'not chosen' of others of the greatest length, 'trained further' and 'pruned' of shorter
        ones, 'diverged' or 'too large'.
      reason: why it has no score; '' if it has one.
    """

    learning_rate: float
    batch_size: int
    share: float
    value: float | None
    error: float | None
    state: str
    reason: str
    images: int
    seconds: float


def conclude(tuning: PlannedTuning, store: Store) -> dict[str, Any]:
    """What a search found, when all its trials are finished. Returns the record.

    Raises Diverged if no trial has a score.
    """
    trials = {Run(trial.candidate, trial.share): trial for trial in list_trials(tuning, store)}
    scores = {run: read_score(store, trial) for run, trial in trials.items()}
    best = hparams.find_best({run: score.value for run, score in scores.items()})
    if best is None:
        raise Diverged(
            f"{tuning.title}: every trial diverged or was too large; lower the learning rate of the stage, or "
            "tuning.batches"
        )
    found = {RATE: best.candidate.learning_rate, BATCH: best.candidate.batch_size}
    probe = plan_probe(tuning)
    measured = {} if probe is None else store.record(probe.artifact)
    finished = [store.record(trial.artifact) for trial in trials.values()]
    states = _name_states(best, trials, store)
    rows = [_make_row(run, states[run], scores[run], store.record(trial.artifact)) for run, trial in trials.items()]
    costs = [*finished, measured] if measured else finished
    return {
        **found,
        "tuning_hash": keys.make_key(found),
        "share": best.share,
        "score": describe_score(tuning.fields.proxy),
        "value": scores[best].value,
        "sentences": describe(tuning, best, scores, measured, rows),
        "trials": [dataclasses.asdict(row) for row in rows],
        "range_test": measured.get("range_test"),
        "noise_scale": measured.get("noise_scale"),
        "images": sum(record["images"] for record in costs),
        "device_seconds": round(sum(record["seconds"] * record["devices"] for record in costs), 1),
        "joules": add_joules([record.get("joules") for record in costs]),
    }


def _name_states(best: Run, trials: Mapping[Run, PlannedTrial], store: Store) -> dict[Run, str]:
    """What became of each trial, as in `Row.state`."""
    longest: dict[Candidate, float] = {}
    for run in trials:
        longest[run.candidate] = max(run.share, longest.get(run.candidate, 0.0))
    states = {}
    for run, trial in trials.items():
        state = store.record(trial.artifact)["state"]
        if state != SCORED:
            states[run] = state
        elif run == best:
            states[run] = CHOSEN
        elif run.share < longest[run.candidate]:
            states[run] = "trained further"
        else:
            states[run] = PRUNED if run.share < best.share else "not chosen"
    return states


def _make_row(run: Run, state: str, score: Score, record: Mapping[str, Any]) -> Row:
    scored = math.isfinite(score.value)
    error = error_of_difference(score, Score(0.0, np.zeros(len(score.draws)))) if scored else None
    candidate = run.candidate
    return Row(
        candidate.learning_rate,
        candidate.batch_size,
        run.share,
        score.value if scored else None,
        error,
        state,
        record.get("reason", ""),
        record["images"],
        record["seconds"],
    )


def describe_score(proxy: Any) -> str:
    """What trials are scored by, in words: 'knn, auroc on validation'."""
    return f"{proxy.proxy}, {proxy.metric} on validation" if "metric" in proxy else f"{proxy.proxy} on validation"


def describe(
    tuning: PlannedTuning, best: Run, scores: Mapping[Run, Score], measured: Mapping[str, Any], rows: Sequence[Row]
) -> list[str]:
    """What was found, and how sure it is, in plain sentences."""
    sentences = [
        f"{_name(best.candidate)}: {describe_score(tuning.fields.proxy)} {scores[best].value:.3f} after "
        f"{100 * best.share:.3g} % of the stage."
    ]
    others = [run for run in scores if run.share == best.share and run != best and math.isfinite(scores[run].value)]
    if others:
        second = max(others, key=lambda run: scores[run].value)
        gain, error = scores[best].value - scores[second].value, error_of_difference(scores[best], scores[second])
        sentences.append(
            f"The next best of this length, {_name(second.candidate).lower()}, is {gain:.3f} behind, with a standard "
            f"error of {error:.3f} over other validation images."
        )
    if best.share < max(list_shares(tuning.fields)):
        sentences.append("No longer trial has a score.")
    for name, text in (("range_test", "Range test"), ("noise_scale", "Gradient noise scale")):
        if measured.get(name):
            sentences.append(f"{text}: {measured[name]['sentence']}")
    for state, verb in ((PRUNED, "were pruned"), (DIVERGED, "diverged"), (TOO_LARGE, "were too large")):
        count = sum(row.state == state for row in rows)
        if count:
            sentences.append(f"{count} of {len(rows)} trials {verb}.")
    reasons = dict.fromkeys((*(row.reason for row in rows if row.state == TOO_LARGE), *tuning.skipped))
    return [*sentences, *(f"{reason[0].upper()}{reason[1:]}." for reason in reasons)]


def _name(candidate: Candidate) -> str:
    return f"Learning rate {candidate.learning_rate:g} with batches of {candidate.batch_size}"
