"""Which parameters of a task belong to which of its parts."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from aiseeme_jax.task import Part, Task


def split_parameters(params: nnx.State, parts: Sequence[Part]) -> tuple[nnx.State, dict[str, nnx.State]]:
    """The parameters that no part owns, and those of each part by its name."""
    if not parts:
        return params, {}
    *owned, main = nnx.split_state(params, *map(_is_owned, parts), ...)
    return main, dict(zip((part.name for part in parts), owned, strict=True))


def join_parameters(main: nnx.State, owned: dict[str, nnx.State]) -> nnx.State:
    """What `split_parameters` has split."""
    return nnx.merge_state(main, *owned.values())


def select_parameters(params: nnx.State, part: Part) -> tuple[nnx.State, nnx.State]:
    """The parameters of one part, and all others."""
    return nnx.split_state(params, _is_owned(part), ...)


def check_parts(task: Task, parts: Sequence[Part], params: nnx.State) -> None:
    """Raises ValueError unless names differ, updates are counted from 1, and each part owns parameters of its own."""
    title = type(task).__name__
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise ValueError(f"{title}: two parts have one name: {', '.join(names)}")
    for part in parts:
        if part.updates < 1 or part.every < 1:
            raise ValueError(f"{title}: part '{part.name}': `updates` and `every` must be at least 1")
        for attribute in part.attributes:
            selected = Part(part.name, (attribute,))
            if not jax.tree.leaves(select_parameters(params, selected)[0]):
                raise ValueError(f"{title}: part '{part.name}' owns '{attribute}', which has no parameters")
        for other in parts:
            shared = jax.tree.leaves(select_parameters(select_parameters(params, part)[0], other)[0])
            if other is not part and shared:
                raise ValueError(f"{title}: parts '{part.name}' and '{other.name}' own the same parameters")


def _is_owned(part: Part) -> Callable[[tuple, Any], bool]:
    names = [attribute.split(".") for attribute in part.attributes]
    return lambda path, _: any(list(map(str, path))[: len(name)] == name for name in names)
