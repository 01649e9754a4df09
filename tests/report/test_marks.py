"""Arms are told apart by more than a colour."""

import re

import numpy as np
import pytest

from aiseeme_jax.report import charts, marks
from aiseeme_jax.report.templates import load_template

NAMES = ["curriculum", "scratch", *(f"arm {i}" for i in range(20))]


def test_every_tone_has_a_mark_and_a_dash_of_its_own():
    shapes = {tone: tuple(np.round(corners, 3).reshape(-1)) for tone, corners in marks.MARKS.items()}
    assert len(set(shapes.values())) == len(set(marks.DASHES.values())) == marks.TONES + 2
    assert set(marks.MARKS) == set(marks.DASHES) and all(np.abs(c).max() <= 1.001 for c in marks.MARKS.values())
    tones = [charts.choose_tone(name, NAMES) for name in NAMES[:18]]
    assert len(set(tones)) == 18 and tones[2] == "tone-0" and tones[10] == "tone-0 round-1"
    style = load_template("style.html.jinja").render()
    for tone in marks.MARKS:
        assert f".key.{tone} {{ clip-path: polygon(" in style
    assert style.count("polyline { stroke-dasharray") == len(marks.MARKS) - 1


@pytest.mark.parametrize("ranges", [(), [(np.nan, np.nan)] * 25])
def test_lines_that_must_be_told_apart_have_marks(ranges):
    xs = list(range(25))
    lines = [
        charts.Line(charts.choose_tone(name, NAMES), xs, [i + x for x in xs], ranges)
        for i, name in enumerate(NAMES[:4])
    ]
    lines.append(charts.Line(charts.PLAIN, [0, 24], [0, 24]))
    drawn = charts.draw_lines(lines, label="", x_label="")
    counts = [len(re.findall('class="mark"', part)) for part in drawn.split("<g class=")[1:]]
    assert counts == [25 if ranges else 5] * 4 + [0]
    alone = charts.draw_lines([lines[0], lines[-1]], label="", x_label="")
    assert alone.count('class="mark"') == (25 if ranges else 0)
