"""Heat maps and clouds of points as inline SVG. Cells have their numbers, so no reader depends on colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from aiseeme_jax.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, choose_ticks, draw_axes, make_scale

CELL, LETTER, PAD = 30, 6.2, 8
# Longer names are cut: the whole name is in the title of the row.
LONGEST = 44


@dataclass(frozen=True)
class Point:
    """A point with its name; `error` is drawn as a whisker along y."""

    x: float
    y: float
    error: float
    name: str


def draw_heatmap(
    values: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    ends: tuple[float, float] = (1.0, 0.0),
) -> Markup:
    """Draws a matrix as cells of one colour, the fuller the nearer a value is to the first of `ends`.

    Args:
      label: of the picture, for those who do not see it.
      ends: the values with the full colour and without any. What lies beyond them has that of the end.
    """
    left = PAD + LETTER * max(len(_cut(name)) for name in rows)
    top = PAD + LETTER * max(len(_cut(name)) for name in columns)
    parts = [
        f'<text x="{left - 6:.0f}" y="{top + CELL * (i + 0.5):.0f}" dy="0.35em" text-anchor="end">'
        f"<title>{escape(name)}</title>{escape(_cut(name))}</text>"
        for i, name in enumerate(rows)
    ]
    for j, name in enumerate(columns):
        place = f"{left + CELL * (j + 0.5):.0f} {top - 6:.0f}"
        parts.append(
            f'<text transform="translate({place}) rotate(-90)" dy="0.35em"><title>{escape(name)}</title>'
            f"{escape(_cut(name))}</text>"
        )
    for i, row in enumerate(np.asarray(values, float)):
        for j, value in enumerate(row):
            title = f"{rows[i]}, {columns[j]}: {_write(value, 3)}"
            parts.append(_draw_cell(left + CELL * j, top + CELL * i, value, ends, title))
    width, height = left + CELL * len(columns) + PAD, top + CELL * len(rows) + PAD
    return Markup(
        f'<svg class="heat" viewBox="0 0 {width:.0f} {height:.0f}" style="width:{width:.0f}px;max-width:none" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def draw_points(points: Sequence[Point], *, label: str, x_label: str, y_label: str) -> Markup:
    """Draws named points over a pair of axes, with a line at 0 if the values are on both sides of it."""
    ends = [edge for point in points for edge in (point.y - point.error, point.y + point.error)]
    x_ticks, y_ticks = (choose_ticks(min(places), max(places)) for places in ([point.x for point in points], ends))
    x_scale = make_scale([value for value, _ in x_ticks], LEFT, WIDTH - RIGHT)
    y_scale = make_scale([value for value, _ in y_ticks], HEIGHT - BOTTOM, TOP)
    parts = [draw_axes(x_scale, y_scale, x_ticks, y_ticks, x_label)]
    parts += [_draw_point(point, x_scale(point.x), y_scale) for point in points]
    drawn = f'<g class="tone-curriculum">{"".join(parts)}</g>'
    label = f"{label}: {y_label} over {x_label}"
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{drawn}</svg>')


def _draw_point(point: Point, x: float, y_scale) -> str:
    title = f"{point.name}: {point.x:.2f}, {point.y:.3f} ± {point.error:.3f}"
    low, high = y_scale(point.y - point.error), y_scale(point.y + point.error)
    return (
        f'<line class="whisker" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
        f'<circle cx="{x}" cy="{y_scale(point.y)}" r="3"><title>{escape(title)}</title></circle>'
    )


def _draw_cell(x: float, y: float, value: float, ends: tuple[float, float], title: str) -> str:
    full, empty = ends
    share = 0.0 if np.isnan(value) else float(np.clip((value - empty) / (full - empty), 0, 1))
    strong = ' class="strong"' if share > 0.6 else ""
    return (
        f'<g><title>{escape(title)}</title><rect x="{x:.0f}" y="{y:.0f}" width="{CELL}" height="{CELL}" '
        f'style="--share:{100 * share:.0f}%"/><text{strong} x="{x + CELL / 2:.0f}" y="{y + CELL / 2:.0f}" dy="0.35em" '
        f'text-anchor="middle">{_write(value, 2)}</text></g>'
    )


def _write(value: float, digits: int) -> str:
    """'.97', '1', '−.02': without what all values have in common."""
    if np.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    text = text.replace("-", "−") if float(text) else f"{0:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
