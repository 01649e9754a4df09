"""How arms are told apart in figures: by a colour, a mark and a dash each, so that none of them is needed.

A style class, the tone, stands for all three. Colours are in `style.html.jinja`. Marks and dashes are here, and the
pages take them from here too, for their legends.
"""

import math
from collections.abc import Sequence

TONES = 8
# Arms whose tone is the same on every page.
CURRICULUM, SCRATCH = "tone-curriculum", "tone-scratch"

Corners = Sequence[tuple[float, float]]


def _star(points: int, inner: float, turned: float = 0.0) -> Corners:
    """Corners of a star of radius 1 around 0; `inner` is the radius between its points, `turned` a part of a turn."""
    turns = [turned + place / (2 * points) for place in range(2 * points)]
    radii = [1.0, inner] * points
    return [
        (radius * math.sin(2 * math.pi * turn), -radius * math.cos(2 * math.pi * turn))
        for radius, turn in zip(radii, turns, strict=True)
    ]


def _polygon(points: int, turned: float = 0.0) -> Corners:
    return _star(points, math.cos(math.pi / points), turned)


# Tone -> corners of its mark, x to the right and y downwards, from -1 to 1.
MARKS: dict[str, Corners] = {
    CURRICULUM: _polygon(16),
    SCRATCH: _polygon(4, 1 / 8),
    "tone-0": _polygon(3),
    "tone-1": _polygon(4),
    "tone-2": _polygon(3, 1 / 2),
    "tone-3": _star(4, 0.35),
    "tone-4": _star(5, 0.4),
    "tone-5": _star(4, 0.35, 1 / 8),
    "tone-6": [(-0.9, -0.9), (0.9, -0.9), (-0.9, 0.9), (0.9, 0.9)],
    "tone-7": [(-0.9, -0.9), (-0.9, 0.9), (0.9, -0.9), (0.9, 0.9)],
}
# Tone -> lengths of dashes and of what is between them; '' for a whole line.
DASHES: dict[str, str] = {
    CURRICULUM: "",
    SCRATCH: "6 3",
    "tone-0": "2 2",
    "tone-1": "8 3 2 3",
    "tone-2": "11 3",
    "tone-3": "4 2",
    "tone-4": "1 3",
    "tone-5": "8 3 2 3 2 3",
    "tone-6": "12 3 5 3",
    "tone-7": "5 5",
}


def draw_mark(tone: str, x: float, y: float, radius: float) -> str:
    """The mark of a tone as SVG."""
    # A tone of a later round ('tone-3 round-1') has the mark of the first.
    corners = MARKS[tone.split()[0]]
    path = " ".join(f"{x + radius * right:.1f},{y + radius * down:.1f}" for right, down in corners)
    return f'<polygon class="mark" points="{path}"/>'


def clip_key(tone: str) -> str:
    """The mark of a tone as a CSS polygon, for a legend."""
    return ", ".join(f"{50 + 50 * right:.0f}% {50 + 50 * down:.0f}%" for right, down in MARKS[tone])
