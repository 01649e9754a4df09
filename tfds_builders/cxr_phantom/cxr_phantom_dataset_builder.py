"""TFDS builder of cxr_phantom: chest X-rays drawn by a program; for demos and tests, not for medical claims.

Everything is a pure function of the config (size, number of patients, confounding, seed). Patients are split into
train, validation and test (70/10/20 %) by a hash of their id. See README.md.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.images import encode_png
from tfds_builders.common.radiographs import label_array, labels_feature
from tfds_builders.common.reporting import ReportingBuilder, split_counts
from tfds_builders.common.splits import FRACTIONS, split_of

from .anatomy import VIEWS
from .opacities import CLASSES, SHOWN_BY, WITH_BOTH
from .radiographs import radiograph

IMAGES_PER_PATIENT = {1: 0.76, 2: 0.16, 3: 0.08}
ANTEROPOSTERIOR = 0.35
NORMAL = next(iter(CLASSES))
# Share of the images with a marker where that is a finding.
MARKED = 0.3
MARKER = "marker"
FINDINGS = (*SHOWN_BY, MARKER)


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Attributes: side of the images in pixels; number of patients (each has 1.32 images on average); seed; share of
    the training and validation images whose marker agrees with the label (there if not normal), 0 for a data set
    without markers; whether images have several findings, of which the marker is one, in place of a class.
    """

    size: int = 64
    patients: int = 2000
    seed: int = 0
    confounding: float = 0.0
    findings: bool = False


@dataclasses.dataclass(frozen=True)
class Exposure:
    label: str
    patient: int
    number: int
    view: str
    marker: bool
    split: str

    @property
    def patient_id(self) -> str:
        return name_of(self.patient)

    @property
    def image_id(self) -> str:
        return f"{self.patient_id}_{self.number}"

    @property
    def findings(self) -> tuple[float, ...]:
        """1 or 0 of each of `FINDINGS`."""
        return (*(float(self.label in shown) for shown in SHOWN_BY.values()), float(self.marker))


class Builder(ReportingBuilder):
    """Synthetic chest X-rays of three classes, with masks of the lungs and of what imitates pneumonia."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [
        Config(name="64", description="synthetic, about 2,600 images of 64x64 pixels"),
        Config(name="demo", size=32, patients=700, description="synthetic, about 900 images of 32x32 pixels"),
        Config(name="tiny", size=32, patients=90, description="synthetic, about 120 images of 32x32 pixels, for tests"),
        Config(
            name="confounded",
            confounding=0.9,
            description="the images of `64` with a letter R in the corner that goes with pneumonia in 90 % of the "
            "training and validation images, and with nothing in the test split",
        ),
        Config(
            name="demo_confounded",
            size=32,
            patients=700,
            confounding=0.9,
            description="the images of `demo` with the letter of `confounded`",
        ),
        *(
            Config(
                name=f"{name}_findings",
                size=32,
                patients=patients,
                findings=True,
                description=f"synthetic, about {images} images of 32x32 pixels with the findings {', '.join(FINDINGS)}",
            )
            for name, patients, images in (("demo", 700, 900), ("tiny", 90, 120))
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "64"

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size

        def picture(doc: str) -> tfds.features.Image:
            return tfds.features.Image(shape=(size, size, 1), encoding_format="png", doc=doc)

        features = {
            "image": picture("bright where few rays come through"),
            "mask": picture("lungs, as far as neither heart nor diaphragm hides them: 0 or 255"),
            "opacity": picture("pneumonia, inside the lungs: 0 or 255; empty if normal"),
            **self._label_feature(),
            "image_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(doc="images of one patient share it, and the label"),
            "view": tfds.features.ClassLabel(names=VIEWS),
            "marker": tfds.features.Scalar(np.bool_, doc="whether there is a letter in the corner"),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=None if self.builder_config.findings else ("image", "label"),
            license="Apache-2.0",
            metadata=tfds.core.MetadataDict(
                group="patient_id", **({"label_names": list(FINDINGS)} if self.builder_config.findings else {})
            ),
        )

    def _label_feature(self) -> dict[str, Any]:
        if self.builder_config.findings:
            return {"labels": labels_feature(FINDINGS)}
        return {"label": tfds.features.ClassLabel(names=list(CLASSES))}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        del dl_manager
        config = self.builder_config
        exposures = plan(config.patients, config.seed, config.confounding, findings=config.findings)
        classes = list(WITH_BOTH if config.findings else CLASSES)
        splits = {split: [i for i, one in enumerate(exposures) if one.split == split] for split in FRACTIONS}
        labels, patients = [one.label for one in exposures], [one.patient_id for one in exposures]
        self.inputs = len(exposures)
        self.report = {
            "synthetic": True,
            "splits": split_counts(splits, labels, patients, classes),
            "fractions": FRACTIONS,
            "seed": config.seed,
            "confounding": config.confounding,
            "markers": {split: count_markers([exposures[i] for i in rows], classes) for split, rows in splits.items()},
            "inputs": {},
        }
        return {split: self._generate_examples([exposures[i] for i in rows]) for split, rows in splits.items()}

    def _generate_examples(self, exposures: Sequence[Exposure]) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for one in exposures:
            drawn = radiograph(one.label, one.view, one.marker, config.seed, one.patient, one.number, config.size)
            yield (
                one.image_id,
                {
                    "image": encode_png(drawn.image),
                    "mask": encode_png(drawn.lungs.astype(np.uint8) * 255),
                    "opacity": encode_png(drawn.opacity.astype(np.uint8) * 255),
                    **({"labels": label_array(one.findings)} if config.findings else {"label": one.label}),
                    "image_id": one.image_id,
                    "patient_id": one.patient_id,
                    "view": one.view,
                    "marker": one.marker,
                },
            )


def name_of(patient: int) -> str:
    return f"CXR_PHANTOM_{patient:06d}"


def plan(patients: int, seed: int, confounding: float, *, findings: bool = False) -> list[Exposure]:
    """Every image: its patient's label and split, its view, and whether it bears the marker.

    With confounding c > 0 the marker agrees with "not normal" in a share c of the images of train and validation, as a
    validation set drawn like the training set would have it, and is tossed in the test split. Labels, views and splits
    do not depend on c. With findings, the marker comes in a share `MARKED` of the images, whatever else they show.
    """
    random = np.random.default_rng((seed, 3))
    shares = WITH_BOTH if findings else CLASSES
    labels = random.choice(list(shares), patients, p=list(shares.values()))
    numbers = random.choice(list(IMAGES_PER_PATIENT), patients, p=list(IMAGES_PER_PATIENT.values()))
    exposures = []
    for patient in range(patients):
        label, split = str(labels[patient]), split_of(name_of(patient), seed, FRACTIONS)
        agreement = confounding if split != "test" else 0.5
        for number in range(numbers[patient]):
            view = VIEWS[int(random.random() < ANTEROPOSTERIOR)]
            drawn = random.random()
            agrees = drawn < agreement
            marker = drawn < MARKED if findings else confounding > 0 and agrees == (label != NORMAL)
            exposures.append(Exposure(label, patient, number, view, marker, split))
    return exposures


def count_markers(exposures: Sequence[Exposure], classes: Sequence[str]) -> dict[str, int]:
    """Images with a marker, per class."""
    return {label: sum(one.marker for one in exposures if one.label == label) for label in classes}
