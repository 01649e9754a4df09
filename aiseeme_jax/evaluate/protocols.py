"""Runs the targets of a config: each protocol, label fraction and seed, each in its own folder with its predictions.

Everything is chosen on the validation split and reported on the test split. The predictions are stored, so
any metric can be computed later without a model.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data, seeds, weights
from aiseeme_jax.evaluate import features, finetune, metrics, results
from aiseeme_jax.evaluate.fractions import in_words, nested_fraction, seeds_for
from aiseeme_jax.evaluate.knn import knn_probe
from aiseeme_jax.evaluate.linear import linear_probe
from aiseeme_jax.store import checkpoints, records
from aiseeme_jax.training import events, loop, optimizers

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass
class Arm:
    """A backbone under measurement, and what has been computed of it.

    Features are extracted once for all protocols that want the same views. `random` says that nothing has trained it.
    """

    config: ConfigDict
    name: str
    backbone: nnx.Module
    splits: dict[str, data.Split]
    random: bool = False
    known: dict[augment.AnyViews, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def features(self, views: augment.AnyViews) -> dict[str, Any]:
        """The pooled features of each split, [N, D]."""
        if views not in self.known:
            batch = self.config.runtime.evaluation_batch
            self.known[views] = {
                name: features.extract(self.backbone, split, views=views, batch_size=batch)
                for name, split in self.splits.items()
            }
        return self.known[views]


@dataclasses.dataclass(frozen=True)
class Run:
    """One protocol on one share of the labels, with one seed."""

    target: ConfigDict
    fraction: float
    seed: int
    directory: Path


def runs(config: ConfigDict, workdir: Path, arm: str) -> Iterator[Run]:
    """Every run of an arm."""
    for target in config.targets:
        for fraction in target.fractions:
            for seed in seeds_for(target.protocol, fraction, target.seeds):
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
    arm = Arm(config, name, backbone, target_splits(config), random)
    records.hold_to_data(workdir, {f"targets' {s} split": split.fingerprint() for s, split in arm.splits.items()})
    steps = records.read_done(last_stage)["steps"] if last_stage else 0
    time_line = last_stage or records.targets_directory(workdir, name)
    for run in open_runs:
        record = {"backbone_hash": measured, **_evaluate(arm, run)}
        tag = f"{name}/{run.target.protocol}/{run.directory.name}"
        events.write_scalars(time_line, steps, {f"{tag}/{row['metric']}": row["value"] for row in record["metrics"]})
        # The record last: a run without it is done again.
        records.write_json(run.directory / records.DONE, record)
        checkpoints.drop_checkpoints(run.directory)
        checkpoints.barrier(f"measured {run.directory.name}")


def _is_done(run: Run, backbone_hash: str) -> bool:
    """Whether a run has left its record. ValueError if it measured another backbone than the arm has now."""
    done = records.read_done(run.directory) or {}
    if done.get("backbone_hash", backbone_hash) != backbone_hash:
        raise ValueError(f"{run.directory} measured another backbone; to measure this one, remove that folder")
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


def _evaluate(arm: Arm, run: Run) -> dict[str, Any]:
    """Runs a protocol, leaves its predictions, and gives its record."""
    start = time.monotonic()
    test = arm.splits["test"]
    probs, chosen = PROTOCOLS[run.target.protocol](arm, run)
    predictions = results.Predictions(test.labels, probs, test.ids, test.groups, test.class_names)
    results.save_predictions(run.directory, predictions)
    found = _summary(predictions, arm.config.statistics)
    title = f"{arm.name}: {run.target.protocol} on {in_words(run.fraction)}, seed {run.seed}"
    log.info("%s: balanced accuracy %.3f", title, metrics.balanced_accuracy(test.labels, probs))
    return {"arm": arm.name, "seconds": round(time.monotonic() - start, 1), **chosen, **found}


def _chosen_rows(arm: Arm, run: Run):
    train_split = arm.splits["train"]
    return nested_fraction(train_split.labels, train_split.groups, run.fraction, run.seed)


def _frozen(arm: Arm, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Features and labels of the splits, training rows cut to the run's share."""
    rows = _chosen_rows(arm, run)
    found = arm.features(augment.views_of(FrozenConfigDict(run.target.views)))
    labels = {name: split.labels for name, split in arm.splits.items()}
    return {**found, "train": found["train"][rows]}, {**labels, "train": labels["train"][rows]}


def _knn(arm: Arm, run: Run):
    vectors, labels = _frozen(arm, run)
    target, classes = run.target, len(arm.splits["test"].class_names)
    probe = knn_probe(
        vectors,
        labels,
        ks=target.neighbours,
        temperature=target.temperature,
        class_weight=target.class_weight,
        classes=classes,
    )
    return probe.probs["test"], {"neighbours": probe.k, "validation_score": probe.validation_score}


