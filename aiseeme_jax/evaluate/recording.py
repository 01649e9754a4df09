"""Measurements in a workdir: what is done, what is still to do, and the records and predictions that are left."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from aiseeme_jax import data, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import metrics, protocols, results
from aiseeme_jax.evaluate.protocols import SPLITS, Measurement, Runtime, Subject
from aiseeme_jax.store import checkpoints, records
from aiseeme_jax.training import events
from aiseeme_jax.weights.classifier import CLASSIFIER, save_classifier

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run(Measurement):
    """A measurement with the folder that it belongs in."""

    directory: Path


def runs(config: ConfigDict, workdir: Path, arm: str) -> Iterator[Run]:
    """Every run of an arm."""
    for target in config.targets:
        for fraction in target.fractions:
            for seed in protocols.seeds_for(target.protocol, fraction, target.seeds):
                directory = records.target_directory(workdir, arm, target.protocol, fraction, seed)
                yield Run(target, fraction, seed, directory)


def target_splits(config: ConfigDict) -> dict[str, data.Split]:
    """The labelled images of each split. ValueError if a split is not there or none of it is labelled."""
    return {s: data.labelled(data.open_split(config.data.name, s, config.runtime.data_dir)) for s in SPLITS}


def evaluate_arm(
    config: ConfigDict,
    workdir: Path,
    name: str,
    backbone: nnx.Module,
    last_stage: Path | None = None,
    *,
    random: bool = False,
) -> None:
    """Measures a backbone on all targets that are not done.

    Args:
      name: of the arm.
      last_stage: folder whose TensorBoard time line gets the metrics at its end; None: a time line of their own.
      random: nothing has trained the backbone; fine-tuning then begins with other weights for each seed.
    """
    for run in runs(config, workdir, name):
        _renew(run, config.statistics)
    measured = weights.backbone_hash(backbone)
    open_runs = [run for run in runs(config, workdir, name) if not _is_done(run, measured)]
    if not open_runs:
        return
    splits = target_splits(config)
    records.hold_to_data(workdir, {f"targets' {s} split": split.fingerprint() for s, split in splits.items()})
    make_random = lambda seed: weights.starting_backbone(config.model, "scratch", seed)  # noqa: E731
    subject = Subject(name, backbone, splits, make_random if random else None)
    steps = records.read_done(last_stage)["steps"] if last_stage else 0
    time_line = last_stage or records.targets_directory(workdir, name)
    for run in open_runs:
        record = {"backbone_hash": measured, **_measure(config, subject, run)}
        tag = f"{name}/{run.target.protocol}/{run.directory.name}"
        events.write_scalars(time_line, steps, {f"{tag}/{row['metric']}": row["value"] for row in record["metrics"]})
        # The record last: a run without it is done again.
        records.write_json(run.directory / records.DONE, record)
        checkpoints.drop_checkpoints(run.directory)
        checkpoints.barrier(f"measured {run.directory.name}")


def _is_done(run: Run, backbone_hash: str) -> bool:
    """Whether a run has left its record. UserError if it measured another backbone than the arm has now."""
    done = records.read_done(run.directory) or {}
    if done.get("backbone_hash", backbone_hash) != backbone_hash:
        raise UserError(f"{run.directory} measured another backbone; to measure this one, remove that folder")
    return bool(done)


def _renew(run: Run, statistics: ConfigDict) -> None:
    """Computes the metrics of a finished run anew from its predictions, if `statistics` changed since."""
    done = records.read_done(run.directory)
    if done and done.get("statistics") != statistics.to_dict():
        found = _summary(results.load_predictions(run.directory), statistics)
        records.write_json(run.directory / records.DONE, {**done, **found})


def _summary(predictions: results.Predictions, statistics: ConfigDict) -> dict[str, Any]:
    """The metrics, and what their intervals were estimated with."""
    found = metrics.summary(
        predictions.labels,
        predictions.probs,
        groups=predictions.groups,
        samples=statistics.samples,
        seed=statistics.seed,
        class_names=predictions.class_names,
    )
    return {"statistics": statistics.to_dict(), "metrics": found}


def _measure(config: ConfigDict, subject: Subject, run: Run) -> dict[str, Any]:
    """Measures once, leaves the predictions and the classifier, if there is one, and gives the record."""
    start = time.monotonic()
    outcome = protocols.measure(run, subject, run.directory, _runtime(config))
    predictions = outcome.predictions
    results.save_predictions(run.directory, predictions)
    kept = {}
    if outcome.classifier is not None:
        kept = {"classifier_hash": save_classifier(run.directory / CLASSIFIER, outcome.classifier)}
    found = _summary(predictions, config.statistics)
    metric = metrics.main_metric(predictions.labels)
    value = metric(predictions.labels, predictions.probs)
    log.info("%s: %s: %s %.3f", subject.name, run, metric.name.replace("_", " "), value)
    return {"arm": subject.name, "seconds": round(time.monotonic() - start, 1), **outcome.chosen, **kept, **found}


def _runtime(config: ConfigDict) -> Runtime:
    names = [field.name for field in dataclasses.fields(Runtime) if field.name != "patience"]
    return Runtime(**{name: config.runtime[name] for name in names}, patience=config.patience)


def write_results(config: ConfigDict, workdir: Path, arms: Sequence[str]) -> None:
    """results.csv from the records of all finished runs, arms in the order given."""
    rows = []
    for arm in arms:
        for run in runs(config, workdir, arm):
            done = records.read_done(run.directory) or {"metrics": []}
            key = (arm, run.target.protocol, run.fraction, run.seed)
            rows.extend(results.Row(*key, **found) for found in done["metrics"])
    results.write_rows(workdir, rows)
