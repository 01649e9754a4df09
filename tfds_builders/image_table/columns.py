"""What the columns of a table become: a class, findings, attributes, as features and as the values of each row."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.radiographs import labels_feature

from .rows import Row, class_names

UNLABELLED = -1


@dataclasses.dataclass(frozen=True)
class Columns:
    """What a table says of an image beside its path, group, split and mask.

    Attributes:
      labelled: whether there are classes: it has the column label, or no findings either.
      classes: the labels there are, in order; None before the table was read.
      findings: names of the columns label_NAME.
      attributes: names of the columns attr_NAME, and whether all that stands there are numbers.
    """

    labelled: bool = True
    classes: tuple[str, ...] | None = None
    findings: tuple[str, ...] = ()
    attributes: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    @classmethod
    def find(cls, rows: Sequence[Row], header: Sequence[str]) -> "Columns":
        findings = tuple(rows[0].findings)
        numbers = {name: all_numbers([row.attributes[name] for row in rows]) for name in rows[0].attributes}
        names = class_names([row.label for row in rows])
        return cls("label" in header or not findings, tuple(names), findings, numbers)

    def make_features(self) -> dict[str, Any]:
        """The features of TFDS."""
        features: dict[str, Any] = {}
        if self.labelled:
            features["label"] = tfds.features.ClassLabel(names=self.classes, doc="-1: not known")
        if self.findings:
            features["labels"] = labels_feature(self.findings)
        for name, numeric in self.attributes.items():
            number = tfds.features.Scalar(np.float32, doc="NaN where not known")
            features[name] = number if numeric else tfds.features.Text(doc="blank where not known")
        return features

    def make_values(self, row: Row) -> dict[str, Any]:
        """The values of these features for a row."""
        values: dict[str, Any] = {}
        if self.labelled:
            values["label"] = self.classes.index(row.label) if row.label else UNLABELLED
        if self.findings:
            values["labels"] = np.array([row.findings[name] for name in self.findings], np.float32)
        for name, numeric in self.attributes.items():
            text = row.attributes[name]
            values[name] = (float(text) if text else math.nan) if numeric else text
        return values


def all_numbers(texts: Sequence[str]) -> bool:
    """Whether there are numbers, and nothing else but blanks."""
    known = [text for text in texts if text]
    try:
        return bool(known) and all(math.isfinite(float(text)) for text in known)
    except ValueError:
        return False


def is_known(values: Mapping[str, Any]) -> bool:
    """Whether the class of a row is known, or any of its findings."""
    if values.get("label", UNLABELLED) != UNLABELLED:
        return True
    return "labels" in values and not np.isnan(values["labels"]).all()
