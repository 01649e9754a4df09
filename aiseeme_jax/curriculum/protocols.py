"""The table of protocols, and what can be asked of it: judge a target, measure a backbone.

A protocol is a file with a `Protocol` in it and one line: here, or of a supervised system in `systems.SYSTEMS`.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from aiseeme_jax import data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.finetune import FINETUNE
from aiseeme_jax.evaluate.knn import KNN
from aiseeme_jax.evaluate.labels import ClassLabels, make_labels
from aiseeme_jax.evaluate.linear import LINEAR
from aiseeme_jax.evaluate.measurement import SPLITS, Measured, Measurement, Outcome, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.segment import SEGMENT
from aiseeme_jax.evaluate.svm import SVM
from aiseeme_jax.systems import SYSTEMS

log = logging.getLogger(__name__)

__all__ = [
    "PROTOCOLS",
    "SPLITS",
    "Measured",
    "Measurement",
    "Outcome",
    "Protocol",
    "Runtime",
    "Subject",
    "check_labels",
    "check_target",
    "find_protocol",
    "is_random",
    "measure",
    "seeds_for",
    "warn_of_one_group",
]

MEASURES = (KNN, LINEAR, SVM, FINETUNE, SEGMENT)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({one.name: one for one in (*MEASURES, *SYSTEMS)})

# What the label of a system may be: the other signs part a name in results.
LABEL = re.compile(r"[\w.=()-]*")
# What follows if the labelled images of a split lack a class or finding.
LACKING = {
    "train": "it cannot be learnt",
    "validation": "it does not count in what is chosen",
    "test": "it is not measured",
}


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Outcome:
    """Measures a backbone by one protocol.

    Args:
      directory: for checkpoints and logs of fine-tuning, which goes on from a checkpoint that is there.
    """
    measured = PROTOCOLS[measurement.target.protocol].measure(measurement, subject, directory, runtime)
    predictions = _join_truth(subject.splits["test"], measured.found)
    validation = _join_truth(subject.splits["validation"], measured.validation)
    return Outcome(predictions, validation, measured.chosen, measured.classifier, measured.network)


def _join_truth(split: data.Split, found: Float[np.ndarray, "n c"] | results.Overlaps) -> results.AnyPredictions:
    if isinstance(found, results.Overlaps):
        return found
    return results.Predictions(split.labels, found, split.ids, split.groups, split.class_names)


def seeds_for(target: ConfigDict, fraction: float) -> Sequence[int]:
    """The seeds a target is measured with: on all labels the first alone, if nothing in it is random."""
    return target.seeds if is_random(target, fraction) else target.seeds[:1]


def is_random(target: ConfigDict, fraction: float) -> bool:
    """Whether a result depends on the seed: if labels are drawn, or the protocol is random."""
    return fraction < 1 or target.shots > 0 or PROTOCOLS[target.protocol].is_random


def find_protocol(name: str) -> Protocol:
    """The protocol of a name. Raises UserError that names the known ones."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol '{name}': known are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def check_target(target: ConfigDict, train: data.Split) -> None:
    """Judges the fields of a target, except for its views, against the labelled training images.

    Raises UserError that names the field.
    """
    shares, seeds = tuple(target.fractions), tuple(target.seeds)
    if not shares or len(set(shares)) < len(shares) or not all(0 < share <= 1 for share in shares):
        raise UserError(f"fractions are {shares}; there must be some, each once and in (0, 1]")
    whole = bool(seeds) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if len(set(seeds)) < len(seeds) or not whole:
        raise UserError(f"seeds are {seeds}; there must be some, each once, whole and not negative")
    if not isinstance(target.shots, int) or target.shots < 0:
        raise UserError(f"shots is {target.shots}; it must be a whole number of labels of each class, or 0 for all")
    protocol = find_protocol(target.protocol)
    if target.shots and protocol.needs != data.LABELS:
        raise UserError(
            f"shots is {target.shots}; it counts labels of each class, and {protocol.name} learns from "
            f"{protocol.needs}: leave it at 0, and set fractions"
        )
    if target.shots and shares != (1.0,):
        raise UserError(f"shots is {target.shots} and fractions are {shares}; leave fractions at (1.0,)")
    if target.shots and make_labels(train.labels, len(train.class_names)).KIND != ClassLabels.KIND:
        raise UserError(f"shots is {target.shots}; they need one class for each image, and {train.name} has findings")
    check_label(target)
    protocol.check(target, train)


def check_label(target: ConfigDict) -> None:
    """Raises UserError for a label of a system that cannot be part of the name of a target."""
    if not LABEL.fullmatch(target.get("label", "")):
        raise UserError(f"label is '{target.label}'; it may have letters, digits, and any of . _ = ( ) -")


def check_labels(splits: Mapping[str, data.Split]) -> None:
    """Judges the labels of the splits of a target, and warns of classes or findings that a split lacks.

    Raises UserError if nothing can be learnt from the training split, or if nothing can be chosen or measured on the
    others.
    """
    names = splits["train"].class_names
    labels = {name: make_labels(splits[name].labels, len(names)) for name in SPLITS}
    for name, made in labels.items():
        if not (made.learnable if name == "train" else made.choosable):
            raise UserError(made.describe_unlearnable(splits[name].name, names))
    for name, made in labels.items():
        for lacking in sorted(set(range(len(names))) - set(made.measured.tolist())):
            log.warning("%s: %s", made.describe_lack(splits[name].name, names[lacking]), LACKING[name])
    warn_of_one_group(splits["test"])


def warn_of_one_group(test: data.Split) -> None:
    """Warns if no result on the test images can have an interval."""
    if len(np.unique(test.groups)) == 1:
        log.warning("%s: all images are of one lesion or patient; no result will have an interval", test.name)
