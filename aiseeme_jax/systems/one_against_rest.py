"""A network for each class, against all other classes; or for each finding, whatever the others are.

All networks learn from the same images. Of classes, the probability of a class is its network's, divided by the sum of
all: that is ours, so that the rows sum to 1. The record also has each network's own AUROC, which is what papers give.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from aiseeme_jax import data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.labels import ClassLabels, make_labels
from aiseeme_jax.evaluate.measurement import SPLITS, Measured, Measurement, Subject
from aiseeme_jax.evaluate.metrics import auroc

WAYS = SOFTMAX, ONE_AGAINST_REST = "softmax", "one_against_rest"
REST = "rest"
# Parts of the record of a training that are summed over the networks.
SUMMED = ("steps", "seconds", "joules", "skipped_steps")


@dataclasses.dataclass
class OneClass(Subject):
    """A subject whose labels are one class against the rest, or one finding.

    Attributes:
      rows: of the training split, those that are learnt from.
    """

    rows: Int[np.ndarray, "k"] | None = None

    def training_rows(self, measurement: Measurement) -> Int[np.ndarray, "k"]:
        return self.rows


def check_way(way: str) -> None:
    """Raises UserError for another way than those of `WAYS`."""
    if way not in WAYS:
        raise UserError(f"system.classes is '{way}'; known are {', '.join(WAYS)}")


def check_classes(splits: Mapping[str, data.Split]) -> None:
    """Raises UserError if a class or finding that has a network of its own is all or none of some images."""
    for name in ("train", "validation"):
        split = splits[name]
        for place, label in enumerate(split.class_names):
            known = one_class(split, place).labels.ravel()
            if len(np.unique(known[~np.isnan(known)])) < 2:
                raise UserError(
                    f"system.classes is '{ONE_AGAINST_REST}', but the images of {split.name} are all alike in "
                    f"'{label}': take '{SOFTMAX}'"
                )


def one_class(split: data.Split, place: int) -> data.Split:
    """The split with one class against the rest, or with one finding, as its labels."""
    name = split.class_names[place]
    if split.kind == ClassLabels.KIND:
        labels = (split.labels == place).astype(np.int32)
        return dataclasses.replace(split, labels=labels, class_names=(REST, name))
    return dataclasses.replace(split, labels=split.labels[:, [place]], class_names=(name,))


def measure_each_class(
    measure_one: Callable[[Subject, Path], Measured], measurement: Measurement, subject: Subject, directory: Path
) -> Measured:
    """Measures a network for each class, one after another, each in a folder of its own.

    Args:
      measure_one: trains and measures one network. It leaves its checkpoints in the folder, and goes on from them.
    """
    rows = subject.training_rows(measurement)
    names = subject.splits["train"].class_names
    each = []
    for place, name in enumerate(names):
        splits = {split: one_class(subject.splits[split], place) for split in SPLITS}
        alone = OneClass(f"{subject.name}, {name}", subject.backbone, splits, rows=rows)
        each.append(measure_one(alone, directory / f"class{place}"))
    kind = make_labels(subject.splits["test"].labels, len(names)).KIND
    scores = {
        "test": np.stack([one.found[:, -1] for one in each], axis=1),
        "validation": np.stack([one.validation[:, -1] for one in each], axis=1),
    }
    aurocs = {split: _measure_each(subject.splits[split], scores[split]) for split in scores}
    made = {split: _to_probabilities(found, kind) for split, found in scores.items()}
    return Measured(made["test"], made["validation"], _join_records(names, each, aurocs))


def _to_probabilities(scores: Float[np.ndarray, "n k"], kind: str) -> Float[np.ndarray, "n k"]:
    if kind != ClassLabels.KIND:
        return scores
    return scores / np.maximum(scores.sum(axis=1, keepdims=True), np.finfo(scores.dtype).tiny)


def _measure_each(split: data.Split, scores: Float[np.ndarray, "n k"]) -> list[float | None]:
    """AUROC of the score of each class or finding by itself; None where the images are all alike in it."""
    found: list[float | None] = []
    for place in range(scores.shape[1]):
        labels = one_class(split, place).labels.reshape(len(split))
        known = ~np.isnan(labels)
        both = np.stack([1 - scores[known, place], scores[known, place]], axis=1)
        alike = len(np.unique(labels[known])) < 2
        found.append(None if alike else float(auroc(labels[known].astype(np.int32), both)))
    return found


def _join_records(names: tuple[str, ...], each: list[Measured], aurocs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """One record of all networks: sums of what they cost, and by class what was chosen for each."""
    records = [one.chosen for one in each]
    sums = {name: [record[name] for record in records if name in record] for name in SUMMED}
    whole = {name: None if None in values else sum(values) for name, values in sums.items() if values}
    apart = ("best_step", "validation_score", "final_loss", "attention_scales")
    by_class = {}
    for place, (name, record) in enumerate(zip(names, records, strict=True)):
        own = {field: record[field] for field in apart if field in record}
        by_class[str(name)] = {**own, **{f"{split}_auroc": found[place] for split, found in aurocs.items()}}
    return {"images": records[0]["images"], "classes": by_class, **whole}
