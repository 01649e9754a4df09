"""The teachers of a stage: what the names in its distillation mean, and whether the teachers fit.

A teacher is 'previous' (the backbone that the stage starts from), an earlier stage of the curriculum by its position or
by its task, or a file: a workdir, a stage's folder, weights with torchvision's names. An arm of a single task has no
earlier stages, and random weights teach nothing. Such teachers are left out, and so is a term without a teacher.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from aiseeme_jax import distill, pretext, weights
from aiseeme_jax.curriculum.arms import SCRATCH
from aiseeme_jax.errors import MissingFile, UserError

# The name of the weights that a run starts from, if they are not random.
INIT = "init"


def label_stage(position: int, task: str) -> str:
    """The label of a stage in folders, log and records: '00-rotation'."""
    return f"{position:02d}-{task}"


@dataclasses.dataclass(frozen=True)
class StagePosition:
    """The place of a stage in its curriculum.

    Attributes:
      position: counted from 0.
      tasks: of all stages of the curriculum.
      init: the weights that the curriculum starts from, as in `config.init`.
      single: whether its arm trains no other stage.
    """

    position: int
    tasks: tuple[str, ...]
    init: str
    single: bool = False

    def find_teacher(self, name: str | int) -> int | str | None:
        """What a name in `distill.teachers` means: position of an earlier stage, INIT, a path, or None for no teacher.

        Raises UserError if the stage is not an earlier one, or if no earlier stage or several have the task.
        """
        if name == "previous":
            if self.position and not self.single:
                return self.position - 1
            return None if self.init == SCRATCH else INIT
        if isinstance(name, int) or name.lstrip("-").isdigit():
            found = [position for position in range(self.position) if position == int(name)]
        elif name in pretext.TASKS or name in pretext.COMBINED:
            found = [position for position in range(self.position) if self.tasks[position] == name]
        else:
            return name
        if len(found) != 1:
            count = "no" if not found else "more than one"
            earlier = ", ".join(f"{i} ({task})" for i, task in enumerate(self.tasks[: self.position])) or "none"
            raise UserError(f"distill.teachers: {count} earlier stage is '{name}'; there are: {earlier}")
        return None if self.single else found[0]

    def label(self, teacher: int | str) -> str:
        """The label of a teacher in log and records."""
        return label_stage(teacher, self.tasks[teacher]) if isinstance(teacher, int) else teacher


def resolve_terms(stage: ConfigDict, place: StagePosition) -> tuple[tuple[distill.Term, ...], dict[str, int | str]]:
    """The terms of a stage that have a teacher, with the labels of their teachers; and the teacher of each label."""
    terms, teachers = [], {}
    for term in distill.read_terms(stage.distill):
        found = [teacher for teacher in map(place.find_teacher, term.teachers) if teacher is not None]
        labels = dict.fromkeys(map(place.label, found))
        if labels:
            terms.append(dataclasses.replace(term, teachers=tuple(labels)))
            teachers |= dict(zip(map(place.label, found), found, strict=True))
    return tuple(terms), teachers


def needs_fisher(terms: tuple[distill.Term, ...], label: str) -> bool:
    """Whether a term needs the Fisher information of a teacher."""
    return any(term.kind == "ewc" and label in term.teachers for term in terms)


@dataclasses.dataclass
class LoadedTeachers:
    """The teachers of a stage: backbones by their labels and, for kind 'ewc', their Fisher information."""

    terms: tuple[distill.Term, ...]
    backbones: dict[str, nnx.Module]
    fishers: dict[str, nnx.Module]

    def average_with(self, backbone: nnx.Module) -> tuple[nnx.Module, dict[str, Any]]:
        """Averages a trained backbone with its teachers, if there are terms of kind 'weight_average'.

        Returns the backbone that the stage leaves, and what its record says about it.
        """
        record: dict[str, Any] = {}
        for term in self.terms:
            if term.kind == distill.AVERAGING:
                teachers = {name: self.backbones[name] for name in term.teachers}
                hashes = {name: weights.backbone_hash(teacher) for name, teacher in teachers.items()}
                averaged = {"share": term.share, "trained_hash": weights.backbone_hash(backbone), "teachers": hashes}
                backbone = distill.average_weights(backbone, tuple(teachers.values()), term.share)
                record.setdefault(distill.AVERAGING, []).append(averaged)
        return backbone, record


def check_teachers(config: ConfigDict, stage: ConfigDict, place: StagePosition, task: pretext.Task, rows: int) -> None:
    """Checks the distillation of a stage before anything is trained.

    Args:
      task: of the stage; its weights do not matter.
      rows: of features that a batch of the stage gives, or fewer.

    Raises UserError that names the field, MissingFile for a missing file of a teacher.
    """
    if stage.fisher_batches < 0:
        raise UserError(f"fisher_batches is {stage.fisher_batches}; it must be at least 0 (0 is derived)")
    for term in distill.read_terms(stage.distill):
        teachers = [teacher for teacher in map(place.find_teacher, term.teachers) if teacher is not None]
        if term.kind == "ewc" and not teachers:
            raise UserError(
                "distill.kind 'ewc' needs the Fisher information of an earlier stage, "
                "and this one starts from random weights; use it in a later stage"
            )
        backbones: dict[str, nnx.Module] = {}
        for teacher in teachers:
            outside = None if isinstance(teacher, int) else _load_outside(config.model, term, teacher, place.init)
            backbones[place.label(teacher)] = task.backbone if outside is None else outside
        distill.check_term(term, task.backbone, backbones, task.spec.size, rows)


def _load_outside(model: Mapping[str, Any], term: distill.Term, teacher: str, init: str) -> nnx.Module:
    """Loads a teacher from outside the run, and checks that its Fisher information exists if the term needs it."""
    path = Path(init if teacher == INIT else teacher)
    try:
        backbone = load_file(model, path, is_init=teacher == INIT)
        if term.kind == "ewc":
            weights.load_fisher(path, backbone)
    except FileNotFoundError as error:
        raise MissingFile(f"distill.teachers: {error}") from None
    return backbone


def load_file(model: Mapping[str, Any], path: Path, *, is_init: bool) -> nnx.Module:
    """Loads a teacher from a file. The start of a run has the model of the run, others the model of their file."""
    return weights.starting_backbone(model, str(path), 0) if is_init else weights.any_backbone(path, model)
