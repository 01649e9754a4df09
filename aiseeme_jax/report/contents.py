"""What lies in a workdir, read and put in order, and what should lie there and does not."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.protocols import seeds_for
from aiseeme_jax.store import records

# Of the intervals computed here, where there is no config to say.
BOOTSTRAP = {"samples": 1000, "seed": 0}


@dataclass(frozen=True)
class Stage:
    """One stage of one arm.

    Attributes:
      done: its record, or None while it is not finished.
      metrics: the objects of metrics.jsonl, in order of the steps.
      views: sample views as PNG, or None.
    """

    arm: str
    task: str
    done: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    views: bytes | None

    @property
    def title(self) -> str:
        if self.arm == "curriculum":
            return self.task
        return self.arm if self.arm.startswith("single:") else f"{self.arm}: {self.task}"


@dataclass(frozen=True)
class Contents:
    """Everything the report shows.

    Attributes:
      config: of config.json, empty if there is none.
      arms: curriculum first, then as the config or results.csv lists them.
      targets: in the order of the config.
      missing: sentences about what is not there yet.
    """

    config: dict[str, Any]
    arms: list[str]
    targets: list[str]
    rows: list[results.Row]
    runs: list[results.Run]
    stages: list[Stage]
    missing: list[str]

    @property
    def data(self) -> str:
        return self.config["data"]["name"] if self.config else "unknown data set"

    @property
    def title(self) -> str:
        return (self.config and self.config["title"]) or self.data

    @property
    def statistics(self) -> dict[str, int]:
        return self.config["statistics"] if self.config else BOOTSTRAP

    @property
    def synthetic(self) -> bool:
        return bool(self.config) and self.config["data"]["synthetic"]

    def fractions_of(self, target: str) -> list[float]:
        """The shares of the labels a target was measured with, the smallest first."""
        return sorted({row.fraction for row in self.rows if row.target == target})

    def fraction_of(self, target: str) -> float | None:
        """The largest share of the labels a target was measured with."""
        return max(self.fractions_of(target), default=None)

    def runs_of(self, arm: str, target: str, fraction: float | None = None) -> list[results.Run]:
        """The runs on a share of the labels, the largest unless told otherwise, one per seed."""
        fraction = self.fraction_of(target) if fraction is None else fraction
        return [run for run in self.runs if (run.arm, run.target, run.fraction) == (arm, target, fraction)]


def read_contents(workdir: Path) -> Contents:
    """Reads a workdir. ValueError names the file, and the line if it has lines, of what is damaged."""
    if not workdir.is_dir():
        raise FileNotFoundError(f"there is no workdir at '{workdir}'")
    config = _read_json(workdir / "config.json") or {}
    rows = _rows(workdir, config)
    arms = list(dict.fromkeys([*_planned_arms(config), *(row.arm for row in rows)]))
    planned = [target["protocol"] for target in config["targets"]] if config else []
    targets = list(dict.fromkeys([*planned, *(row.target for row in rows)]))
    stages = list(_stages(workdir, config, arms))
    return Contents(
        config=config,
        arms=sorted(arms, key=lambda arm: arm != "curriculum"),
        targets=targets,
        rows=rows,
        runs=results.find_runs(workdir, arms),
        stages=stages,
        missing=_missing(config, arms, rows, stages),
    )


def _rows(workdir: Path, config: dict[str, Any]) -> list[results.Row]:
    """The rows of results.csv; where it is not there, those of the predictions."""
    if (workdir / results.RESULTS).exists():
        return results.read_rows(workdir)
    statistics = config["statistics"] if config else BOOTSTRAP
    rows = []
    for run in results.find_runs(workdir, list(_planned_arms(config))):
        rows += results.rows_of(run, results.load_predictions(run.directory), **statistics)
    return rows


def _planned_arms(config: dict[str, Any]) -> Iterator[str]:
    if not config:
        return
    if config["job"] == "evaluate":
        yield "init"
        return
    if config["stages"] or not config["curricula"]:
        yield "curriculum"
    yield from config["curricula"]
    for name in config["baselines"]:
        if name == "single":
            yield from (f"single:{stage['task']}" for stage in config["stages"])
        else:
            yield name


def _stages(workdir: Path, config: dict[str, Any], arms: list[str]) -> Iterator[Stage]:
    for position, stage in enumerate(config["stages"] if config else ()):
        directory = records.stage_directory(workdir, "curriculum", position, stage["task"])
        yield _read_stage("curriculum", directory)
    for arm in arms:
        if arm != "curriculum":
            found = records.stages_directory(workdir, arm).glob("[0-9][0-9]-*")
            yield from (_read_stage(arm, directory) for directory in sorted(found))


def _read_stage(arm: str, directory: Path) -> Stage:
    views = directory / "views.png"
    return Stage(
        arm=arm,
        task=directory.name.partition("-")[2],
        done=_read_json(directory / records.DONE),
        metrics=_read_metrics(directory / "metrics.jsonl"),
        views=views.read_bytes() if views.exists() else None,
    )


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    records = []
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            # A killed run leaves its last line half-written; anywhere else it is damage.
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is damaged: {error}") from error
    return [record for record in records if "warning" not in record]


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _missing(config: dict[str, Any], arms: list[str], rows: list[results.Row], stages: list[Stage]) -> list[str]:
    if not config:
        return ["There is no config.json: nothing was started in this folder."]
    missing = []
    for stage in stages:
        if stage.done is None:
            at = f"at step {stage.metrics[-1]['step']}" if stage.metrics else "not begun"
            missing.append(f"Stage {stage.title} is not finished ({at}).")
    for target in config["targets"]:
        for fraction in target["fractions"]:
            missing += _unmeasured(target, fraction, arms, rows)
    return missing


def _unmeasured(target: dict[str, Any], fraction: float, arms: list[str], rows: list[results.Row]) -> Iterator[str]:
    """Sentences about the arms a target lacks on a share of the labels; those that lack the same seeds share one."""
    protocol = target["protocol"]
    measured = {(row.arm, row.seed) for row in rows if (row.target, row.fraction) == (protocol, fraction)}
    seeds = tuple(seeds_for(protocol, fraction, target["seeds"]))
    lacking: dict[tuple[int, ...], list[str]] = {}
    for arm in arms:
        lacking.setdefault(tuple(seed for seed in seeds if (arm, seed) not in measured), []).append(arm)
    lacking.pop((), None)
    for absent, of in lacking.items():
        which = "" if absent == seeds else f" with seed {' or '.join(map(str, absent))}"
        whom = "any arm" if of == arms else ", ".join(of)
        yield f"No results of {protocol} on {in_words(fraction)}{which} for {whom}."
