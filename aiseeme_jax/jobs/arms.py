"""The networks of finished workdirs: the last backbone of every arm, beside networks with random weights."""

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from aiseeme_jax import augment, models, seeds, weights
from aiseeme_jax.curriculum.costs import Cost, read_pretraining_cost
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.search.best_order import to_values
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.keys import shorten

# Two of them: how alike they are is what pixels and architecture alone give.
RANDOM_SEEDS = (0, 1)
SEED_AT_THE_END = re.compile(r", seed (\d+)$")
# Fields of a config that change neither the stages nor what they are trained on.
ASIDE = ("title", "seed", "runtime", "targets", "statistics", "search", "study", "job", "checksum", "baselines")


@dataclass(frozen=True)
class Arm:
    """An arm whose last stage is finished.

    Attributes:
      name: as it is shown; with several workdirs that of its workdir is before it.
      plain: its name in its workdir, without a seed.
      seed: of its pretraining.
      recipe: what else its config says of its training.
      folder: of its last stage.
      cost: of its pretraining.
    """

    name: str
    plain: str
    seed: int
    recipe: str
    folder: Path
    cost: Cost = Cost()


def list_arms(folders: Sequence[Path], patterns: Sequence[str] = ("*",)) -> tuple[list[Arm], list[str]]:
    """The arms of workdirs, and the names of those that are not finished. A backbone that several share counts once.

    Raises MissingFile for a folder in which no run was begun. Raises UserError if a pattern names no arm, or if none of
    the arms has a finished stage.
    """
    found: dict[Path, Arm] = {}
    known, missing = [], []
    for folder in folders:
        plan, config = read_workdir(folder)
        store = workdirs.open_store(folder, plan)
        recipe = json.dumps({name: value for name, value in config.items() if name not in ASIDE}, sort_keys=True)
        for entry in plan.arms:
            name = f"{folder.resolve().name}: {entry.name}" if len(folders) > 1 else entry.name
            known.append(name)
            # The name in the workdir is enough, also where it is shown behind that of the workdir.
            if not entry.stages or not any(fnmatch.fnmatch(text, p) for p in patterns for text in (name, entry.name)):
                continue
            stage = store.find(artifacts.STAGES, shorten(entry.stages[-1].key))
            if stage is None or not artifacts.read_record(stage):
                missing.append(name)
                continue
            ending = SEED_AT_THE_END.search(entry.name)
            seed = int(ending[1]) if ending else int(config["seed"])
            plain, cost = SEED_AT_THE_END.sub("", entry.name), read_pretraining_cost(store, entry)
            found.setdefault(stage.resolve(), Arm(name, plain, seed, recipe, stage, cost))
    unused = [p for p in patterns if not any(fnmatch.fnmatch(n, p) or fnmatch.fnmatch(n, f"*: {p}") for n in known)]
    if unused:
        raise UserError(f"no arm '{unused[0]}': there are {', '.join(known)}")
    if not found:
        raise UserError("none of these arms has a finished last stage: run their config to the end first")
    return list(found.values()), missing


def read_workdir(folder: Path) -> tuple[workdirs.WorkdirPlan, dict[str, Any]]:
    """Plan and config of a workdir. Raises MissingFile if no run was begun in it."""
    plan, config = workdirs.read_plan(folder), workdirs.read_config(folder)
    if plan is None or not config:
        raise MissingFile(f"no run was begun in '{folder}': it lacks {workdirs.PLAN} or {workdirs.CONFIG}")
    return plan, config


def load_networks(arms: Sequence[Arm], config: Mapping[str, Any]) -> dict[str, nnx.Module]:
    """The backbones of arms, and two with the model of a config and random weights, by their names."""
    found = {arm.name: weights.load_backbone(arm.folder)[0] for arm in arms}
    for seed in RANDOM_SEEDS:
        rngs = nnx.Rngs(seeds.derive(seed, "backbone"))
        found[name_random(seed)] = models.make_backbone(**config["model"], rngs=rngs)
    return found


def name_random(seed: int) -> str:
    return f"random weights, seed {seed}"


def list_ceilings(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Pairs of arms that differ in nothing but the seed of their pretraining."""
    return [
        (one.name, other.name)
        for place, one in enumerate(arms)
        for other in arms[place + 1 :]
        if (one.plain, one.recipe) == (other.plain, other.recipe) and one.seed != other.seed
    ]


def find_views(config: Mapping[str, Any], name: str) -> augment.AnyViews:
    """The views with which a config measures a data set: those of its first target on it, or of a search's proxy.

    Raises UserError if it measures nothing on that data set.
    """
    measured = [*config["targets"], *([config["search"]["proxy"]] if config["job"] == "search" else [])]
    for fields in measured:
        if (fields["data"] or config["data"]["name"]) == name:
            return augment.views_of(to_values(fields["views"]))
    own = sorted({fields["data"] or config["data"]["name"] for fields in measured})
    raise UserError(
        f"the config of the first workdir measures nothing on '{name}', so it has no views for it: take --data with "
        f"one of {', '.join(own) or 'none'}, or name a workdir that measures it first"
    )
