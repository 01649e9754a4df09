"""The tree of the orders that a search tried, as inline SVG.

A node is a stage, and the way to it from the start is an order. A line is the wider, the more its task gains; a dashed
line loses. The best order is marked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from aiseeme_jax.search.findings import Node

COLUMN, ROW, MARGIN, LABEL = 190, 26, 16, 172
NARROWEST, WIDEST = 0.8, 9.0
# More nodes than this are not drawn: the picture shows the way to the best.
MOST_NODES = 80

Order = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    x: float
    y: float


def draw_tree(nodes: Sequence[Node], best: Order, label: str) -> Markup:
    """Draws the nodes of one length of stages, the best of them if there are too many."""
    shown = choose_nodes(nodes, best)
    places = place_nodes(list(shown.values()))
    largest = max((abs(node.gain) for node in shown.values() if node.gain is not None), default=0.0) or 1.0
    lines, marks = [], []
    for order, node in shown.items():
        tone = "tone-curriculum" if order == best[: len(order)] else "tone-scratch"
        place = places[order]
        if order:
            lines.append(_draw_line(places[order[:-1]], place, node, largest, tone))
        marks.append(_draw_node(place, node, tone))
    width = MARGIN + COLUMN * max(map(len, shown)) + LABEL
    height = 2 * MARGIN + ROW * (1 + max(round((place.y - MARGIN) / ROW) for place in places.values()))
    parts = "".join([*lines, *marks])
    return Markup(
        f'<svg class="tree" viewBox="0 0 {width} {height}" style="max-width:{width}px;min-width:{width * 3 // 4}px" '
        f'role="img" aria-label="{escape(label)}">{parts}</svg>'
    )


def choose_nodes(nodes: Sequence[Node], best: Order) -> dict[Order, Node]:
    """The nodes that are drawn, by their orders: the best order, then the best ones, each with all that it begins with.

    The start is always among them, also if it belongs to another length of stages.
    """
    known = {node.order: node for node in nodes}
    known.setdefault((), Node((), 1.0, None, None, 0.0))
    ranked = sorted(known, key=lambda order: (order != best, known[order].value is None, -(known[order].value or 0)))
    chosen: dict[Order, None] = {(): None}
    for order in ranked:
        new = [order[:count] for count in range(1, len(order) + 1) if order[:count] not in chosen]
        if len(chosen) + len(new) <= MOST_NODES:
            chosen |= dict.fromkeys(new)
    return {order: known[order] for order in chosen}


def place_nodes(nodes: Sequence[Node]) -> dict[Order, Place]:
    """Places: a column for each length, a row for each order that is not extended, siblings by their scores."""
    children: dict[Order, list[Node]] = {}
    for node in nodes:
        if node.order:
            children.setdefault(node.order[:-1], []).append(node)
    places: dict[Order, Place] = {}
    rows = 0

    def place(order: Order) -> float:
        nonlocal rows
        below = sorted(children.get(order, ()), key=lambda node: (node.value is None, -(node.value or 0)))
        if below:
            ys = [place(node.order) for node in below]
            # Beside its first child, so that the best way is a straight line.
            y = ys[0]
        else:
            y = MARGIN + ROW / 2 + ROW * rows
            rows += 1
        places[order] = Place(MARGIN + COLUMN * len(order), y)
        return y

    place(())
    return places


def _draw_line(start: Place, end: Place, node: Node, largest: float, tone: str) -> str:
    gain = node.gain or 0.0
    width = NARROWEST + (WIDEST - NARROWEST) * abs(gain) / largest
    dashes = ' stroke-dasharray="5 4"' if gain < 0 else ""
    middle = (start.x + 60 + end.x) / 2
    path = f"M{start.x},{start.y} C{middle},{start.y} {middle},{end.y} {end.x},{end.y}"
    return f'<path class="{tone}" d="{path}" stroke-width="{width:.1f}"{dashes}/>'


def _draw_node(place: Place, node: Node, tone: str) -> str:
    name = node.order[-1] if node.order else "start"
    value = "" if node.value is None and not node.order else f" {_format(node)}"
    title = f"{' > '.join(node.order) or 'start'}{value}"
    return (
        f'<g class="{tone}"><title>{escape(title)}</title><circle cx="{place.x}" cy="{place.y}" r="4.5"/>'
        f'<text x="{place.x + 9}" y="{place.y - 5}">{escape(name)}'
        f'<tspan class="value">{escape(value)}</tspan></text></g>'
    )


def _format(node: Node) -> str:
    return "diverged" if node.value is None else f"{node.value:.3f}"
