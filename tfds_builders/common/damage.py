"""Damaged inputs: left out, listed with their reason, and too many of them fail the preparation at its end.

What makes the whole input unusable (a missing archive, a missing column) is no damage but an error, at once.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MAX_SHARE = 0.001
SHOWN = 5


class DamagedInput(ValueError):
    """One input (image, series, row) cannot be used; the others can."""


class TooMuchDamage(ValueError):
    """More inputs are damaged than is allowed."""


@dataclasses.dataclass(frozen=True)
class Damaged:
    """An input that is left out.

    Attributes:
      path: where it lies: archive and member, table and line.
      reason: what is wrong with it.
      stored: path and reason as they are stored, where those above, which the screen shows, may name a patient.
    """

    path: str
    reason: str
    stored: tuple[str, str] | None = None


def stored(damaged: Iterable[Damaged]) -> list[dict[str, str]]:
    """What a report lists."""
    return [dict(zip(("path", "reason"), item.stored or (item.path, item.reason), strict=True)) for item in damaged]


@dataclasses.dataclass(frozen=True)
class Report:
    """A JSON file in which paths are relative to `folders`: where they lie on this machine is nobody else's concern."""

    path: Path
    folders: Sequence[Path]

    def write(self, content: Any) -> None:
        text = json.dumps(content, indent=2)
        for folder in self.folders:
            inner = re.escape(json.dumps(str(folder))[1:-1])
            text = re.sub(rf"(?<![\w./-]){inner}(?:/|: )", "", text)
        self.path.write_text(text + "\n")


def check_share(damaged: Sequence[Damaged], inputs: int, limit: float, listing: Report, advice: str) -> None:
    """Raises TooMuchDamage, with `advice`, if more than the share `limit` of the `inputs` is damaged; all of them are
    then listed in `listing`, since nothing else is left of the preparation.
    """
    if len(damaged) <= limit * inputs:
        return
    listing.write(stored(damaged))
    share = smallest_share(len(damaged), inputs)
    shown = "; ".join(f"{item.path}: {item.reason}" for item in damaged[:SHOWN])
    raise TooMuchDamage(
        f"{len(damaged)} of {inputs} inputs are damaged, more than the {limit:.1%} allowed: {shown}"
        f"{' …' if len(damaged) > SHOWN else ''}. All are listed in {listing.path}. {advice}, "
        f"or allow a larger share with --max_damaged {share} (in Python max_damaged={share})"
    )


def smallest_share(damaged: int, inputs: int) -> str:
    """The smallest share of three decimals that allows so much damage, such as '0.034'."""
    return f"{min(math.ceil(1000 * damaged / max(inputs, 1)) / 1000, 1):g}"
