"""Line charts as inline SVG. Colours come from the page's style, so that they follow light and dark."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from aiseeme_jax.curriculum.arms import CURRICULUM, SCRATCH
from aiseeme_jax.report.contents import Contents, Stage
from aiseeme_jax.report.estimates import Estimates
from aiseeme_jax.report.marks import TONES, draw_mark
from aiseeme_jax.report.tables import title_with_metric

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 10, 34
# Arms whose colour is the same on every page.
NAMED_TONES = (CURRICULUM, SCRATCH)
POINTS = 200
# Marks on a line whose points have none; the style class of a line that is no arm's, and has no mark.
MARKED, PLAIN = 5, "tone-line"
# Parts of a bandit's stage in which steps are counted.
PACED = 20

# From a value to a place in the picture.
Scale = Callable[[float], float]
# Values with the texts that are written beside them.
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """One line; `ranges` are (low, high) of each point, drawn as whiskers."""

    tone: str
    xs: Sequence[float]
    ys: Sequence[float]
    ranges: Sequence[tuple[float, float]] = ()


def choose_tone(arm: str, arms: Sequence[str]) -> str:
    """The style class of an arm: curriculum in the accent, scratch in grey, others each in a colour.

    Where there are more arms than colours, the marks of the later ones are hollow and their lines thin.
    """
    if arm in NAMED_TONES:
        return f"tone-{arm}"
    return name_tone([name for name in arms if name not in NAMED_TONES].index(arm))


def name_tone(place: int) -> str:
    """The style class of one of several things that have no tone of their own."""
    return f"tone-{place % TONES}" + (" round-1" if place >= TONES else "")


def draw_losses(contents: Contents) -> list[tuple[Stage, Markup]]:
    """The loss of each stage over its steps."""
    found = []
    for stage in contents.stages:
        points = [(r["step"], r["loss"]) for r in stage.metrics if r.get("loss") is not None]
        if len(points) > 1:
            xs, ys = _thin(points)
            line = Line(choose_tone(stage.arm, contents.arms), xs, ys)
            found.append((stage, draw_lines([line], label=f"Loss of {stage.title} over steps", x_label="step")))
    return found


def draw_pacing(contents: Contents) -> list[tuple[Stage, list[tuple[str, str]], Markup]]:
    """What each stage with members arrived at, over its steps, with the tones and names of its members: the weights of
    a joint stage, the shares of the steps of a bandit.
    """
    found = []
    for stage in contents.stages:
        pacing = (stage.record or {}).get("pacing")
        if pacing:
            xs, rows = _share_steps(pacing) if pacing["kind"] == "bandit" else (pacing["until"], pacing["weights"])
            tones = [(name_tone(i), name) for i, name in enumerate(pacing["members"])]
            lines = [Line(tone, xs, [row[i] for row in rows]) for i, (tone, _) in enumerate(tones)]
            what = "Share of steps" if pacing["kind"] == "bandit" else "Weight"
            label = f"{what} of each member of {stage.title}"
            found.append((stage, tones, draw_lines(lines, label=label, x_label="share of the stage")))
    return found


def _share_steps(pacing: Mapping[str, Any]) -> tuple[list[float], list[list[float]]]:
    """Ends of equal parts of a bandit's stage, as shares of it, and in each the share of the steps of each member."""
    chosen = np.concatenate([np.full(steps, pacing["members"].index(name)) for name, steps in pacing["runs"]])
    parts = np.array_split(chosen, max(1, min(PACED, len(chosen) // pacing["interval"])))
    ends = np.cumsum([len(part) for part in parts]) / len(chosen)
    shares = [[float(np.mean(part == i)) for i in range(len(pacing["members"]))] for part in parts]
    return ends.tolist(), shares


def draw_tuning(contents: Contents) -> dict[str, tuple[list[tuple[str, str]], Markup]]:
    """Scores of the shortest trials over the learning rate, a line for each batch size with its tone, by the title of
    the stage. Stages whose learning rate was not searched, or of whose shortest trials none has a score, are left out.
    """
    found = {}
    for stage in contents.stages:
        trials = ((stage.record or {}).get("tuning") or {}).get("trials", ())
        shortest = min((trial["share"] for trial in trials), default=None)
        scored = [trial for trial in trials if trial["share"] == shortest and trial["value"] is not None]
        if len({trial["learning_rate"] for trial in scored}) > 1:
            batches = sorted({trial["batch_size"] for trial in scored})
            tones = {batch: name_tone(place) for place, batch in enumerate(batches)}
            lines = [_make_tuning_line(scored, batch, tone) for batch, tone in tones.items()]
            label = f"Score of the shortest trials of {stage.title} over the learning rate"
            chart = draw_lines(lines, label=label, x_label="learning rate", x_ticks=_choose_rates(scored))
            found[stage.title] = [(tone, f"batches of {batch}") for batch, tone in tones.items()], chart
    return found


def _make_tuning_line(trials: Sequence[Mapping[str, Any]], batch: int, tone: str) -> Line:
    """Scores over the logarithm of the learning rate, with whiskers of a standard error."""
    of_batch = sorted((t for t in trials if t["batch_size"] == batch), key=lambda t: t["learning_rate"])
    errors = [math.nan if t["error"] is None else t["error"] for t in of_batch]
    ys = [t["value"] for t in of_batch]
    ranges = [(y - error, y + error) for y, error in zip(ys, errors, strict=True)]
    return Line(tone, [math.log10(t["learning_rate"]) for t in of_batch], ys, ranges)


def _choose_rates(trials: Sequence[Mapping[str, Any]]) -> Ticks:
    """The smallest and the largest learning rate, and that in the middle of their logarithms."""
    rates = [trial["learning_rate"] for trial in trials]
    low, high = math.log10(min(rates)), math.log10(max(rates))
    return [(x, f"{10**x:.2g}") for x in (low, (low + high) / 2, high)]


def draw_fractions(estimates: Estimates) -> list[tuple[str, Markup]]:
    """The main metric over the share of labels, for each target that was measured with several, under its title."""
    found = []
    for target in estimates.contents.targets:
        fractions = estimates.contents.fractions_of(target)
        lines = _make_lines(estimates, target, fractions) if len(fractions) > 1 else []
        if any(line.ys for line in lines):
            ticks = [(math.log10(f), f"{100 * f:g} %") for f in fractions]
            title = title_with_metric(estimates, target)
            label, chance = f"{title} over share of labels", estimates.chance(target)
            chart = draw_lines(lines, label=label, x_label="labels", x_ticks=ticks, chance=chance)
            found.append((title, chart))
    return found


def _make_lines(estimates: Estimates, target: str, fractions: Sequence[float]) -> list[Line]:
    """A line for each arm: the main metric of a target over the logarithm of the share of the labels."""
    arms, metric = estimates.contents.arms, estimates.main_metric(target)
    lines = []
    for place, arm in enumerate(arms):
        cells = [(f, estimates.estimate(arm, target, f, metric)) for f in fractions]
        cells = [(f, cell) for f, cell in cells if cell]
        # Side by side, so that the whiskers of one share do not lie on each other.
        nudge = 1.03 ** (place - (len(arms) - 1) / 2)
        xs = [math.log10(f * nudge) for f, _ in cells]
        ranges = [(c.low, c.high) for _, c in cells]
        lines.append(Line(choose_tone(arm, arms), xs, [c.value for _, c in cells], ranges))
    return lines


def _thin(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Xs and ys of at most POINTS points, each the mean of neighbours."""
    parts = np.array_split(np.array(points, float), min(POINTS, len(points)))
    return [part[:, 0].mean() for part in parts], [part[:, 1].mean() for part in parts]


def draw_lines(
    lines: Sequence[Line], *, label: str, x_label: str, x_ticks: Ticks | None = None, chance: float | None = None
) -> Markup:
    """Draws lines with their whiskers over one pair of axes.

    Args:
      label: of the picture, for those who do not see it.
      x_ticks: values with their texts; by default round values.
      chance: a value of y that is drawn as a level and named.
    """
    ends = [end for line in lines for pair in line.ranges for end in pair if math.isfinite(end)]
    ys = [y for line in lines for y in line.ys] + ends + ([] if chance is None else [chance])
    xs = [x for line in lines for x in line.xs]
    y_ticks = choose_ticks(min(ys), max(ys))
    if x_ticks is None:
        x_ticks = [t for t in choose_ticks(min(xs), max(xs)) if t[0] <= max(xs)]
    x_scale = make_scale([*xs, *(t for t, _ in x_ticks)], LEFT, WIDTH - RIGHT)
    y_scale = make_scale([*ys, *(t for t, _ in y_ticks)], HEIGHT - BOTTOM, TOP)
    parts = [draw_axes(x_scale, y_scale, x_ticks, y_ticks, x_label)]
    parts += [] if chance is None else [_draw_chance(y_scale(chance))]
    several = sum(line.tone != PLAIN for line in lines) > 1
    parts += [_draw_line(line, x_scale, y_scale, place if several else None) for place, line in enumerate(lines)]
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def _draw_chance(y: float) -> str:
    """A dashed level from axis to axis, with its name above its end."""
    level = f'<line class="chance" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{level}<text x="{WIDTH - RIGHT}" y="{y - 3:.1f}" text-anchor="end">chance</text>'


def draw_axes(x_scale: Scale, y_scale: Scale, x_ticks: Ticks, y_ticks: Ticks, x_label: str) -> str:
    """Grid lines with their values, and the ticks of x with its label."""
    parts = []
    for value, text in y_ticks:
        y = y_scale(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="0.35em" text-anchor="end">{text}</text>')
    for value, text in x_ticks:
        parts.append(f'<text x="{x_scale(value)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)


def _draw_line(line: Line, x_scale: Scale, y_scale: Scale, number: int | None) -> str:
    """A line with its marks: at each point that has a range, else at a few places that differ from line to line.

    Args:
      number: of the line; None if no other line has to be told from it.
    """
    places = [(x_scale(x), y_scale(y)) for x, y in zip(line.xs, line.ys, strict=True)]
    joined = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline points="{joined}"/>']
    for (x, y), (low, high) in zip(places, line.ranges, strict=False):
        parts.append(draw_mark(line.tone, x, y, 3.4))
        if math.isfinite(low) and math.isfinite(high):
            parts.append(f'<line class="whisker" x1="{x}" x2="{x}" y1="{y_scale(low)}" y2="{y_scale(high)}"/>')
    if number is not None and not line.ranges and line.tone != PLAIN:
        apart = max(1, len(places) // MARKED)
        parts += [draw_mark(line.tone, x, y, 3.4) for x, y in places[number * 2 % apart :: apart]]
    return f'<g class="{line.tone}">{"".join(parts)}</g>'


def make_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """From values to places: the lowest value is put at `start`, the highest at `end`."""
    low, high = min(values), max(values)
    span = high - low or 1.0
    return lambda value: round(start + (end - start) * (value - low) / span, 1)


def choose_ticks(low: float, high: float) -> Ticks:
    """Three to six round values that span `low` to `high`, with their texts."""
    span = high - low or max(abs(high), 1.0)
    raw = span / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    count = math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9)
    values = [round((math.floor(low / step + 1e-9) + i) * step, 10) for i in range(count + 1)]
    decimals = max(len(f"{value:.6g}".partition(".")[2]) for value in values)
    return [(value, f"{value:,.{decimals}f}") for value in values]
