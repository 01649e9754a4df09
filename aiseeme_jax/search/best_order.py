"""Writes the best order of a search as a config file that `launch.py` runs."""

import os
import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax.search.imports import write_imports
from aiseeme_jax.search.planning import name_order
from aiseeme_jax.search.trials import Order
from aiseeme_jax.store import records

FILE = "best_order.py"
TEMPLATE = '''"""The best order of a search: {order}.

    python launch.py --config={path} --workdir=OTHER_WORKDIR

{sentences}

The stages lie in the store of the search, so that only what is new is trained: the baselines, and the measurements on
test images, which the search never opened.
"""

{imports}

VALUES = {values}


def get_config():
    return base.from_values(VALUES)
'''


def write_best_order(workdir: Path, config: ConfigDict, order: Order, sentences: Sequence[str], store: Path) -> None:
    """Writes best_order.py. Only the first process writes."""
    values = {name: to_values(config[name]) for name in config if name != "search"}
    values |= {"job": "curriculum", "stages": tuple(to_values(config.search.pool[name]) for name in order)}
    values["curricula"] = {}
    values["runtime"] |= {"store": os.path.abspath(store)}
    text = TEMPLATE.format(
        order=name_order(order),
        path=workdir / FILE,
        sentences="\n".join(sentences),
        imports=write_imports(values["stages"]),
        values=pprint.pformat(values, sort_dicts=False, width=100),
    )
    records.write_text(workdir / FILE, text)


def to_values(node: Any) -> Any:
    """The plain values of a config: dictionaries, tuples, numbers and text."""
    if isinstance(node, ConfigDict):
        return {name: to_values(node[name]) for name in node}
    if isinstance(node, Mapping):
        return {name: to_values(value) for name, value in node.items()}
    return tuple(map(to_values, node)) if isinstance(node, tuple | list) else node
