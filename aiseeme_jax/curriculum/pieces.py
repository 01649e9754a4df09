"""The pieces of work that a plan consists of: what each needs, how long it takes, and the key by which it is found."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import FrozenConfigDict

from aiseeme_jax import distill
from aiseeme_jax.curriculum import teachers
from aiseeme_jax.curriculum.arms import count_images, list_members
from aiseeme_jax.curriculum.datasets import Sets
from aiseeme_jax.curriculum.trials import PlannedProbe, PlannedTrial, PlannedTuning
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.store import keys
from aiseeme_jax.store.artifacts import Artifact
from aiseeme_jax.training.samples import MEASURED


@dataclasses.dataclass(frozen=True)
class RandomWeights:
    """A start with random weights."""

    seed: int

    def content(self) -> dict[str, Any]:
        return {"random": self.seed}


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A start, or a teacher, from a file outside the run.

    Attributes:
      path: of the file itself, where the config may name a workdir.
      sha256: of the file's content.
    """

    path: str
    sha256: str

    def content(self) -> dict[str, Any]:
        return {"file": self.sha256}


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage to be trained.

    Attributes:
      artifact: its folder and key.
      arm: the first arm that needs it; others may share it.
      place: its place in its curriculum.
      fields: its config.
      seed: all its random numbers follow from it.
      sets: the data sets it is trained on, with their shares.
      images: number of images in all of them.
      total_steps, steps_per_epoch: its length.
      seconds: of training after which it ends early; None if there is no limit.
      stop_set: the data set on whose images the proxy of `fields.stop` scores it.
      start: the weights its backbone starts from.
      terms: of its distillation.
      teachers: by the labels that the terms use.
      fishers: Fisher information of teachers, if a term needs it: planned, or from a file.
      tuning: the search that chooses its learning rate and batch size, or None. Until it is finished, `fields` and
        `total_steps` have the values around which it searches; they show as many images as those that it finds.
    """

    artifact: Artifact
    arm: str
    place: teachers.StagePosition
    fields: FrozenConfigDict
    seed: int
    sets: Sets
    images: int
    total_steps: int
    seconds: float | None
    stop_set: str
    steps_per_epoch: int
    start: "Start"
    terms: tuple[distill.Term, ...]
    teachers: Mapping[str, "Start"]
    fishers: Mapping[str, "PlannedFisher | WeightsFile"]
    tuning: PlannedTuning | None = None

    def content(self) -> dict[str, Any]:
        return {"stage": self.artifact.key}

    @property
    def speed_of(self) -> str:
        """What its speed depends on, beside the machine. Stages that agree in this take equally long for an image."""
        model = self.artifact.content["model"]
        parts, own = list_members(self.fields), self.fields.fields
        tasks = "+".join(part.task for part in parts)
        if "members" in own:
            # Some weightings need further passes.
            tasks = f"{self.fields.task}-{own.weights.name if 'weights' in own else own.teacher.name}({tasks})"
        if self.fields.samples.order in MEASURED:
            # Measuring takes time.
            tasks = f"{tasks}-{self.fields.samples.every}-{self.fields.samples.passes}"
        return f"{tasks} {parts[0].views.size} {self.fields.batch_size} {keys.make_key(model)[:12]}"

    @property
    def images_shown(self) -> int:
        """Images that it shows; in a joint stage each of them to every member."""
        return self.total_steps * count_images(self.fields)

    def limit_seconds(self, seconds: float) -> float:
        """Seconds that it takes, for those that all of its steps take: it ends early where it has a limit."""
        return seconds if self.seconds is None else min(seconds, self.seconds)

    @property
    def title(self) -> str:
        """Its name in the log."""
        return self.arm if self.place.single else f"{self.arm} {self.place.position}: {self.fields.task}"

    @property
    def inputs(self) -> dict[str, "Piece"]:
        """The pieces that must be finished first, by the part that they have in this one."""
        named = {"start": self.start, **{f"teacher {name}": teacher for name, teacher in self.teachers.items()}}
        named |= {f"Fisher information of {name}": fisher for name, fisher in self.fishers.items()}
        found = {name: piece for name, piece in named.items() if isinstance(piece, PlannedStage | PlannedFisher)}
        return found if self.tuning is None else {**found, "tuning": self.tuning}


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedFisher:
    """Fisher information of a stage's backbone, to be estimated on a number of batches."""

    artifact: Artifact
    stage: PlannedStage
    batches: int

    @property
    def inputs(self) -> dict[str, "Piece"]:
        return {"stage": self.stage}

    @property
    def title(self) -> str:
        return f"{self.stage.title}: Fisher information"


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedMeasurement:
    """A backbone to be measured by one protocol, on one share of the labels, with one seed.

    Attributes:
      artifact: its folder and key.
      arm: the first arm that needs it; others may share it.
      target: config of the target.
      name: of the target in results and report.
      set: the data set it learns from.
      test_set: the data set on whose test images it is measured.
      fraction: share of the labels.
      seed: of the draw of the labels, and of fine-tuning.
      start: the backbone.
      needed: the measurements that must be made first, by the names that the protocol gives them: see
        `Protocol.plan_needed`.
    """

    artifact: Artifact
    arm: str
    target: FrozenConfigDict
    name: str
    set: str
    test_set: str
    fraction: float
    seed: int
    start: "Start"
    needed: Mapping[str, "PlannedMeasurement"] = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, "Piece"]:
        named = {"backbone": self.start, **self.needed}
        return {name: piece for name, piece in named.items() if isinstance(piece, PlannedStage | PlannedMeasurement)}

    @property
    def title(self) -> str:
        return f"{self.arm}: {self.name} on {in_words(self.fraction, self.target.shots)}, seed {self.seed}"


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedScore:
    """A backbone to be scored by a proxy, without test images.

    Attributes:
      artifact: its folder and key.
      arm: the first arm that needs it; others may share it.
      proxy: config of the proxy.
      set: the data set whose images it is scored on.
      start: the backbone.
    """

    artifact: Artifact
    arm: str
    proxy: FrozenConfigDict
    set: str
    start: "Start"

    @property
    def inputs(self) -> dict[str, "Piece"]:
        return {"backbone": self.start} if isinstance(self.start, PlannedStage) else {}

    @property
    def title(self) -> str:
        return f"{self.arm}: {self.proxy.proxy}"


