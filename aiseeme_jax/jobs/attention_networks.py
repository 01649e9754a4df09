"""The networks of a finished workdir: the last backbone of each arm, and its fine-tuned classifiers."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiseeme_jax import augment, weights
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evidence.looking import Network
from aiseeme_jax.store import artifacts, workdirs

FINETUNE = "finetune"


@dataclass(frozen=True)
class Arm:
    """What is there of an arm.

    Attributes:
      backbone: of its last finished stage; None if it trained nothing.
      classifiers: by the seed of fine-tuning, on the largest share of the labels.
      class_names: of the classifiers.
    """

    name: str
    backbone: Network | None
    classifiers: dict[int, Network]
    class_names: tuple[str, ...]

    @property
    def networks(self) -> list[Network]:
        return [*([self.backbone] if self.backbone else []), *self.classifiers.values()]


def choose_arms(plan: workdirs.WorkdirPlan, patterns: Sequence[str]) -> list[workdirs.ArmEntry]:
    """The arms that patterns name, in the order of the plan; all without patterns. UserError if one names none."""
    names = [entry.name for entry in plan.arms]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"no arm '{pattern}': there are {', '.join(names)}")
    return [
        entry
        for entry in plan.arms
        if not patterns or any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns)
    ]


def load_arm(workdir: Path, plan: workdirs.WorkdirPlan, config: dict[str, Any], entry: workdirs.ArmEntry) -> Arm:
    """Loads the networks of an arm.

    Raises MissingFile if its stages are not finished, UserError for a damaged file.
    """
    backbone = None
    if entry.stages:
        loaded = weights.load_backbone(workdirs.find_stage_folder(workdir, entry.name))[0]
        backbone = Network(loaded, None, _views_of_a_target(config))
    found = _list_classifiers(workdirs.open_store(workdir, plan), entry)
    networks = {seed: Network(one.network.backbone, one.network.head, one.views) for seed, one in found.items()}
    return Arm(entry.name, backbone, networks, next(iter(found.values())).class_names if found else ())


def _list_classifiers(store: artifacts.Store, entry: workdirs.ArmEntry) -> dict[int, weights.Classifier]:
    """By seed the finished classifiers of the first target of fine-tuning, on its largest share of the labels."""
    finished = [one for one in entry.measurements if one.target.startswith(FINETUNE) and _is_finished(store, one)]
    of_one = [one for one in finished if one.target == finished[0].target]
    largest = max((one.fraction for one in of_one), default=0)
    return {
        one.seed: weights.load_classifier(workdirs.find_measurement_folder(store, one))
        for one in of_one
        if one.fraction == largest
    }


def _is_finished(store: artifacts.Store, entry: workdirs.MeasurementEntry) -> bool:
    folder = workdirs.find_measurement_folder(store, entry)
    return folder is not None and artifacts.read_record(folder) is not None


def _views_of_a_target(config: dict[str, Any]) -> augment.AnyViews:
    """The views of evaluation: those of the first target, or of the last stage if there is no target."""
    fields = next(iter([*config["targets"], *reversed(config["stages"])]), None)
    if fields is None:
        raise MissingFile("the config has neither targets nor stages, so it does not say how images are prepared")
    return augment.views_of({name: tuple(v) if isinstance(v, list) else v for name, v in fields["views"].items()})
