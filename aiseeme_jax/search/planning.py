"""Plans trials: each is an arm whose stages are found by their keys, so that orders share what they begin with."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import models
from aiseeme_jax.curriculum.budgets import scale_stage
from aiseeme_jax.curriculum.datasets import DataSets, find_set
from aiseeme_jax.curriculum.pieces import PlannedArm, PlannedScore, Start
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.curriculum.scores import describe_proxy
from aiseeme_jax.search.trials import START, Order, Trial
from aiseeme_jax.store import artifacts, keys
from aiseeme_jax.store.artifacts import Artifact

# Increase it when a change of the code changes scores.
SCORE_VERSION = 1


class TrialPlanner:
    """Plans the trials of a search: their stages, and a score of the backbone after the last."""

    def __init__(self, config: ConfigDict, datasets: DataSets):
        self.config, self.datasets = config, datasets
        self.proxy, self.set = FrozenConfigDict(config.search.proxy), find_set(config, config.search.proxy)
        self.checked: set[str] = set()

    def plan(self, trials: Iterable[Trial], seed: int | None = None) -> dict[Trial, PlannedArm]:
        """Plans trials.

        Args:
          seed: in the place of that of the run.

        Raises UserError or MissingFile for stages that cannot be trained.
        """
        named = {name_trial(trial, seed): trial for trial in trials}
        stages = {name: self.make_stages(trial) for name, trial in named.items() if trial != START}
        found: dict[Trial, PlannedArm] = {}
        if START in named.values():
            found[START] = self.plan_start(name_trial(START, seed))
        if stages:
            plan = make_plan(self.make_config(stages, seed), self.datasets, checked=self.checked)
            found |= {named[arm.name]: self.with_score(arm) for arm in plan.arms}
        return found

    def plan_start(self, name: str) -> PlannedArm:
        """The start of all orders, which is scored without training."""
        first = next(iter(self.config.search.pool))
        plan = make_plan(
            self.make_config({first: self.make_stages(Trial((first,)))}, None), self.datasets, checked=self.checked
        )
        return self.with_score(PlannedArm(name, (), (), plan.arms[0].stages[0].start, ()))

    def make_config(self, curricula: Mapping[str, tuple[ConfigDict, ...]], seed: int | None) -> ConfigDict:
        """The config of a run that trains these curricula and nothing else."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.job, config.stages, config.targets, config.baselines = "curriculum", (), (), ()
            config.curricula = ConfigDict(dict(curricula))
            config.seed = self.config.seed if seed is None else seed
        return config

    def make_stages(self, trial: Trial) -> tuple[ConfigDict, ...]:
        """The stages of a trial."""
        return tuple(scale_stage(self.config.search.pool[name], trial.share) for name in trial.order)

    def with_score(self, arm: PlannedArm) -> PlannedArm:
        """The arm with the score of its backbone."""
        score = self.plan_score(arm.name, arm.backbone)
        return PlannedArm(arm.name, arm.stages, arm.fishers, arm.backbone, (), (score,))

    def plan_score(self, arm: str, backbone: Start) -> PlannedScore:
        content = {
            "version": SCORE_VERSION,
            "model": models.describe_model(self.config.model),
            **self.describe_proxy,
            "backbone": backbone.content(),
        }
        label = getattr(getattr(backbone, "artifact", None), "label", "start")
        artifact = Artifact(artifacts.SCORES, f"{self.proxy.proxy}-{label}", keys.to_json(content))
        return PlannedScore(artifact, arm, self.proxy, self.set, backbone)

    @functools.cached_property
    def describe_proxy(self) -> dict[str, Any]:
        return describe_proxy(self.config, self.proxy, self.datasets)


def name_trial(trial: Trial, seed: int | None = None) -> str:
    """A trial in log and records: 'rotation > simclr', with its share of the length and its seed where they differ."""
    parts = [name_order(trial.order)]
    if trial.share != 1:
        parts.append(f"{100 * trial.share:.0f} % of its length")
    if seed is not None:
        parts.append(f"seed {seed}")
    return ", ".join(parts)


def name_order(order: Order) -> str:
    """An order in words."""
    return " > ".join(order) or "start"
