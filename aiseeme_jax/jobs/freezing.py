"""Makes a plain curriculum of what a joint stage or a bandit arrived at.

    python -m aiseeme_jax freeze runs/bandit frozen.py [ARM]
    python launch.py --config=frozen.py --workdir=OTHER_WORKDIR

Neighbouring intervals in which a bandit chose the same member become a stage of that member, with heads of its own, a
warm-up that is shorter in the same proportion, and the schedule over its own steps. A joint stage gets its mean weights
as fixed weights. ARM is 'curriculum' unless another one is named.
"""

import argparse
import os
import pprint
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiseeme_jax.curriculum.arms import CURRICULUM
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.search.best_order import to_values
from aiseeme_jax.search.imports import explain_unknown, write_imports
from aiseeme_jax.store import artifacts, records, workdirs
from aiseeme_jax.store.keys import shorten

Values = dict[str, Any]

TEMPLATE = '''"""The curriculum that was found in '{workdir}', arm '{arm}', as plain stages:

{tasks}.

    python launch.py --config={path} --workdir=OTHER_WORKDIR
"""

{imports}

VALUES = {values}


def get_config():
    return base.from_values(VALUES)
'''


def main(arguments: list[str]) -> None:
    """Writes the file, and prints its stages."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax freeze", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("file", type=Path, help="the config file to write")
    parser.add_argument("arm", nargs="?", default=CURRICULUM)
    options = parser.parse_args(arguments)
    if options.file.exists():
        raise UserError(f"'{options.file}' exists already: name a new file")
    values = freeze(options.workdir, options.arm)
    tasks = ", ".join(stage["task"] for stage in values["stages"])
    text = TEMPLATE.format(
        workdir=options.workdir,
        arm=options.arm,
        tasks=textwrap.fill(tasks, width=119),
        path=options.file,
        imports=write_imports(values["stages"]),
        values=pprint.pformat(values, sort_dicts=False, width=100),
    )
    records.write_text(options.file, text)
    print(f"{options.file}: {len(values['stages'])} stages: {tasks}")
    if missing := explain_unknown(values["stages"]):
        print(missing)


def freeze(workdir: Path, arm: str = CURRICULUM) -> Values:
    """The values of a config whose stages are what the stages of an arm arrived at.

    Raises MissingFile for a folder in which no run was begun. Raises UserError for an unknown arm, for a stage that is
    not finished, for an arm without a stage that has members, and for distillation beside a bandit.
    """
    plan, config = workdirs.read_plan(workdir), workdirs.read_config(workdir)
    if plan is None or not config:
        raise MissingFile(f"no run was begun in '{workdir}': it lacks {workdirs.PLAN} or {workdirs.CONFIG}")
    config = to_values(config)
    stages = config["stages"] if arm == CURRICULUM else config["curricula"].get(arm)
    entries = [entry.stages for entry in plan.arms if entry.name == arm]
    if stages is None or not entries:
        known = [CURRICULUM] * bool(config["stages"]) + list(config["curricula"])
        raise UserError(f"'{arm}' is no curriculum of '{workdir}': there are {', '.join(known)}")
    store = workdirs.open_store(workdir, plan)
    found = [_read_record(store, entry) for entry in entries[0]]
    if not any("pacing" in record for record in found):
        raise UserError(f"'{arm}' in '{workdir}' has no stage 'joint' or 'bandit': there is nothing to freeze")
    _check_distillation(stages)
    if any(value is not None for value in config["budget"].values()):
        # What the budget made of their lengths.
        stages = [_with_length(stage, entry.steps, 1.0) for stage, entry in zip(stages, entries[0], strict=True)]
    frozen = [made for stage, record in zip(stages, found, strict=True) for made in freeze_stage(stage, record)]
    # Arms that are made of the old stages are gone.
    return {
        **config,
        "stages": tuple(frozen),
        "curricula": {},
        "baselines": tuple(name for name in config["baselines"] if name in ("scratch", "imagenet")),
        "budget": dict.fromkeys(config["budget"]),
        "runtime": {**config["runtime"], "store": os.path.abspath(store.root)},
    }


def freeze_stage(stage: Values, record: Mapping[str, Any]) -> Iterator[Values]:
    """The plain stages of a stage with members; any other stage as it is."""
    if "tuning" in record:
        # What the search has found, with the length that the budget made of it.
        stage = {**stage, **to_values(record["tuning"]["fields"]), "tuning": {**stage["tuning"], "auto": ()}}
    pacing = record.get("pacing")
    if pacing is None:
        yield stage
    elif pacing["kind"] == "joint":
        weights = {"name": "fixed", "factors": dict(zip(pacing["members"], pacing["mean"], strict=True))}
        yield {**stage, "fields": {**stage["fields"], "weights": weights}}
    else:
        # The runs say when the bandit ended.
        alone = {**stage, "stop": {**stage["stop"], "proxy": {}, "seconds": None}}
        for name, steps in pacing["runs"]:
            yield _with_length({**alone, **stage["fields"]["members"][name]}, steps, steps / record["steps"])


def _with_length(stage: Values, steps: int, share: float) -> Values:
    """A stage of so many steps, whose warm-up has this share of its length."""
    warmup = {
        unit: value if value is None or share == 1 else value * share if unit == "epochs" else int(value * share)
        for unit, value in stage["schedule"]["warmup"].items()
    }
    length = {"epochs": None, "steps": steps, "examples": None}
    return {**stage, "duration": length, "schedule": {**stage["schedule"], "warmup": warmup}}


def _read_record(store: artifacts.Store, entry: workdirs.StageEntry) -> Mapping[str, Any]:
    directory = store.find(artifacts.STAGES, shorten(entry.key))
    record = directory and artifacts.read_record(directory)
    if not record:
        raise UserError(f"the stage {entry.label} is not finished: start its run again, and then freeze")
    return record


def _check_distillation(stages: Sequence[Values]) -> None:
    """Raises UserError for distillation in a curriculum whose stages get other positions and predecessors."""
    distilled = [stage["task"] for stage in stages if stage["distill"].get("kind") != "none"]
    if distilled and any(stage["task"] == "bandit" for stage in stages):
        raise UserError(
            f"{distilled[0]} is distilled, and the stages of a bandit come between it and its teacher: set its "
            "`distill` to none, run that, and then freeze"
        )
