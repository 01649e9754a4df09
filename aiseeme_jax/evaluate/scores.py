"""The metrics of a measurement, computed from its predictions and kept beside them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.evaluate.masks import MaskScoring
from aiseeme_jax.evaluate.scoring import Scoring
from aiseeme_jax.store import artifacts, records

METRICS = "metrics.json"
# Raised when a metric or an interval is computed in another way.
VERSION = 2


def score_measurement(directory: Path, statistics: Mapping[str, int]) -> list[dict[str, Any]]:
    """All metrics of a finished measurement with their intervals: {metric, value, low, high}.

    They are computed from the stored predictions, once for each choice of `statistics` (samples and seed of the
    bootstrap).

    Raises MissingFile or UserError if the predictions are not there, or are not those that the record tells of.
    """
    wanted = {"version": VERSION, "statistics": dict(statistics), "predictions": check_predictions(directory)}
    path = directory / METRICS
    known = _read_cache(path)
    if {name: known.get(name) for name in wanted} != wanted:
        rows = make_scoring(results.load_predictions(directory), **statistics).summarise()
        known = {**wanted, "metrics": [{name: _nan_to_none(value) for name, value in row.items()} for row in rows]}
        records.write_json(path, known)
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in known["metrics"]]


def _read_cache(path: Path) -> dict[str, Any]:
    """What was computed before; nothing if it is not there or damaged, since it can be computed again."""
    try:
        return records.read_json(path, remedy="") if path.is_file() else {}
    except UserError:
        return {}


def check_predictions(directory: Path) -> str:
    """Hash of the test predictions of a finished measurement.

    They, and those of validation where they were kept, are compared with the hashes in the record.
    """
    record = artifacts.read_record(directory)
    if "validation_sha256" in record:
        _check_file(directory, results.VALIDATION, record["validation_sha256"])
    return _check_file(directory, results.PREDICTIONS, record["predictions_sha256"])


def load_validation(directory: Path) -> results.AnyPredictions | None:
    """The predictions for the validation images of a finished measurement; None if it was made before they were kept.

    Raises MissingFile or UserError if they are not there, or are not those that the record tells of.
    """
    wanted = artifacts.read_record(directory).get("validation_sha256")
    if wanted is None:
        return None
    _check_file(directory, results.VALIDATION, wanted)
    return results.load_predictions(directory, results.VALIDATION)


def _check_file(directory: Path, name: str, wanted: str) -> str:
    path = directory / name
    if not path.exists():
        raise MissingFile(f"{directory} has lost its {name}; {artifacts.explain_remedy(directory)}")
    if (found := results.hash_predictions(directory, name)) != wanted:
        raise UserError(f"{path} is damaged, or not the one of its record; {artifacts.explain_remedy(directory)}")
    return found


def make_scoring(predictions: results.AnyPredictions, *, samples: int, seed: int) -> Scoring:
    """The metrics of predictions, of whatever kind.

    Args:
      samples, seed: of the resamples, as of `bootstrap_ci`.
    """
    if isinstance(predictions, results.Overlaps):
        return MaskScoring(predictions, samples=samples, seed=seed)
    return metrics.Scores(
        predictions.labels,
        predictions.probs,
        groups=predictions.groups,
        samples=samples,
        seed=seed,
        class_names=list(map(str, predictions.class_names)),
    )


def _nan_to_none(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
