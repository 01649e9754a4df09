"""What a config asks a study to do: its variants, each with several pretraining seeds, as configs of runs."""

import copy
import itertools
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax.curriculum.arms import SINGLE, Arm, list_arms
from aiseeme_jax.curriculum.checks import name_in_errors
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import results
from aiseeme_jax.store import keys
from aiseeme_jax.study.fields import set_field, split_path

# Fields that a variant must not change, and why.
FIXED = {
    "seed": "the pretraining seeds are study.seeds",
    "study": "a study is no part of a variant",
    "job": "every variant is a curriculum",
    "title": "no result depends on it",
    "statistics": "all variants have the same",
    "runtime": "no result depends on it",
    "targets": "all variants have the same targets; name the fields of one, as in targets[0].endpoint",
}


@dataclass(frozen=True)
class Variant:
    """Changes of the config of a study.

    Attributes:
      name: '' for the config as it is, if nothing varies.
      x: its place on the axis of a figure; None if it has none.
      changes: field -> value.
    """

    name: str
    x: float | None
    changes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class StudyRun:
    """A variant with one pretraining seed, as the config of a run."""

    variant: Variant
    seed: int
    config: ConfigDict

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.variant.name, f"seed {self.seed}")))


@dataclass(frozen=True, eq=False)
class Study:
    """A study.

    Attributes:
      variants: in the order of the config.
      seeds: of the pretrainings.
      runs: every variant with every seed.
      arms: names, in the order of the config.
      targets: names in the config without changes, by their position.
      reference: the arm that others are compared with; '' if the best single task is chosen on validation images.
      candidates: the arms among which it is chosen.
      reference_variant: the variant that others are compared with; '' if variants are not compared.
      axis: what varies, for the figure.
    """

    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    runs: tuple[StudyRun, ...]
    arms: tuple[str, ...]
    targets: tuple[str, ...]
    reference: str
    candidates: tuple[str, ...]
    reference_variant: str
    axis: str

    @property
    def numeric(self) -> bool:
        """Whether all variants have a place on the axis."""
        return len(self.variants) > 1 and all(variant.x is not None for variant in self.variants)


def read_study(config: ConfigDict) -> Study:
    """Reads and checks the fields of a study; each run is checked when it is planned.

    Raises UserError that names the field.
    """
    if "study" not in config:
        raise UserError("job 'study' needs the fields of a study: begin the config file with base.get_study_config()")
    seeds = read_seeds(config.study.seeds)
    variants = read_variants(config.study.vary)
    runs = [make_run(config, variant, seed) for variant in variants for seed in seeds]
    check_variants(runs[:: len(seeds)])
    for run in runs:
        with name_variant(run.variant):
            check_stage_seeds(run.config, seeds)
    arms = {run.variant.name: list_arms(run.config) for run in runs}
    names = tuple(dict.fromkeys(arm.name for found in arms.values() for arm in found))
    reference, candidates = choose_reference(config, arms)
    known = [variant.name for variant in variants if variant.name]
    if config.study.reference_variant not in ("", *known):
        raise UserError(
            f"study.reference_variant is '{config.study.reference_variant}'; there are {', '.join(known) or 'none'}"
        )
    return Study(
        variants=variants,
        seeds=seeds,
        runs=tuple(runs),
        arms=names,
        targets=tuple(results.name_target(target, config.data.name) for target in config.targets),
        reference=reference,
        candidates=candidates,
        reference_variant=config.study.reference_variant,
        axis=config.study.axis or _name_axis(variants),
    )


def read_seeds(given: Any) -> tuple[int, ...]:
    """The pretraining seeds. Raises UserError unless there are some, each once, whole and not negative."""
    seeds = tuple(given)
    whole = bool(seeds) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if len(set(seeds)) < len(seeds) or not whole:
        raise UserError(f"study.seeds are {seeds}; there must be some, each once, whole and not negative")
    return seeds


