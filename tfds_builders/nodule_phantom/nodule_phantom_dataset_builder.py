"""TFDS builder of nodule_phantom: CT of lung nodules drawn by a program; for demos and tests, not for medical claims.

Everything is a pure function of the config (size, spacing, number of patients, seed). Patients are split into train,
validation and test (70/10/20 %) by a hash of their id. See README.md.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int, Int16, UInt8

from tfds_builders.common.features import volume_feature
from tfds_builders.common.geometry import LINEAR, NEAREST
from tfds_builders.common.planes import PLANES, sample_plane
from tfds_builders.common.reporting import ReportingBuilder, split_counts
from tfds_builders.common.splits import FRACTIONS, split_of

from .nodules import BENIGN, MALIGNANT, READERS, UNLABELLED, Nature, draw_nature, label_of, read
from .scans import scan

CLASSES = (BENIGN, MALIGNANT)
NODULES_PER_PATIENT = {1: 0.68, 2: 0.20, 3: 0.09, 4: 0.03}


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Attributes: voxels along each side; mm between them; number of patients (each has 1.47 nodules on average);
    whether nodules of the median rating 3 are kept, with the label -1; whether nine planes are stored in place of the
    volume; seed.
    """

    size: int = 32
    spacing: float = 1.25
    patients: int = 1400
    graded: bool = False
    planes: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Nodule:
    patient: int
    number: int
    nature: Nature
    ratings: Int[np.ndarray, "readers"]

    @property
    def label(self) -> str | int:
        return label_of(self.ratings)

    @property
    def patient_id(self) -> str:
        return f"NODULE_PHANTOM_{self.patient:06d}"

    @property
    def image_id(self) -> str:
        return f"{self.patient_id}_{self.number}"


class Builder(ReportingBuilder):
    """Synthetic CT of lung nodules, benign and malignant by the ratings of four simulated readers."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [
        Config(name="32", description="synthetic, about 1,700 nodules, 32x32x32 voxels of 1.25 mm"),
        Config(
            name="graded",
            graded=True,
            description="`32` and, unlabelled (-1), the nodules of the median rating 3: about 2,100",
        ),
        Config(
            name="demo",
            size=16,
            spacing=1.5,
            patients=600,
            description="synthetic, about 720 nodules, 16x16x16 voxels of 1.5 mm",
        ),
        Config(
            name="views",
            size=16,
            spacing=1.5,
            patients=600,
            graded=True,
            planes=True,
            description="nine planes of 16x16 through the nodules of `demo`, and of those of the median rating 3, "
            "unlabelled (-1)",
        ),
        Config(
            name="tiny",
            size=16,
            spacing=1.5,
            patients=90,
            description="synthetic, about 110 nodules, 16x16x16 voxels of 1.5 mm, for tests",
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "32"

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config

        shape = (len(PLANES) if config.planes else config.size, config.size, config.size, 1)
        pixels = "views" if config.planes else "volume"
        says = "Hounsfield units" if config.planes else "Hounsfield units, axes z, y, x"
        names = {"plane_names": list(PLANES)} if config.planes else {}
        features = {
            pixels: volume_feature(shape, np.int16, says),
            "mask": volume_feature(shape, np.uint8, "nodule: 0 or 1"),
            "label": tfds.features.ClassLabel(names=CLASSES, doc="by the median rating; -1 where that is 3"),
            "image_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(doc="nodules of one patient share it"),
            "ratings": tfds.features.Tensor(shape=(READERS,), dtype=np.int64, doc="malignancy, 1 to 5, per reader"),
            "malignancy": tfds.features.Scalar(np.float32, doc="latent, 1 to 5: what the readers estimate"),
            "diameter_mm": tfds.features.Scalar(np.float32, doc="of the body, without spicules"),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=(pixels, "label"),
            license="Apache-2.0",
            metadata=tfds.core.MetadataDict(group="patient_id", spacing_mm=config.spacing, **names),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        del dl_manager
        config = self.builder_config
        drawn = plan(config.patients, config.seed)
        nodules = [nodule for nodule in drawn if config.graded or nodule.label != UNLABELLED]
        patients = [nodule.patient_id for nodule in nodules]
        names = [split_of(patient, config.seed, FRACTIONS) for patient in patients]
        splits = {split: [i for i, name in enumerate(names) if name == split] for split in FRACTIONS}
        labels = [(nodule.label,) if nodule.label != UNLABELLED else () for nodule in nodules]
        self.inputs = len(nodules)
        self.report = {
            "synthetic": True,
            "splits": split_counts(splits, labels, patients, CLASSES),
            "fractions": FRACTIONS,
            "seed": config.seed,
            "median_rating_3": {
                "nodules": sum(nodule.label == UNLABELLED for nodule in drawn),
                "kept": config.graded,
            },
            "inputs": {},
        }
        return {split: self._generate_examples([nodules[i] for i in rows]) for split, rows in splits.items()}

    def _generate_examples(self, nodules: Sequence[Nodule]) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for one in nodules:
            volume, mask = scan(one.nature, config.seed, one.patient, one.number, config.size, config.spacing)
            shown, inside = cut_planes(volume, mask) if config.planes else (volume, mask)
            yield (
                one.image_id,
                {
                    "views" if config.planes else "volume": shown[..., None],
                    "mask": inside[..., None].astype(np.uint8),
                    "label": one.label,
                    "image_id": one.image_id,
                    "patient_id": one.patient_id,
                    "ratings": one.ratings,
                    "malignancy": one.nature.malignancy,
                    "diameter_mm": one.nature.diameter,
                },
            )


def cut_planes(
    volume: Int16[np.ndarray, "s s s"], mask: Bool[np.ndarray, "s s s"]
) -> tuple[Int16[np.ndarray, "9 s s"], UInt8[np.ndarray, "9 s s"]]:
    """The nine planes of a cube and of its mask, sampled at the distance of its voxels, in the order of PLANES."""
    side = len(volume)
    where = (1.0, 1.0, 1.0), ((side - 1) / 2,) * 3
    pairs = [
        [sample_plane(voxels, *where, axes, side, 1.0, order) for axes in PLANES.values()]
        for voxels, order in ((volume, LINEAR), (mask.astype(np.uint8), NEAREST))
    ]
    return np.stack(pairs[0]), np.stack(pairs[1])


def plan(patients: int, seed: int) -> list[Nodule]:
    """Every nodule, with its traits and ratings."""
    random = np.random.default_rng((seed, 3))
    nodules = []
    for patient in range(patients):
        for number in range(random.choice(list(NODULES_PER_PATIENT), p=list(NODULES_PER_PATIENT.values()))):
            nature = draw_nature(random)
            nodules.append(Nodule(patient, number, nature, read(random, nature.malignancy)))
    return nodules
