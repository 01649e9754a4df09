"""What the pretraining of an arm cost: it stands beside every score."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiseeme_jax.pretext.pacing import Joint
from aiseeme_jax.report.contents import Contents, Stage
from aiseeme_jax.training.display import duration


@dataclass(frozen=True)
class Cost:
    """What a pretraining cost, searches of learning rates included. NaN where a record does not tell.

    Attributes:
      images: shown in all stages; a joint stage shows each image to every member.
      device_seconds: seconds times devices, restarts included.
    """

    images: float
    device_seconds: float

    @property
    def words(self) -> tuple[str, str]:
        """Images and time of one device, as a table shows them."""
        images = "–" if math.isnan(self.images) else f"{self.images:,.0f}"
        if not self.device_seconds:
            return images, "0 s"
        return images, "–" if math.isnan(self.device_seconds) else duration(self.device_seconds)


def sum_costs(contents: Contents) -> dict[str, Cost]:
    """The cost of each arm. Stages that several arms share count in each of them."""
    return {arm: sum_cost(stages) for arm, stages in contents.stages_of.items()}


def sum_cost(stages: Iterable[Stage]) -> Cost:
    """The cost of some stages."""
    found = [measure_cost(stage) for stage in stages]
    return Cost(sum(one.images for one in found), sum(one.device_seconds for one in found))


def measure_cost(stage: Stage) -> Cost:
    """The cost of one stage, with the search of its learning rate and batch size."""
    record = stage.record or {}
    search = record.get("tuning") or {}
    images = record.get("steps", math.nan) * count_shown(stage)
    seconds = record.get("seconds", math.nan) * record.get("devices", 1)
    return Cost(images + search.get("images", 0), seconds + search.get("device_seconds", 0.0))


def count_shown(stage: Stage) -> float:
    """The images that a step shows, as `curriculum.arms.count_images` counts them; NaN if that is not known."""
    fields: Mapping[str, Any] = stage.made_from.get("fields", {})
    batch = ((stage.record or {}).get("tuning") or {}).get("batch_size") or fields.get("batch_size")
    # A batch size that is left to a search has no number in the key.
    if not isinstance(batch, int | float):
        return math.nan
    return batch * (len(fields["fields"]["members"]) if stage.task == Joint.NAME else 1)
