"""Images that are there several times: with different labels, or in several splits of a published division."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from tfds_builders.common.records import Record

SHOWN = 5
HELD_OUT = {"validation", "test"}
LISTED = "listed in prepare_report.json"


def find_repeats(
    records: Sequence[Record], digests: Sequence[Hashable], splits: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """What the report says of identical images, and its warnings of them.

    Args:
      records: all that are written.
      digests: of each, equal for identical images.
      splits: the rows of each split. Identical images are in several of them only where each split is a given one.
    """
    homes = {row: split for split, rows in splits.items() for row in rows}
    same = identical_rows(digests)
    across = [rows for rows in same if len({homes[row] for row in rows}) > 1]
    measured = [rows for rows in across if HELD_OUT & {homes[row] for row in rows}]
    contradicting = [rows for rows in same if len({records[row].kinds for row in rows} - {()}) > 1]
    return {
        "identical_images": list_ids(records, same),
        "identical_across_splits": list_ids(records, across),
        "identical_images_of_several_labels": list_ids(records, contradicting),
        "warnings": [
            *_warn(
                "images in several of the given splits, whose scores count what was trained on",
                [[f"{records[row].image_id} ({homes[row]})" for row in rows] for rows in measured],
            ),
            *_warn(
                "images that are there several times with different labels",
                [[f"{records[row].image_id} ({', '.join(records[row].kinds)})" for row in rows]
                 for rows in contradicting],
            ),
        ],
    }  # fmt: skip


def list_ids(records: Sequence[Record], several: Sequence[Sequence[int]]) -> list[list[str]]:
    """The ids of the images of each list of rows, in order."""
    return sorted(sorted(records[row].image_id for row in rows) for rows in several)


def identical_rows(digests: Sequence[Hashable]) -> list[list[int]]:
    """The rows of each image that is there several times."""
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows[digest].append(row)
    return [several for several in rows.values() if len(several) > 1]


def find_ties(records: Sequence[Record], groups: Sequence[str], digests: Sequence[Hashable]) -> list[list[int]]:
    """The identical images of groups for which different splits are given, and which they make one group.

    Args:
      records: those that can be used.
      groups: theirs, identical images joined.
      digests: equal for identical images.
    """
    given: dict[str, set[str]] = defaultdict(set)
    for record, group in zip(records, groups, strict=True):
        given[group] |= {record.split} - {""}
    return [
        rows
        for rows in identical_rows(digests)
        if len(given[groups[rows[0]]]) > 1 and len({records[row].group for row in rows}) > 1
    ]


def describe_images(several: Sequence[Sequence[str]], shown: int) -> str:
    """`a.png (train) and b.png (test); …`, so many of them, and how many more there are."""
    more = f"; and {len(several) - shown} more" if len(several) > shown else ""
    return "; ".join(" and ".join(names) for names in several[:shown]) + more


def _warn(says: str, several: Sequence[Sequence[str]]) -> list[str]:
    return [f"{says}: {len(several)} ({LISTED}), such as {describe_images(several, SHOWN)}"] if several else []
