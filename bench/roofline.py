"""How fast a step could be: operations and bytes of a compiled program, and what a card can do of each in a second."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card can do in a second, as its maker says.

    Attributes:
      operations: floating-point operations of matrix products in bfloat16, without sparsity.
      bytes: read from or written to its memory.
    """

    operations: float
    bytes: float


# By a pattern of the name that the driver gives; the first that fits counts. H100 and H200 SXM were compared with
# NVIDIA's data sheets, the others were not: compare yours before you quote a share of its limit.
CARDS = (
    (r"B200", Card(2250e12, 8000e9)),
    (r"GH200", Card(989e12, 4000e9)),
    (r"H200 NVL", Card(835e12, 4800e9)),
    (r"H200", Card(989e12, 4800e9)),
    (r"H100 NVL", Card(835e12, 3900e9)),
    (r"H100 PCIe", Card(756e12, 2000e9)),
    (r"H100", Card(989e12, 3350e9)),
    (r"A100.*SXM.*80GB", Card(312e12, 2039e9)),
    (r"A100.*80GB", Card(312e12, 1935e9)),
    (r"A100", Card(312e12, 1555e9)),
    (r"L40S", Card(362e12, 864e9)),
    (r"L4\b", Card(121e12, 300e9)),
    (r"A40\b", Card(149.7e12, 696e9)),
    (r"A10\b", Card(125e12, 600e9)),
    (r"RTX 4090", Card(165.2e12, 1008e9)),
)

SIZES = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2, "c64": 8, "c128": 16}
# Their results are views of other results, or take no time.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id")
SCRATCH = re.compile(r"\bu8\[\d+\]")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


def find_card(kind: str) -> Card | None:
    """The card of a name such as 'NVIDIA H100 80GB HBM3', or None if the table has none."""
    return next((card for pattern, card in CARDS if re.search(pattern, kind)), None)


def describe(operations: float, moved: float, images: int, speed: float, card: Card | None) -> tuple[str, ...]:
    """Cells of a table, of one program.

    Args:
      operations, moved: operations and bytes of a step.
      images: in a step.
      speed: measured images per second.

    Returns GFLOP an image, MB an image, the speed at the card's limit with which of the two limits it, and the share of
    it that was reached. For an unknown card, the last two are '–'.
    """
    cells = (show_number(operations / images / 1e9), show_number(moved / images / 1e6))
    if card is None:
        return (*cells, "–", "–")
    seconds = {"operations": operations / card.operations, "bytes": moved / card.bytes}
    what = max(seconds, key=seconds.get)
    limit = images / seconds[what]
    return (*cells, f"{limit:.0f} ({what})", f"{speed / limit:.0%}")


def show_number(number: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def count_operations(jaxpr: Any) -> float:
    """Floating-point operations of products and convolutions in a program. A multiplication with an addition is two.

    What meets padding, or the zeros between the values of a strided convolution's gradient, is not counted. A loop
    whose length is not known counts once, and of several branches the largest counts.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    needed, total = set(map(id, jaxpr.outvars)), 0.0
    for equation in reversed(jaxpr.eqns):
        # The compiler leaves out what nobody uses.
        if equation.effects or needed & set(map(id, equation.outvars)):
            needed |= set(map(id, equation.invars))
            total += _count(equation)
    return total


def _count(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _count_convolution(equation)
    inside = [count_operations(found) for value in params.values() for found in _programs(value)]
    if name == "cond":
        return max(inside, default=0.0)
    return sum(inside) * (params["length"] if name == "scan" else 1)


def _programs(value: Any) -> Iterator[Any]:
    """The programs in a parameter of an equation."""
    for one in value if isinstance(value, tuple | list) else (value,):
        if hasattr(one, "eqns") or hasattr(getattr(one, "jaxpr", None), "eqns"):
            yield one


def _count_convolution(equation: Any) -> float:
    params = equation.params
    numbers = params["dimension_numbers"]
    left, kernel = (variable.aval.shape for variable in equation.invars)
    result = equation.outvars[0].aval.shape
    batch, features, *space = numbers.out_spec
    met = 1.0
    for number, axis in enumerate(space):
        side = left[numbers.lhs_spec[2 + number]]
        window = np.arange(kernel[numbers.rhs_spec[2 + number]]) * params["rhs_dilation"][number]
        starts = np.arange(result[axis]) * params["window_strides"][number] - params["padding"][number][0]
        places, apart = starts[:, None] + window, params["lhs_dilation"][number]
        met *= int(np.sum((places >= 0) & (places <= (side - 1) * apart) & (places % apart == 0)))
    return 2.0 * met * result[batch] * result[features] * kernel[numbers.rhs_spec[1]]


def count_bytes(text: str) -> float:
    """Bytes that the operations of a compiled program read and write, from its text.

    Each operation (a fusion is one) reads its inputs once and writes its results once. So it is an estimate: an
    operation may read a part of an input only, and caches are not known. A loop whose length the compiler does not know
    counts once, and of several branches the largest counts.
    """
    computations: dict[str, list[tuple[str, str, str, str]]] = {}
    entry = name = ""
    for line in text.splitlines():
        begun = COMPUTATION.match(line)
        if begun:
            name = begun[2]
            entry = name if begun[1] else entry
            computations[name] = []
        elif found := INSTRUCTION.match(line):
            computations[name].append(found.groups())
    return _count_computation(entry, computations)


def _count_computation(name: str, computations: dict[str, list[tuple[str, str, str, str]]]) -> float:
    sizes = {instruction: _size(kind) for instruction, kind, _, _ in computations[name]}
    total = 0.0
    for instruction, kind, operation, rest in computations[name]:
        operands, _, attributes = rest.partition(")")
        if operation in ("call", "while", "conditional"):
            called = re.findall(r"(?:to_apply|body|_computation)=%?([\w.\-]+)", attributes)
            called += [n for s in re.findall(r"branch_computations=\{([^}]*)\}", attributes) for n in _names(s)]
            count = re.search(r'known_trip_count":\{"n":"(\d+)"', attributes)
            inside = max((_count_computation(one, computations) for one in called), default=0.0)
            total += inside * (int(count[1]) if count else 1)
        elif operation.endswith("-start"):
            # Its result holds its inputs, too.
            total += sizes[instruction]
        elif operation == "custom-call" and kind.startswith("("):
            # A library says how much it may use as scratch space, and not how much of it it writes.
            result = _size(SCRATCH.sub("", kind))
            total += result + sum(sizes.get(operand, 0.0) for operand in _names(operands))
        elif operation not in FREE and not operation.endswith("-done"):
            total += sizes[instruction] + sum(sizes.get(operand, 0.0) for operand in _names(operands))
    return total


def _names(text: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", text)


def _size(kind: str) -> float:
    """Bytes of an array, or of a tuple of arrays, as the text of a program writes its type."""
    return sum(
        _item_size(element) * math.prod(int(side) for side in sides.split(",") if side)
        for element, sides in ARRAY.findall(kind)
    )


def _item_size(element: str) -> float:
    bits = re.search(r"\d+", element)
    return SIZES[element] if element in SIZES else int(bits[0]) / 8 if bits else 0
