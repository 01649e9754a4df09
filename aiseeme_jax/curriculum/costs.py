"""What work cost: images, device time and energy, as the records in the store tell. It stands beside every score."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiseeme_jax.evaluate.results import COSTS
from aiseeme_jax.pretext.pacing import Joint
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.store.keys import shorten
from aiseeme_jax.training.display import duration

# How tables head `Cost.words` of a pretraining, and `Cost.time` of the measurements.
HEADS = ("Images shown", "Device time", "Energy")
MEASURING = "Time of measuring"
NOT_MEASURED = "not measured"
JOULES_PER_WATT_HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """NaN where a record does not tell.

    Attributes:
      images: shown to the network; a joint stage shows each image to every member.
      device_seconds: seconds times devices, restarts included.
      joules: of processors, memory and GPUs (`training.energy`).
    """

    images: float = 0.0
    device_seconds: float = 0.0
    joules: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.images + other.images,
            self.device_seconds + other.device_seconds,
            self.joules + other.joules,
        )

    @property
    def words(self) -> tuple[str, str, str]:
        """Images, time of one device, and energy, as a table shows them."""
        images = "–" if math.isnan(self.images) else f"{self.images:,.0f}"
        return images, self.time, self.energy

    @property
    def time(self) -> str:
        """Time of one device."""
        if not self.device_seconds:
            return "0 s"
        return "–" if math.isnan(self.device_seconds) else duration(self.device_seconds)

    @property
    def energy(self) -> str:
        """In watt-hours."""
        return NOT_MEASURED if math.isnan(self.joules) else f"{self.joules / JOULES_PER_WATT_HOUR:,.3g} Wh"


def sum_costs(costs: Iterable[Cost]) -> Cost:
    """The sum of some costs; nothing for none."""
    return sum(costs, Cost())


def mean_costs(costs: Iterable[Cost]) -> Cost:
    """The mean of at least one cost, such as of an arm over its pretraining seeds."""
    found = list(costs)
    total = sum_costs(found)
    return Cost(total.images / len(found), total.device_seconds / len(found), total.joules / len(found))


def cost_of_work(record: Mapping[str, Any] | None, images: float = 0.0) -> Cost:
    """What a piece of work cost by its record; without one, its time is not known.

    Args:
      images: that it showed to the network.
    """
    found = record or {}
    # A record of an earlier version does not say on how many devices the work was done, nor how much energy it took.
    return Cost(images, found.get("seconds", math.nan) * found.get("devices", 1), _to_joules(found.get("joules")))


def cost_of_search(record: Mapping[str, Any] | None) -> Cost:
    """What the search of a learning rate and a batch size cost; nothing if there was none."""
    if not record:
        return Cost()
    return Cost(record["images"], record["device_seconds"], _to_joules(record.get("joules")))


def cost_of_stage(record: Mapping[str, Any] | None, made_from: Mapping[str, Any]) -> Cost:
    """What a stage cost, with the search of its learning rate and batch size.

    Args:
      made_from: what its key is made of.
    """
    found = record or {}
    search = found.get("tuning") or {}
    shown = found.get("steps", math.nan) * _count_shown(found.get("task", ""), search, made_from)
    return cost_of_work(found, shown) + cost_of_search(search)


def read_pretraining_cost(store: Store, arm: workdirs.ArmEntry) -> Cost:
    """What the stages of an arm cost, as the plan of its workdir lists them; NaN if one is missing."""
    found = []
    for stage in arm.stages:
        folder = store.find(artifacts.STAGES, shorten(stage.key))
        record, made_from = (artifacts.read_record(folder), artifacts.read_key(folder)) if folder else (None, {})
        found.append(cost_of_stage(record, made_from))
    return sum_costs(found)


def describe_cost(pretraining: Cost, measuring: Cost) -> str:
    """The cost of an arm in one line of a terminal."""
    images, time, energy = pretraining.words
    return f"pretraining {images} images, {time}, energy {energy}; measuring {measuring.time}"


def fill_columns(pretraining: Cost, measuring: Cost) -> dict[str, float]:
    """The columns `results.COSTS` of a table."""
    values = (*dataclasses.astuple(pretraining), measuring.device_seconds, measuring.joules)
    return dict(zip(COSTS, values, strict=True))


def _count_shown(task: str, search: Mapping[str, Any], made_from: Mapping[str, Any]) -> float:
    """The images that a step shows, as `curriculum.arms.count_images` counts them; NaN if that is not known."""
    fields: Mapping[str, Any] = made_from.get("fields", {})
    batch = search.get("batch_size") or fields.get("batch_size")
    # A batch size that is left to a search has no number in the key.
    if not isinstance(batch, int | float):
        return math.nan
    return batch * (len(fields["fields"]["members"]) if task == Joint.NAME else 1)


def _to_joules(stored: float | None) -> float:
    return math.nan if stored is None else stored
