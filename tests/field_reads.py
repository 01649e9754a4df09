"""Which fields of a config a program reads, told by the nodes that they are fields of."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import ml_collections
from ml_collections import ConfigDict

from aiseeme_jax.store import workdirs

# A field by all names of its node, which tell the node from others, and by its own name.
Field = tuple[frozenset[str], str]

LIBRARY = ml_collections.__name__


class RecordedDict(dict):
    """A node of `config.json` that notes what is read of it."""

    def __init__(self, node: dict[str, Any], reads: set[Field]):
        super().__init__({name: _wrap(value, reads) for name, value in node.items()})
        self.reads = reads

    def __iter__(self) -> Iterator[str]:
        # With an `__iter__` of its own, `**node` reads by `__getitem__`.
        return super().__iter__()

    def __getitem__(self, name: str) -> Any:
        self.reads.add((frozenset(self), name))
        return super().__getitem__(name)


def _wrap(value: Any, reads: set[Field]) -> Any:
    if isinstance(value, dict):
        return RecordedDict(value, reads)
    return [_wrap(child, reads) for child in value] if isinstance(value, list) else value


@contextlib.contextmanager
def recorded() -> Iterator[set[Field]]:
    """Gives the fields that are read in the context, of configs and of `config.json`.

    What ml_collections itself does (a copy, a conversion to JSON) is no reading, nor is what a function does whose name
    begins with `check`: a field that is only checked changes nothing.
    """
    reads: set[Field] = set()

    def note(method):
        def call(node, name, *default):
            caller = sys._getframe(1)
            module, function = caller.f_globals["__name__"], caller.f_code.co_name
            if not module.startswith(LIBRARY) and not function.startswith("check"):
                reads.add((frozenset(node.keys()), name))
            return method(node, name, *default)

        return call

    patches = [mock.patch.object(ConfigDict, name, note(getattr(ConfigDict, name))) for name in READERS]
    read_config = workdirs.read_config
    patches.append(mock.patch.object(workdirs, "read_config", lambda workdir: _wrap(read_config(workdir), reads)))
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield reads


READERS = ("__getattr__", "__getitem__", "get")
