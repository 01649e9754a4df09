"""The targets of a config: checked, and planned as measurements of a backbone, each with its key."""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import data, models
from aiseeme_jax.curriculum import checks, protocols
from aiseeme_jax.curriculum.datasets import DataSets, Sets, find_set, find_test_set
from aiseeme_jax.curriculum.pieces import PlannedMeasurement, RandomWeights, Start
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.features import DEFAULT_ENDPOINT
from aiseeme_jax.store import artifacts, keys
from aiseeme_jax.store.artifacts import Artifact

# Increase it when a change of the code changes the results of measurements.
MEASUREMENT_VERSION = 2
# Fields of a target that say which measurements are made. They do not belong to the key of a measurement. (Those under
# `earlier` count by the keys of the measurements that are made first.)
COUNTING_FIELDS = ("fractions", "seeds", "data", "test_data", "made_for", "label", "earlier")
# Fields of a target that are not in the key where they have these values. Before they existed, there were no others.
SILENT_VALUES = {
    "endpoint": DEFAULT_ENDPOINT,
    "shots": 0,
    "trained": "all",
    "layer_decay": 1.0,
    "test_views": "central",
}


class TargetPlanner:
    """Checks the targets of a config, and plans their measurements.

    Args:
      checked: labels that an earlier plan has checked. Those of this plan are added.
    """

    def __init__(self, config: ConfigDict, datasets: DataSets, checked: set[str]):
        self.config, self.datasets, self.checked = config, datasets, checked
        self.model = keys.to_json(models.describe_model(config.model))

    def check(self) -> None:
        """Raises UserError for a target that cannot be measured, and for one that is there twice."""
        names: list[str] = []
        for position, target in enumerate(self.config.targets):
            with checks.name_in_errors(f"targets[{position}] ({target.protocol})"):
                self.check_target(target)
                name = self.name_target(target)
            if name in names:
                labelled = ", and of a system one of each `label`" if "label" in target else ""
                raise UserError(
                    f"targets[{position}]: a second target '{name}'; there can be one of each protocol, data set, "
                    f"endpoint, number of shots, method against imbalance, and way to train and to test{labelled}"
                )
            names.append(name)
        for name, test, needs in self.list_sets():
            alike = f"{needs} of {self.datasets.data_dir}, {name}, {test}"
            with checks.name_in_errors("targets"):
                if alike not in self.checked:
                    splits = self.datasets.target(name, test, needs)
                    if needs.labels:
                        protocols.check_labels(splits)
                    else:
                        protocols.warn_of_one_group(splits["test"])
                    self.checked.add(alike)

    def check_target(self, target: ConfigDict) -> None:
        """Checks a target, and those that must be measured first."""
        protocol = protocols.find_protocol(target.protocol)
        checks.check_made_for(target, "protocol", "target")
        splits = self.open_splits(target)
        if protocol.needs.labels:
            check_test_set(splits["train"], splits["test"])
        show = data.shown_pictures if protocol.needs.together else lambda split: split
        for split in (splits["train"], splits["test"]):
            data.check_model(show(split), self.config.model)
        checks.check_views(self.config.model, target, show(splits["train"]))
        protocols.check_target(target, splits["train"])
        protocol.check_splits(target, splits)
        protocol.check_model(target, self.config.model)
        checks.check_endpoint(self.config.model, target)
        if protocol.trains:
            checks.check_finetuning(self.config.model, target, len(splits["train"]))
        for name, earlier in protocol.plan_needed(target).items():
            with checks.name_in_errors(f"{name} ({earlier.protocol}), which must be measured first"):
                self.check_target(earlier)

    def warn_of_shared_groups(self, trained_on: Iterable[Sets]) -> None:
        """Warns if stages are trained on lesions or patients of the held-out images of a target.

        Args:
          trained_on: the data sets of all stages.
        """
        for sets, (name, test, needs) in itertools.product(trained_on, self.list_sets()):
            both = name if test == name else f"{name}>{test}"
            self.datasets.warn_of_shared_groups(sets, both, self.datasets.target(name, test, needs))

    def list_sets(self) -> list[tuple[str, str, data.Needs]]:
        """The data sets of the targets, each once: to learn from, to measure on, and what their images must have."""
        every = itertools.chain.from_iterable(map(list_with_needed, self.config.targets))
        return list(dict.fromkeys(self.find_sets(target) for target in every))

    def find_sets(self, target: ConfigDict) -> tuple[str, str, data.Needs]:
        """As of `list_sets`, those of one target."""
        return find_set(self.config, target), find_test_set(self.config, target), self.find_needs(target)

    def find_needs(self, target: ConfigDict) -> data.Needs:
        return protocols.find_protocol(target.protocol).needs

    def open_splits(self, target: ConfigDict) -> Mapping[str, data.Split]:
        return self.datasets.target(*self.find_sets(target))

    def name_target(self, target: ConfigDict) -> str:
        return results.name_target(target, self.config.data.name)

    def plan_measurements(self, arm: str, backbone: Start) -> Iterator[PlannedMeasurement]:
        """The measurements of the backbone of an arm."""
        for target in self.config.targets:
            for fraction in target.fractions:
                for seed in protocols.seeds_for(target, fraction):
                    yield self.plan_measurement(arm, target, fraction, seed, backbone)

    def plan_measurement(
        self, arm: str, target: ConfigDict, fraction: float, seed: int, backbone: Start
    ) -> PlannedMeasurement:
        protocol = protocols.find_protocol(target.protocol)
        if isinstance(backbone, RandomWeights) and protocol.trains:
            # Without pretraining, each seed also has random weights of its own.
            backbone = RandomWeights(seed)
        needed = {
            name: self.plan_measurement(arm, earlier, fraction, seed, backbone)
            for name, earlier in protocol.plan_needed(target).items()
        }
        name, test, needs = self.find_sets(target)
        content = {
            "version": MEASUREMENT_VERSION,
            "model": self.model,
            "target": {
                field: value
                for field, value in target.items()
                if field not in COUNTING_FIELDS and (field not in SILENT_VALUES or value != SILENT_VALUES[field])
            },
            "fraction": fraction,
            # On all labels a protocol that trains nothing draws nothing.
            "seed": seed if protocols.is_random(target, fraction) else None,
            "patience": self.config.patience if protocol.trains else None,
            "data": self.describe_target(name, test, needs),
            "backbone": backbone.content(),
            **{name: earlier.artifact.key for name, earlier in needed.items()},
        }
        share = f"{100 * fraction:g}pct"
        label = re.sub(r"[/:(),>]+-?", "-", f"{self.name_target(target)}-{share}-seed{seed}")
        artifact = Artifact(artifacts.MEASUREMENTS, label, keys.to_json(content))
        return PlannedMeasurement(
            artifact=artifact,
            arm=arm,
            target=FrozenConfigDict(target),
            name=self.name_target(target),
            set=name,
            test_set=test,
            fraction=fraction,
            seed=seed,
            start=backbone,
            needed=needed,
        )

    @functools.cache  # noqa: B019
    def describe_target(self, name: str, test: str, needs: data.Needs) -> dict[str, Any]:
        splits = self.datasets.target(name, test, needs)
        found = {"name": name, **{split: opened.fingerprint() for split, opened in splits.items()}}
        return found if test == name else {**found, "test_name": test}


def list_with_needed(target: ConfigDict) -> Iterator[ConfigDict]:
    """A target, and all that must be measured first."""
    yield target
    for earlier in protocols.find_protocol(target.protocol).plan_needed(target).values():
        yield from list_with_needed(earlier)


def check_test_set(train: data.Split, test: data.Split) -> None:
    """Checks that what is learnt from one data set can be measured on another.

    Raises UserError for other classes or findings.
    """
    if (train.class_names, train.kind) != (test.class_names, test.kind):
        raise UserError(
            f"test_data: {test.name} has {_describe_labels(test)}, and {train.name}, from which the target learns, "
            f"{_describe_labels(train)}; both must have the same, in the same order"
        )


def _describe_labels(split: data.Split) -> str:
    kind = {"class": "the classes", "findings": "the findings", "none": "no labels"}[split.kind]
    return " ".join([kind, ", ".join(split.class_names)]).strip()
