"""Values with their intervals as dots on one axis, a row for each, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from aiseeme_jax.report.charts import choose_ticks, make_scale
from aiseeme_jax.report.marks import draw_mark

WIDTH, ROW, TOP, BOTTOM, RIGHT = 480, 17, 8, 24, 14
# Width of a letter, with which the space for names is estimated.
LETTER, LONGEST = 6.2, 34


@dataclass(frozen=True)
class Dot:
    """A row; `low` and `high` are NaN where there is no interval."""

    name: str
    tone: str
    value: float
    low: float
    high: float


def draw_dots(dots: Sequence[Dot], *, label: str) -> Markup:
    """Draws a row for each value that is finite."""
    dots = [dot for dot in dots if math.isfinite(dot.value)]
    if not dots:
        return Markup("")
    ends = [x for dot in dots for x in (dot.value, dot.low, dot.high) if math.isfinite(x)]
    ticks = choose_ticks(min(ends), max(ends))
    left = 10 + LETTER * min(LONGEST, max(len(dot.name) for dot in dots))
    height = TOP + ROW * len(dots) + BOTTOM
    scale = make_scale([*ends, *(tick for tick, _ in ticks)], left, WIDTH - RIGHT)
    parts = []
    for value, text in ticks:
        x = scale(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text x="{x}" y="{height - 8}" text-anchor="middle">{text}</text>')
    parts += [_draw_row(dot, scale, TOP + ROW * (row + 0.5), left) for row, dot in enumerate(dots)]
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>')


def _draw_row(dot: Dot, scale, y: float, left: float) -> str:
    name = dot.name if len(dot.name) <= LONGEST else f"{dot.name[: LONGEST - 1]}…"
    parts = [f'<text x="{left - 8}" y="{y}" dy="0.35em" text-anchor="end">{escape(name)}</text>']
    if math.isfinite(dot.low) and math.isfinite(dot.high):
        parts.append(f'<line class="whisker" x1="{scale(dot.low)}" x2="{scale(dot.high)}" y1="{y}" y2="{y}"/>')
    parts.append(draw_mark(dot.tone, scale(dot.value), y, 4.2))
    return f'<g class="{dot.tone}"><title>{escape(dot.name)}</title>{"".join(parts)}</g>'
