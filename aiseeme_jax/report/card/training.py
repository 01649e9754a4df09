"""The sections of an arm about its network, its stages, and what they cost."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiseeme_jax.curriculum.costs import HEADS, Cost
from aiseeme_jax.report.card.markdown import write_table
from aiseeme_jax.report.contents import Contents, Stage

NOT_RECORDED = "not recorded"


def describe_network(contents: Contents, arm: str) -> str:
    """The network of an arm and what it starts from, in a sentence."""
    stages = contents.stages_of[arm]
    # A variant of a study may have another model than the config that all of them come from.
    model = {**contents.config["model"], **(stages[0].made_from.get("model", {}) if stages else {})}
    kind = "3-D " if model["dimensions"] == 3 else ""
    width = "" if model["width"] == 1 else f" of {model['width']:g} times the usual width"
    size = (stages[0].made_from.get("fields", {}).get("views") or {}).get("size") if stages else None
    side = f", for images of {size} pixels a side" if size else ""
    one_seed = contents.config["job"] != "study" and "seed" in contents.config
    seed = f" The seed of the run is {contents.config['seed']}." if one_seed else ""
    return (
        f"A {kind}{model['name']}{width}, trained in {model['dtype']}{side}. "
        f"It starts from {_describe_start(stages)}.{seed}"
    )


def _describe_start(stages: Sequence[Stage]) -> str:
    start: Mapping[str, Any] = stages[0].made_from.get("start", {}) if stages else {}
    if "file" in start:
        return f"the weights of a file with the SHA-256 {start['file']}"
    return f"random weights (seed {start['random']})" if "random" in start else f"weights that are {NOT_RECORDED}"


def describe_normalisation(stages: Sequence[Stage]) -> str:
    """How images are normalised before the network; '' if the records do not tell."""
    views = stages[-1].made_from.get("fields", {}).get("views") or {}
    if "mean" not in views or "std" not in views:
        return ""
    mean, std = (", ".join(f"{value:g}" for value in views[name]) for name in ("mean", "std"))
    window = views.get("window")
    scaled = f"HU from {window[0]:g} to {window[1]:g} become 0 to 1" if window else "Pixels are scaled to 0 to 1"
    return f"{scaled}, then the mean ({mean}) is subtracted and the result is divided by ({std})."


def write_stages(stages: Sequence[Stage]) -> list[str]:
    """A table of the stages: task, data, distillation, length, cost."""
    rows = []
    for place, stage in enumerate(stages):
        record = stage.record or {}
        data = " + ".join(one["name"] for one in stage.made_from.get("data", []))
        kept = ", ".join(dict.fromkeys(term["kind"] for term in stage.made_from.get("distill", []) if "kind" in term))
        steps = f"{record['steps']:,}" if "steps" in record else NOT_RECORDED
        early = f" (ended early: {record['ended_early']})" if record.get("ended_early") else ""
        seed = str(stage.made_from.get("seed", NOT_RECORDED))
        rows.append(
            (str(place), stage.task, data or NOT_RECORDED, kept or "none", f"{steps}{early}", *stage.cost.words, seed)
        )
    head = "Stage", "Task", "Data", "Distilled by", "Steps", *HEADS, "Seed"
    return write_table(head, rows)


def write_cost(contents: Contents, arm: str) -> Iterator[str]:
    """Lines about images, device-seconds, energy, hardware and versions."""
    stages = contents.stages_of[arm]
    before, measuring = contents.pretraining_cost(arm), contents.measuring_cost(arm)
    images = before.words[0]
    yield f"- Pretraining: {images} images shown, {_write_time(before)}, searches of learning rates included."
    if any(run.arm == arm for run in contents.runs):
        yield f"- Measuring: {_write_time(measuring)}, with the trainings of fine-tuning."
    yield f"- Energy of processors, memory and GPUs: pretraining {before.energy}, measuring {measuring.energy}."
    yield f"- Hardware: {'; '.join(_list_hardware(stages)) or NOT_RECORDED}."
    yield f"- Versions: {'; '.join(_list_versions(stages)) or NOT_RECORDED}."


def _write_time(cost: Cost) -> str:
    seconds = "" if math.isnan(cost.device_seconds) else f" ({cost.device_seconds:,.0f} device-seconds)"
    return f"{cost.time} of one device{seconds}"


def _list_hardware(stages: Sequence[Stage]) -> list[str]:
    """'2 × NVIDIA H200' of each stage, each once."""
    records = [stage.record or {} for stage in stages]
    return list(
        dict.fromkeys(
            f"{one.get('devices', 1)} × {one['made_with']['device']}" for one in records if "made_with" in one
        )
    )


def _list_versions(stages: Sequence[Stage]) -> list[str]:
    records = [stage.record or {} for stage in stages]
    found = [one["made_with"]["versions"] for one in records if "made_with" in one]
    return list(dict.fromkeys(", ".join(f"{name} {version}" for name, version in one.items()) for one in found))