Start = RandomWeights | WeightsFile | PlannedStage
Piece = PlannedStage | PlannedFisher | PlannedMeasurement | PlannedScore | PlannedTuning | PlannedTrial | PlannedProbe


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedArm:
    """An arm: its stages, the backbone at the end, and the measurements of that backbone, or the score of a search."""

    name: str
    stages: tuple[PlannedStage, ...]
    fishers: tuple[PlannedFisher, ...]
    backbone: Start
    measurements: tuple[PlannedMeasurement, ...]
    scores: tuple[PlannedScore, ...] = ()

    def pieces(self) -> list[Piece]:
        """Every piece of work of the arm once, each after those that it needs."""
        found: dict[str, Piece] = {}
        for piece in (*self.stages, *self.fishers, *self.measurements, *self.scores):
            for needed in (*_all_inputs(piece), piece):
                found.setdefault(needed.artifact.key, needed)
        return list(found.values())


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Everything that a config asks for.

    Attributes:
      arms: in the order in which they are trained, measured and shown.
    """

    arms: tuple[PlannedArm, ...]

    def pieces(self) -> list[Piece]:
        """Every piece of work once, each after those that it needs."""
        found: dict[str, Piece] = {}
        for arm in self.arms:
            for piece in arm.pieces():
                found.setdefault(piece.artifact.key, piece)
        return list(found.values())


def find_planned_key(piece: Piece) -> str:
    """The key of the piece of the plan that a piece belongs to: its own, or of a trial that of its search."""
    return piece.search if isinstance(piece, PlannedTrial | PlannedProbe) else piece.artifact.key


def _all_inputs(piece: Piece) -> Iterator[Piece]:
    for needed in piece.inputs.values():
        yield from _all_inputs(needed)
        yield needed