def _linear(arm: Arm, run: Run):
    vectors, labels = _frozen(arm, run)
    target, classes = run.target, len(arm.splits["test"].class_names)
    probe = linear_probe(
        vectors,
        labels,
        strengths=target.strengths,
        class_weight=target.class_weight,
        max_iter=target.max_iter,
        classes=classes,
    )
    chosen = {
        "strength": probe.strength,
        "validation_score": probe.validation_score,
        "converged": probe.converged,
        "unconverged_candidates": probe.unconverged,
    }
    return probe.probs["test"], chosen


def finetune_batch(asked: int, images: int) -> int:
    """The batch size, or the largest the devices can share where a small share of the labels holds fewer images.

    Raises ValueError where there are fewer images than devices.
    """
    devices = jax.device_count()
    if images < devices:
        raise ValueError(f"a fraction of {images} labelled images is too few for {devices} devices; raise `fractions`")
    return min(asked, images // devices * devices)


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Steps of fine-tuning: of all, of its warm-up, and from one look at validation to the next."""

    total: int
    warmup: int
    epoch: int


def finetune_lengths(target: ConfigDict, images: int) -> Lengths:
    """The lengths of fine-tuning on all `images` labelled images, which hold for every share of them.

    A share is seen more often instead. Were it trained for as many epochs it would take as many fewer steps, and what a
    start is worth on few labels could not be told from what it is worth in few steps.
    """
    batch_size = finetune_batch(target.batch_size, images)
    per_epoch = data.steps_per_epoch(images, batch_size)
    steps = functools.partial(optimizers.steps_of, steps_per_epoch=per_epoch, batch_size=batch_size)
    return Lengths(steps(target.duration), steps(target.schedule.warmup), per_epoch)


def _finetune_stage(target: ConfigDict, lengths: Lengths, images: int) -> FrozenConfigDict:
    """The part of a program that says how to fine-tune on a share of so many images."""
    stage = {**target.to_dict(), "batch_size": finetune_batch(target.batch_size, images)}
    stage["schedule"]["warmup"] = {"epochs": None, "steps": lengths.warmup, "examples": None}
    return FrozenConfigDict({**stage, "task_weight": 1.0, "distill": {"kind": "none"}})


def _finetune(arm: Arm, run: Run):
    config, target = arm.config, run.target
    split = arm.splits["train"].subset(_chosen_rows(arm, run))
    lengths = finetune_lengths(target, len(arm.splits["train"]))
    stage = _finetune_stage(target, lengths, len(split))
    classes = len(split.class_names)
    class_weights = finetune.class_weights(split.labels, classes, target.class_weight)
    views = augment.views_of(stage.views)
    # Without pretraining, another seed is another start as well.
    start = weights.starting_backbone(config.model, "scratch", run.seed) if arm.random else arm.backbone
    rngs = nnx.Rngs(seeds.derive(run.seed, "heads"))
    classifier = finetune.Classifier(nnx.clone(start), views, class_weights=class_weights, rngs=rngs)

    def remember_best(classifier: finetune.Classifier, step: int) -> None:
        validation = arm.splits["validation"]
        probs = finetune.predict(classifier, validation, views=views, batch_size=config.runtime.evaluation_batch)
        classifier.remember(metrics.balanced_accuracy(validation.labels, probs), step)

    result = loop.fit(
        classifier,
        data.Batches(
            split,
            batch_size=stage.batch_size,
            seed=run.seed,
            residence=config.runtime.residence,
            workers=config.runtime.workers,
        ),
        loop.Recipe(stage, lengths.total, lengths.epoch, run.seed, config.patience),
        loop.Folder(
            run.directory,
            f"{arm.name}: finetune on {in_words(run.fraction)}, seed {run.seed}",
            config.runtime.log_every,
            config.runtime.checkpoint_every,
            {"data": split.fingerprint()},
        ),
        callbacks=loop.Callbacks(after_epoch=remember_best),
    )
    best = result.task.recall()
    chosen = {"best_step": best.step, "validation_score": best.score} if best else {"validation_score": None}
    probs = finetune.predict(result.task, arm.splits["test"], views=views, batch_size=config.runtime.evaluation_batch)
    return probs, {**chosen, "images": len(split), **result.record}


PROTOCOLS = {"knn": _knn, "linear": _linear, "finetune": _finetune}


def write_results(config: ConfigDict, workdir: Path, arms: Sequence[str]) -> None:
    """results.csv from the records of all finished runs, arms in the order given."""
    rows = []
    for arm in arms:
        for run in runs(config, workdir, arm):
            done = records.read_done(run.directory) or {"metrics": []}
            key = (arm, run.target.protocol, run.fraction, run.seed)
            rows.extend(results.Row(*key, **found) for found in done["metrics"])
    results.write_rows(workdir, rows)
