"""The networks of a finished workdir: the last backbone of each arm, and its fine-tuned classifiers.

In the workdir of a study, an arm has a name for each pretraining seed. Here they are one arm with several runs.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiseeme_jax import augment, weights
from aiseeme_jax.curriculum.costs import Cost, cost_of_work, mean_costs, read_pretraining_cost, sum_costs
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evidence.attention import Method
from aiseeme_jax.evidence.looking import EncodingNetwork, Network
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.systems.fisher_vector import FISHER_VECTOR, load_fisher_classifier

FINETUNE = "finetune"
STUDY = "study"
# How an arm of a study with one pretraining seed is called.
OF_A_SEED = re.compile(r"(.+), (seed \d+)")


@dataclass(frozen=True)
class Arm:
    """What is there of an arm, by the name of the run: seeds of pretraining in a study, and of fine-tuning.

    Attributes:
      backbones: of the last finished stage; none if the arm trained nothing.
      classifiers: on the largest share of the labels.
      class_names: of the classifiers.
      encoders: networks of Fisher vectors whose foreground weights were learnt, on the largest share of the labels.
      pretraining, measuring: what the pretraining cost, and the fine-tunings and Fisher vectors, of each pretraining
        seed.
    """

    name: str
    backbones: dict[str, Network]
    classifiers: dict[str, Network]
    class_names: tuple[str, ...]
    encoders: dict[str, Network]
    pretraining: list[Cost]
    measuring: list[Cost]

    @property
    def cost(self) -> tuple[Cost, Cost]:
        """Of the pretraining, a mean over its seeds, and of all fine-tunings and Fisher vectors."""
        return mean_costs(self.pretraining), sum_costs(self.measuring)

    def networks_for(self, method: Method) -> dict[str, Network]:
        """Those that a method takes."""
        if method.needs_encoder:
            return self.encoders
        return self.classifiers if method.needs_class else self.backbones

    def list_networks(self) -> list[Network]:
        """All of them."""
        return [*self.classifiers.values(), *self.backbones.values(), *self.encoders.values()]


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


def load_arms(
    workdir: Path, plan: workdirs.WorkdirPlan, config: dict[str, Any], entries: Sequence[workdirs.ArmEntry]
) -> list[Arm]:
    """Loads the networks of arms.

    Raises MissingFile if stages are not finished, UserError for a damaged file.
    """
    arms: dict[str, Arm] = {}
    for entry in entries:
        found = OF_A_SEED.fullmatch(entry.name) if config["job"] == STUDY else None
        name, seed = found.groups() if found else (entry.name, "")
        one = _load_arm(workdir, plan, config, entry, name, seed)
        if name in arms:
            arms[name].backbones.update(one.backbones)
            arms[name].classifiers.update(one.classifiers)
            arms[name].encoders.update(one.encoders)
            arms[name].pretraining.extend(one.pretraining)
            arms[name].measuring.extend(one.measuring)
        else:
            arms[name] = one
    return list(arms.values())


def _load_arm(
    workdir: Path,
    plan: workdirs.WorkdirPlan,
    config: dict[str, Any],
    entry: workdirs.ArmEntry,
    name: str,
    seed: str,
) -> Arm:
    backbones = {}
    if entry.stages:
        loaded = weights.load_backbone(workdirs.find_stage_folder(workdir, entry.name))[0]
        backbones[seed] = Network(loaded, None, _views_of_a_target(config))
    store = workdirs.open_store(workdir, plan)
    targets = _list_targets(store, entry, FINETUNE)
    finetuned = _list_folders(store, entry, targets[0]) if targets else {}
    found = {run: weights.load_classifier(folder) for run, folder in finetuned.items()}
    classifiers = {
        _name_run(seed, f"fine-tuning {run}"): Network(c.network.backbone, c.network.head, c.views)
        for run, c in found.items()
    }
    class_names = next(iter(found.values())).class_names if found else ()
    encoded = _find_foregrounds(store, entry)
    encoders = {
        _name_run(seed, f"Fisher vector {run}"): EncodingNetwork(c.network.backbone, c.network, c.views)
        for run, c in ((run, load_fisher_classifier(folder)) for run, folder in encoded.items())
    }
    folders = (*finetuned.values(), *encoded.values())
    spent = sum_costs(cost_of_work(artifacts.read_record(folder)) for folder in folders)
    return Arm(name, backbones, classifiers, class_names, encoders, [read_pretraining_cost(store, entry)], [spent])


def _find_foregrounds(store: artifacts.Store, entry: workdirs.ArmEntry) -> dict[int, Path]:
    """By seed the folders of the first target of Fisher vectors whose foreground weights were learnt."""
    for target in _list_targets(store, entry, FISHER_VECTOR.name):
        folders = _list_folders(store, entry, target)
        if all(load_fisher_classifier(folder).network.has_foreground for folder in folders.values()):
            return folders
    return {}


def _name_run(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _list_targets(store: artifacts.Store, entry: workdirs.ArmEntry, protocol: str) -> list[str]:
    """The names of the targets of a protocol of which a measurement is finished, each once."""
    of_one = [one for one in entry.measurements if re.split(r"[:+]", one.target)[0] == protocol]
    return list(dict.fromkeys(one.target for one in of_one if _is_finished(store, one)))


def _list_folders(store: artifacts.Store, entry: workdirs.ArmEntry, target: str) -> dict[int, Path]:
    """By seed the folders of the finished measurements of a target, on its largest share of the labels."""
    finished = [one for one in entry.measurements if one.target == target and _is_finished(store, one)]
    largest = max((one.fraction for one in finished), default=0)
    return {one.seed: workdirs.find_measurement_folder(store, one) for one in finished if one.fraction == largest}


def _is_finished(store: artifacts.Store, entry: workdirs.MeasurementEntry) -> bool:
    folder = workdirs.find_measurement_folder(store, entry)
    return folder is not None and artifacts.read_record(folder) is not None


def _views_of_a_target(config: dict[str, Any]) -> augment.AnyViews:
    """The views of evaluation: those of the first target, or of the last stage if there is no target."""
    fields = next(iter([*config["targets"], *reversed(config["stages"])]), None)
    if fields is None:
        raise MissingFile("the config has neither targets nor stages, so it does not say how images are prepared")
    return augment.views_of({name: tuple(v) if isinstance(v, list) else v for name, v in fields["views"].items()})
