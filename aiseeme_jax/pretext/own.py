"""Tasks of a user's own file: what `register` asks of them, and the text of their code, which belongs to their keys."""

import ast
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from aiseeme_jax.errors import UserError
from aiseeme_jax.task import Task

# Top-level packages and modules whose classes have a version of their own.
LIBRARIES = ("aiseeme_jax", "flax", "typing", "abc")
ARGUMENTS = ("self", "backbone", "spec", "setting")


def check_task(task: type[Task]) -> None:
    """Raises UserError unless a class can be a task: its name, its constructor and its loss."""
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"register takes a class that derives from aiseeme_jax.task.Task, not {task!r}")
    name = getattr(task, "NAME", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{task.__name__}.NAME is {name!r}: write a name of lower-case letters, digits and _")
    if task.loss is Task.loss:
        raise UserError(f"{task.__name__} defines no loss: write a method loss(self, views, progress)")
    parameters = inspect.signature(task.__init__).parameters
    plain = tuple(p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)
    fields = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "rngs"]
    if plain != ARGUMENTS or "rngs" not in parameters or any(p.default is p.empty for p in fields):
        raise UserError(
            f"{task.__name__} is made as (backbone, spec, setting, *, …, rngs), where … are the task's fields, each "
            f"with its default, not as {inspect.signature(task.__init__)}"
        )


def find_file(task: type[Task]) -> Path:
    """The file that a class is written in, also if Python has no module of that name."""
    own = [f.__code__.co_filename for f in vars(task).values() if inspect.isfunction(f)]
    module = getattr(sys.modules.get(task.__module__), "__file__", None)
    return Path(own[0] if own else module or task.loss.__code__.co_filename)


def hash_source(task: type[Task]) -> str:
    """Hex SHA-256 of the text of a task's class, and of those of the user's that it derives from.

    Raises UserError if a class is not in a file, or if there is no text at all.
    """
    texts = list(_read_classes(task))
    if not texts:
        raise UserError(
            f"{task.__name__} of the module {task.__module__} has no text that could be in its keys: write the class "
            "into a file of your own, which is named like no module of aiseeme_jax, flax, typing or abc"
        )
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()


def _read_classes(task: type[Task]) -> Iterator[str]:
    for kind in task.__mro__:
        if kind is object or kind.__module__.split(".")[0] in LIBRARIES:
            continue
        files = [Path(f.__code__.co_filename) for f in vars(kind).values() if inspect.isfunction(f)]
        found = [text for file in dict.fromkeys(files) if file.is_file() for text in _find_class(file, kind.__name__)]
        if files and not found:
            raise UserError(f"{kind.__name__} is not in a file: write the class into one and import it from there")
        yield from found[:1]


def _find_class(file: Path, name: str) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            yield ast.get_source_segment(text, node) or ""