def read_variants(given: Any) -> tuple[Variant, ...]:
    """The variants, or a single one without changes. Raises UserError for a name or a field that cannot be."""
    variants = []
    for one in given:
        if not isinstance(one, ConfigDict):
            raise UserError('study.vary: write base.variants({"1 %": {"data.share": 0.01}, …}) in the config file')
        variants.append(Variant(one.name, one.x, dict(one.changes)))
        with name_variant(variants[-1]):
            if not one.name.strip():
                raise UserError("a variant needs a name")
            if one.x is not None and not math.isfinite(one.x):
                raise UserError(f"x is {one.x}; it must be a number, or None")
            for field in variants[-1].changes:
                parts = split_path(field)
                # Fields of a target may change; the tuple of targets may not.
                if parts[0] in FIXED and (parts[0] != "targets" or len(parts) < 3):
                    raise UserError(f"'{field}' cannot vary: {FIXED[parts[0]]}")
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"study.vary: two variants have the name '{twice}'")
    return tuple(variants) or (Variant("", None, {}),)


def make_run(config: ConfigDict, variant: Variant, seed: int) -> StudyRun:
    """The config of a run. Raises UserError for a field that does not exist, or a value of another type."""
    made = copy.deepcopy(config)
    with name_variant(variant):
        for field, value in variant.changes.items():
            set_field(made, field, value)
    with made.unlocked():
        del made["study"]
        made.job, made.seed = "curriculum", seed
    return StudyRun(variant, seed, made.lock())


def check_variants(runs: list[StudyRun]) -> None:
    """Raises UserError if two variants give the same config.

    Args:
      runs: one of each variant.
    """
    for one, other in itertools.combinations(runs, 2):
        if keys.to_json(one.config) == keys.to_json(other.config):
            raise UserError(f"study.vary: '{one.variant.name}' and '{other.variant.name}' are the same; leave one out")


def check_stage_seeds(config: ConfigDict, seeds: tuple[int, ...]) -> None:
    """Raises UserError for a stage with a seed of its own, on which the seeds of the study have no effect."""
    named = {"stages": config.stages, **{f"curricula.{name}": stages for name, stages in config.curricula.items()}}
    for field, stages in named.items():
        for position, stage in enumerate(stages):
            if stage.seed is not None and len(seeds) > 1:
                raise UserError(
                    f"{field}[{position}] ({stage.task}) has a seed of its own, so that study.seeds change nothing: "
                    "set its seed to None"
                )


def choose_reference(config: ConfigDict, arms: Mapping[str, tuple[Arm, ...]]) -> tuple[str, tuple[str, ...]]:
    """The arm that the others are compared with, or '' and the arms among which it is chosen on validation images.

    It is `study.reference`; else the best of the single tasks, if these are trained for as many images as the
    curriculum; else the first baseline; else the first arm.

    Args:
      arms: of each variant.

    Raises UserError if a variant has no such arm.
    """
    common = [arm.name for arm in next(iter(arms.values()))]
    common = [name for name in common if all(name in [arm.name for arm in found] for found in arms.values())]
    if not common:
        raise UserError("study.vary: the variants have no arm in common")
    if config.study.reference:
        if config.study.reference not in common:
            raise UserError(f"study.reference is '{config.study.reference}'; the arms are {', '.join(common)}")
        return config.study.reference, ()
    first = {arm.name: arm for arm in next(iter(arms.values()))}
    singles = tuple(name for name in common if first[name].single and first[name].total_budget)
    if len(singles) > 1:
        return "", singles
    baselines = [name for name in common if name in config.baselines or name.startswith(f"{SINGLE}:")]
    return next(iter([*singles, *baselines, *common])), ()


def _name_axis(variants: tuple[Variant, ...]) -> str:
    """The field that varies, if all variants change one and the same."""
    fields = {field for variant in variants for field in variant.changes}
    return next(iter(fields)) if len(fields) == 1 else ""


def name_variant(variant: Variant) -> AbstractContextManager[None]:
    """Puts the variant before the message of an error."""
    return name_in_errors(f"study.vary '{variant.name}'") if variant.name else nullcontext()
