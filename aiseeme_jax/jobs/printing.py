"""Prints the plan of a run: what exists, what would be made, and how long that takes if it is known."""

from collections.abc import Iterator

from aiseeme_jax.curriculum.pieces import Piece, Plan, PlannedFisher, PlannedMeasurement, PlannedScore, PlannedStage
from aiseeme_jax.curriculum.trials import PlannedTuning
from aiseeme_jax.curriculum.tuning import BATCH, RATE
from aiseeme_jax.jobs.forecast import Forecaster
from aiseeme_jax.jobs.outlook import read_speeds
from aiseeme_jax.search import hparams
from aiseeme_jax.search.tuning import list_trials
from aiseeme_jax.store import artifacts
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.store.claims import find_holder
from aiseeme_jax.training.display import duration


def describe_plan(plan: Plan, store: Store, forecaster: Forecaster | None = None) -> str:
    """A line for each piece of work, below its arm, and the sums.

    Args:
      forecaster: tells time, memory and disk of each stage that is to be trained.
    """
    lines: list[str] = []
    shown: set[str] = set()
    missing: list[Piece] = []
    for arm in plan.arms:
        lines.append(f"{arm.name}")
        for piece in arm.pieces():
            state = describe_state(piece, store)
            shared = piece.artifact.key in shown
            if state != "exists" and not shared:
                missing.append(piece)
            shown.add(piece.artifact.key)
            told = f"{'shared, see above' if shared else state}{_describe_length(piece, store)}"
            if forecaster is not None and isinstance(piece, PlannedStage) and state != "exists" and not shared:
                told = f"{told}; {forecaster.forecast(piece)}"
            lines.append(f"    {piece.artifact.name}: {told}")
    return "\n".join([*lines, *_sum_up(missing, plan, store, forecaster)])


def describe_sums(plan: Plan, store: Store) -> str:
    """The sums alone."""
    missing = [piece for piece in plan.pieces() if store.record(piece.artifact) is None]
    return "\n".join(_sum_up(missing, plan, store))


def describe_state(piece: Piece, store: Store) -> str:
    """'exists', 'begun', 'not begun', or which process is making it."""
    if store.record(piece.artifact) is not None:
        return "exists"
    directory = store.directory(piece.artifact)
    holder = find_holder(directory)
    if holder is not None:
        return f"{holder} is making it"
    return "begun" if (directory / artifacts.KEY).exists() else "not begun"


def _describe_length(piece: Piece, store: Store) -> str:
    if isinstance(piece, PlannedTuning):
        return f"; {describe_search(piece, store)}"
    if not isinstance(piece, PlannedStage):
        return ""
    shown = piece.images_shown
    about = "about " if piece.tuning and BATCH in piece.tuning.fields.auto else ""
    sets = " + ".join(name if len(piece.sets) == 1 else f"{share:g} {name}" for name, share in piece.sets)
    return f"; {about}{piece.total_steps:,} steps of {piece.fields.batch_size} images, {shown:,} in all, of {sets}"


def describe_search(tuning: PlannedTuning, store: Store) -> str:
    """What a search of a learning rate and a batch size tries, and how many of its trials exist."""
    search, published = tuning.fields, tuning.published
    tried = []
    if RATE in search.auto:
        low, high = published.learning_rate / search.spread, published.learning_rate * search.spread
        tried.append(f"learning rate {low:.3g} to {high:.3g} at batches of {published.batch_size}")
    if BATCH in search.auto:
        tried.append(f"batch size {', '.join(map(str, tuning.batches))}")
    brackets = hparams.list_brackets(search)
    lengths = " and ".join(
        ", ".join(f"{count} at {100 * share:.3g} %" for count, share in bracket) for bracket in brackets
    )
    ready = all(store.record(piece.artifact) for piece in tuning.inputs.values())
    trials = list_trials(tuning, store) if ready else []
    exist = sum(store.record(trial.artifact) is not None for trial in trials)
    text = f"{' and '.join(tried)}, by {search.sampler}: {lengths} of the stage; {exist} trials exist"
    return "; ".join([text, *tuning.skipped])


def _count_images(tuning: PlannedTuning) -> int:
    """Images that a search shows at most."""
    shares = [count * share for bracket in hparams.list_brackets(tuning.fields) for count, share in bracket]
    return round(sum(shares) * tuning.stage.images_shown)


def _sum_up(missing: list[Piece], plan: Plan, store: Store, forecaster: Forecaster | None = None) -> Iterator[str]:
    stages = [piece for piece in missing if isinstance(piece, PlannedStage)]
    fishers = [piece for piece in missing if isinstance(piece, PlannedFisher)]
    measurements = [piece for piece in missing if isinstance(piece, PlannedMeasurement)]
    scores = [piece for piece in missing if isinstance(piece, PlannedScore)]
    everything = len(plan.pieces())
    yield f"{everything} pieces of work, {everything - len(missing)} of which exist"
    if stages:
        steps = sum(stage.total_steps for stage in stages)
        images = sum(stage.images_shown for stage in stages)
        time = _estimate(stages, store, forecaster)
        yield f"to train: {len(stages)} stages, {steps:,} steps, {images:,} images{time}"
    searches = [piece for piece in missing if isinstance(piece, PlannedTuning)]
    if searches:
        images = sum(map(_count_images, searches))
        yield f"to search: settings of {len(searches)} stages, in trials that show {images:,} images at most"
    if fishers:
        yield f"to estimate: Fisher information of {len(fishers)} stages"
    if measurements:
        yield f"to measure: {len(measurements)}"
    if scores:
        yield f"to score: {len(scores)}"


def _estimate(stages: list[PlannedStage], store: Store, forecaster: Forecaster | None) -> str:
    """Estimates how long the stages take, from the speed of finished stages of the same task, model and sizes."""
    if forecaster is not None:
        return f"; about {duration(sum(forecaster.estimate_seconds(stage)[0] for stage in stages))}"
    speeds = read_speeds(store)
    known = [stage for stage in stages if stage.speed_of in speeds]
    if not known:
        return "; no speed was measured yet"
    seconds = sum(stage.limit_seconds(stage.images_shown / speeds[stage.speed_of]) for stage in known)
    rest = f", without {len(stages) - len(known)} stages of unknown speed" if len(known) < len(stages) else ""
    return f"; about {duration(seconds)} by the speed that was measured{rest}"
