"""Damaged inputs: left out, listed with their reason, and too many of them fail the preparation at its end.

What makes the whole input unusable (a missing archive, a missing column) is no damage but an error, at once.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

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
    """

    path: str
    reason: str


def check_share(damaged: Sequence[Damaged], inputs: int, limit: float, listing: Path, advice: str) -> None:
    """Raises TooMuchDamage, with `advice`, if more than the share `limit` of the `inputs` is damaged; all of them are
    then listed in the file `listing`, since nothing else is left of the preparation.
    """
    if len(damaged) <= limit * inputs:
        return
    listing.write_text(json.dumps([dataclasses.asdict(item) for item in damaged], indent=2) + "\n")
    shown = "; ".join(f"{item.path}: {item.reason}" for item in damaged[:SHOWN])
    raise TooMuchDamage(
        f"{len(damaged)} of {inputs} inputs are damaged, more than the {limit:.1%} allowed: {shown}"
        f"{' …' if len(damaged) > SHOWN else ''}. All are listed in {listing}. {advice}, "
        "or allow a larger share with max_damaged"
    )
