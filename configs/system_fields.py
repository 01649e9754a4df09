"""Fields of a target that is a supervised system. `docs/systems.md` explains the systems."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax.curriculum import protocols
from aiseeme_jax.evaluate.measurement import SHARED_FIELDS
from configs.nodes import change, common_fields, duration, training


def system_fields(protocol: str, changes: dict[str, Any], target: Callable[[str], ConfigDict]) -> dict[str, Any]:
    """The fields of a system, beside its views and those that every target has.

    Args:
      protocol: name of the system.
      changes: as `target` gets them. Those of fields under `system` and `earlier` are taken from it.
      target: makes the target of another protocol with the same views.

    Raises UserError for an unknown protocol, AttributeError that names an unknown field.
    """
    made = protocols.find_protocol(protocol)
    system = ConfigDict(dataclasses.asdict(made.settings()))
    own = {name: changes.pop(name) for name in list(changes) if name in system}
    earlier = {
        name: _without_shared(changes.pop(name, None) or target(needed)) for name, needed in made.earlier.items()
    }
    return {
        # Added to the name of the target in results, to tell one target of a system from another.
        "label": "",
        **({**training(), "duration": duration(epochs=50)} if made.trains else {}),
        **common_fields(made.common, changes),
        "system": change(system, own),
        **({"earlier": ConfigDict(earlier).lock()} if earlier else {}),
    }


def _without_shared(target: ConfigDict) -> ConfigDict:
    """A target as it stands under `earlier` of another one, on whose images and labels it is measured."""
    fields = {name: value for name, value in target.items() if name not in (*SHARED_FIELDS, "label")}
    return ConfigDict(fields).lock()
