"""Writes the results of each arm to TensorBoard and the other writers: one run for each arm, so that arms compare.

A metric has one tag, whatever the arm, and is drawn over the percent of the labels.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aiseeme_jax import report
from aiseeme_jax.report.contents import Contents, read_contents
from aiseeme_jax.store import records
from aiseeme_jax.training import writers

# Folder in the workdir, with one for each arm.
FOLDER = "tensorboard"
CONFIG = "config"
# Identifies what was written last, and with which writers.
WRITTEN = "written.txt"


def write_arms(workdir: Path) -> None:
    """Writes the results of every arm of a workdir, and its config, unless that was done before.

    What TensorBoard and Weights & Biases had of them is replaced. What could not be written is written the next time.
    Only the first process writes.
    """
    if jax.process_index():
        return
    contents = read_contents(workdir)
    runs: dict[str, dict[str, Any]] = {
        CONFIG: {"texts": {CONFIG: f"```json\n{json.dumps(contents.config, indent=2)}\n```"}}
    }
    for arm in contents.measured_arms():
        runs[arm] = {"hparams": describe_arm(contents, arm), "points": average_results(contents, arm)}
    note = workdir / FOLDER / WRITTEN
    digest = hashlib.sha256(json.dumps([writers.list_used(), runs]).encode()).hexdigest()
    if note.exists() and note.read_text() == digest:
        return
    note.unlink(missing_ok=True)
    folders = {title: workdir / FOLDER / title.replace("/", "_").replace(":", "_") for title in runs}
    if all([write_run(folders[title], title, **content) for title, content in runs.items()]):
        records.write_text(note, digest)


def write_run(
    folder: Path,
    title: str,
    *,
    texts: dict[str, str] | None = None,
    hparams: dict[str, Any] | None = None,
    points: dict[int, dict[str, float]] | None = None,
) -> bool:
    """Writes one run anew, and returns whether every writer in use has all of it."""
    opened = writers.open_writers(folder, title, start_step=0)
    for writer in opened:
        if hparams:
            writer.write_hparams(hparams)
        for percent, scalars in sorted((points or {}).items()):
            writer.write_scalars(percent, scalars)
        if texts:
            writer.write_texts(0, texts)
        writer.close()
    lost = any(isinstance(writer, writers.QueuedWriter) and writer.lost for writer in opened)
    return len(opened) == len(writers.list_used()) and not lost


def average_results(contents: Contents, arm: str) -> dict[int, dict[str, float]]:
    """Means over the seeds of the main metrics of an arm: percent of the labels -> 'linear/auroc' -> value."""
    found: dict[int, dict[str, list[float]]] = {}
    for row in contents.rows:
        if row.arm == arm and row.metric in report.HEADLINE:
            tags = found.setdefault(round(100 * row.fraction), {})
            tags.setdefault(f"{row.target}/{row.metric}", []).append(row.value)
    return {percent: {tag: float(np.mean(values)) for tag, values in tags.items()} for percent, tags in found.items()}


def describe_arm(contents: Contents, arm: str) -> dict[str, Any]:
    """What an arm was made with, as numbers and texts."""
    config, stages = contents.config, contents.stages_of[arm]
    settings = [stage.made_from.get("fields", {}) for stage in stages]
    rates = [fields["optimizer"]["learning_rate"] for fields in settings if "optimizer" in fields]
    return {
        "arm": arm,
        "tasks": " → ".join(stage.task for stage in stages) or "none",
        "stages": len(stages),
        "model": config["model"]["name"],
        "width": config["model"]["width"],
        "data": contents.data,
        "learning rates": ", ".join(str(rate) for rate in rates) or "none",
    }
