"""Who teaches a stage: what the names in its distillation mean, where the weights lie, and whether they fit.

A teacher is 'previous' (the backbone the stage starts from), an earlier stage of the curriculum by its position or by
its task, or a file: a workdir, a stage's folder, weights with torchvision's names. An arm that trains one task alone
has no earlier stages, and random weights teach nothing: such teachers fall away, and with the last of them the term.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from aiseeme_jax import data, distill, pretext, weights
from aiseeme_jax.store import records

# At most an epoch.
FISHER_BATCHES = 100
# The name of the weights a run starts from, where they are not random.
INIT = "init"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a stage stands.

    Attributes:
      position: in the curriculum.
      tasks: of all stages of the curriculum.
      init: as `config.init`.
      alone: its arm trains no other stage.
    """

    position: int
    tasks: tuple[str, ...]
    init: str
    alone: bool = False

    def source(self, name: str | int) -> int | str | None:
        """What a name in `distill.teachers` means: the position of an earlier stage, INIT, a path, or None for nobody.

        Raises ValueError for a stage that does not come earlier, or a task that names none or several that do.
        """
        if name == "previous":
            last = None if self.alone or not self.position else self.position - 1
            return last if last is not None else (None if self.init == "scratch" else INIT)
        if isinstance(name, int) or name.lstrip("-").isdigit():
            found = [position for position in range(self.position) if position == int(name)]
        elif name in pretext.TASKS:
            found = [position for position in range(self.position) if self.tasks[position] == name]
        else:
            return name
        if len(found) != 1:
            count = "no" if not found else "more than one"
            earlier = ", ".join(f"{i} ({task})" for i, task in enumerate(self.tasks[: self.position])) or "none"
            raise ValueError(f"distill.teachers: {count} earlier stage is '{name}'; there are: {earlier}")
        return None if self.alone else found[0]

    def label(self, source: int | str) -> str:
        """A source by the name of its folder; what the log and the records say."""
        return records.stage_name(source, self.tasks[source]) if isinstance(source, int) else source


def resolve(stage: ConfigDict, place: Place) -> tuple[tuple[distill.Term, ...], dict[str, int | str]]:
    """The terms of a stage that have a teacher, these by their labels; and what each label stands for."""
    terms, sources = [], {}
    for term in distill.read_terms(stage.distill):
        found = [source for source in map(place.source, term.teachers) if source is not None]
        labels = dict.fromkeys(map(place.label, found))
        if labels:
            terms.append(dataclasses.replace(term, teachers=tuple(labels)))
            sources |= dict(zip(map(place.label, found), found, strict=True))
    return tuple(terms), sources


@dataclasses.dataclass
class Lesson:
    """What a stage is taught: terms whose teachers are names in `backbones` and, for kind 'ewc', in `fishers`."""

    terms: tuple[distill.Term, ...]
    backbones: dict[str, nnx.Module]
    fishers: dict[str, nnx.Module]

    def merge(self, backbone: nnx.Module) -> tuple[nnx.Module, dict[str, Any]]:
        """What is handed over in place of a trained backbone, and what the record says of it: kind 'weight_average'."""
        record = {}
        for term in self.terms:
            if term.kind == distill.AVERAGING:
                teachers = {name: self.backbones[name] for name in term.teachers}
                hashes = {name: weights.backbone_hash(teacher) for name, teacher in teachers.items()}
                merged = {"share": term.share, "trained_hash": weights.backbone_hash(backbone), "teachers": hashes}
                backbone = distill.average_weights(backbone, tuple(teachers.values()), term.share)
                record.setdefault(distill.AVERAGING, []).append(merged)
        return backbone, record


def load(config: ConfigDict, stage: ConfigDict, place: Place, folders: Sequence[Path]) -> Lesson:
    """Reads the teachers of a stage.

    Args:
      folders: of the stages of the curriculum before this one.

    Raises ValueError for Fisher information that is damaged or of other weights, FileNotFoundError if there is none.
    """
    terms, sources = resolve(stage, place)
    files = {name: _file(source, place, folders) for name, source in sources.items()}
    backbones = {name: _read(config, source, files[name]) for name, source in sources.items()}
    informed = dict.fromkeys(name for term in terms if term.kind == "ewc" for name in term.teachers)
    fishers = {name: weights.load_fisher(files[name], backbones[name]) for name in informed}
    return Lesson(terms, backbones, fishers)


def _file(source: int | str, place: Place, folders: Sequence[Path]) -> Path:
    if isinstance(source, int):
        return folders[source]
    return Path(place.init if source == INIT else source)


def _read(config: ConfigDict, source: int | str, file: Path) -> nnx.Module:
    if source == INIT:
        return weights.starting_backbone(config.model, str(file), config.seed)
    return weights.any_backbone(file, config.model)


def check(config: ConfigDict, stage: ConfigDict, place: Place, student: nnx.Module) -> None:
    """Judges the distillation of a stage of a curriculum before anything is trained.

    Args:
      student: a backbone of `config.model`; its weights do not matter.

    Raises ValueError that names the field, FileNotFoundError for a teacher's file that is not there.
    """
    if stage.fisher_batches < 0:
        raise ValueError(f"fisher_batches is {stage.fisher_batches}; it must be at least 0 (0 is derived)")
    for term in distill.read_terms(stage.distill):
        sources = [source for source in map(place.source, term.teachers) if source is not None]
        if term.kind == "ewc" and not sources:
            raise ValueError(
                "distill.kind 'ewc' needs the Fisher information of an earlier stage, "
                "and this one starts from random weights; leave it to a later stage"
            )
        teachers: dict[str, nnx.Module] = {}
        for source in sources:
            label = place.label(source)
            teachers[label] = student if isinstance(source, int) else _found(config, term, source, place)
        distill.check_term(term, student, teachers, stage.views.size)


def _found(config: ConfigDict, term: distill.Term, source: str, place: Place) -> nnx.Module:
    """A teacher that lies outside the run, with the Fisher information the term wants."""
    file = _file(source, place, ())
    try:
        backbone = _read(config, source, file)
        if term.kind == "ewc":
            weights.load_fisher(file, backbone)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"distill.teachers: {error}") from None
    return backbone


def fisher_batches(stage: ConfigDict, place: Place, images: int, sequences: Iterable[Sequence[ConfigDict]]) -> int:
    """Batches the Fisher information of a stage is estimated on at its end: as it says, or as a later stage asks.

    0, for none, if nobody asks, and in an arm that trains a task alone.

    Args:
      sequences: all stages of every curriculum that this stage is part of.
    """
    if place.alone:
        return 0
    wanted = min(FISHER_BATCHES, data.steps_per_epoch(images, stage.batch_size))
    return stage.fisher_batches or (wanted if any(_asked(place, stages) for stages in sequences) else 0)


def _asked(place: Place, stages: Sequence[ConfigDict]) -> bool:
    """Whether a later one of the stages holds on to the one at `place` by its Fisher information."""
    tasks = tuple(stage.task for stage in stages)
    return any(
        term.kind == "ewc" and place.position in map(Place(later, tasks, place.init).source, term.teachers)
        for later in range(place.position + 1, len(stages))
        for term in distill.read_terms(stages[later].distill)
    )
