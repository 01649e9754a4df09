"""Published parts (folders, lists) as splits: a validation split carved from one, patients torn between two, counts."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from tfds_builders.common.splits import split_of

# The shares of 70 and 10 % that the sets without an official test have.
TRAINING_FRACTIONS = {"train": 0.875, "validation": 0.125}

log = logging.getLogger(__name__)


def carve(groups: Sequence[str], seed: int) -> list[str]:
    """train or validation for each group of a published training part."""
    return [split_of(group, seed, TRAINING_FRACTIONS) for group in groups]


def kin_of_measured(splits: Sequence[str], groups: Sequence[str], drawn: Sequence[str]) -> set[int]:
    """Rows with a split of their own, as unlabelled ones have, whose group has a row drawn into validation or test.

    Args:
      splits: of each row its own, or '' for the one that its group draws.
      groups: of each row.
      drawn: the split that each row's group draws.
    """
    rows = list(zip(splits, groups, drawn, strict=True))
    measured = {group for split, group, its_draw in rows if not split and its_draw in ("validation", "test")}
    return {row for row, (split, group, _) in enumerate(rows) if split and group in measured}


def torn_groups(groups: Sequence[str], parts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Groups that lie in several parts, with their images: {'test and train': {'patients': 3, 'images': 7}}."""
    places = defaultdict(set)
    for group, part in zip(groups, parts, strict=True):
        places[group].add(part)
    names = {group: " and ".join(sorted(found)) for group, found in places.items() if len(found) > 1}
    patients, images = Counter(names.values()), Counter(names[group] for group in groups if group in names)
    return {name: {"patients": patients[name], "images": images[name]} for name in sorted(patients)}


def warn_of_torn_groups(data_set: str, torn: dict[str, dict[str, int]], advice: str) -> None:
    """Logs a warning that says what lies in several parts, if anything does."""
    if torn:
        shown = "; ".join(f"{n['patients']} patients ({n['images']} images) in {name}" for name, n in torn.items())
        log.warning("%s: patients cross the borders of the published split: %s. %s", data_set, shown, advice)


def cross_counts(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """How often each second value goes with each first: what makes a shortcut visible."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for first, second in pairs:
        counts[first][second] += 1
    return {first: dict(sorted(counts[first].items())) for first in sorted(counts)}
