"""Several slices at one position of a CT series: which one stays, and when that would mix two volumes."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.locations import Files
from tfds_builders.common.slices import Slice, positions_of, read_hounsfield, some

# Slices this near, in mm, lie at one position.
SAME_POSITION = 0.01
# Up to this share of the positions, or one, may have several slices that differ, wherever those come from.
FEW = 0.1


class Contest(NamedTuple):
    """Two slices that differ at one position, mm: that which is kept, and that which is dropped."""

    place: float
    kept: Slice
    dropped: Slice


def drop_duplicates(slices: Sequence[Slice], files: Files) -> tuple[list[Slice], list[str]]:
    """The slices in the order of positions, one left at each, and notes of the others.

    Of slices at one position that of the acquisition with most positions stays, so that no acquisition replaces a part
    of another; then that of the lowest AcquisitionNumber, then InstanceNumber.

    Raises DamagedInput if all slices lie at one position, if the ranks do not say which of two slices belongs to the
    others, or if a volume of one slice at each position would be partly of one acquisition and partly of another.
    """
    groups = at_positions(slices)
    sizes = Counter(number for _, group in groups for number in {item.acquisition for item in group})

    def rank(item: Slice) -> tuple[float, ...]:
        return -sizes[item.acquisition], item.acquisition, item.number

    kept: list[Slice] = []
    identical: list[float] = []
    contests: list[Contest] = []
    for place, group in groups:
        first, *others = sorted(group, key=rank)
        kept.append(first)
        for other in others:
            if (read_hounsfield(first, files)[0] == read_hounsfield(other, files)[0]).all():
                identical.append(place)
                continue
            if rank(other) == rank(first):
                raise DamagedInput(
                    f"two acquisitions are mixed: {first.location} and {other.location} lie at {place:g} mm, differ "
                    "and have one InstanceNumber: make a series of each"
                )
            contests.append(Contest(place, first, other))
    check_mixture(kept, contests)
    return kept, notes_of(identical, contests)


def at_positions(slices: Sequence[Slice]) -> list[tuple[float, list[Slice]]]:
    """Each position, mm, in ascending order, and the slices there."""
    groups: list[tuple[float, list[Slice]]] = []
    for place, item in sorted(zip(positions_of(slices).tolist(), slices, strict=True), key=lambda pair: pair[0]):
        if not groups or place - groups[-1][0] > SAME_POSITION:
            groups.append((place, []))
        groups[-1][1].append(item)
    return groups


def check_mixture(kept: Sequence[Slice], contests: Sequence[Contest]) -> None:
    """Raises DamagedInput if the slices that are kept are not of one volume.

    Slices of another acquisition are no part of the volume if none of that acquisition is kept. Within one acquisition,
    they are none if all of them come after all that are kept, by InstanceNumber.
    """
    if contests and len(kept) == 1:
        raise DamagedInput(f"{len(contests) + 1} different slices lie at one position, {contests[0].place:g} mm: the "
                           "positions in their headers are wrong")  # fmt: skip
    places = {contest.place for contest in contests}
    if len(places) <= max(1, FEW * len(kept)):
        return
    for number in {contest.dropped.acquisition for contest in contests}:
        dropped = [one for one in contests if one.dropped.acquisition == number]
        last = max((item.number for item in kept if item.acquisition == number), default=None)
        if last is None:
            continue
        within = all(one.kept.acquisition == number for one in dropped)
        if not within or last >= min(one.dropped.number for one in dropped):
            shown = some([f"{place:g} mm" for place in sorted(places)])
            raise DamagedInput(
                f"two acquisitions are mixed: at {len(places)} of {len(kept)} positions several slices differ, and "
                f"AcquisitionNumber and InstanceNumber do not part them: {shown}. Make a series of each, or correct "
                "the positions"
            )


def notes_of(identical: Sequence[float], contests: Sequence[Contest]) -> list[str]:
    notes = []
    if identical:
        shown = some([f"{place:g} mm" for place in identical])
        notes.append(f"{len(identical)} identical slices at one position with another were dropped: {shown}")
    if contests:
        shown = some([f"{contest.place:g} mm" for contest in contests])
        notes.append(
            f"{len(contests)} slices that differ from another at their position were dropped, those of the larger "
            "acquisition kept, or of the lower AcquisitionNumber, or, if it is the same, InstanceNumber: "
            f"{shown}"
        )
    return notes


def check_acquisitions(slices: Sequence[Slice]) -> None:
    """Raises DamagedInput if ordered slices of several acquisitions alternate. One after another, as of a scan in
    steps, they make one volume.
    """
    runs = [number for number, _ in groupby(item.acquisition for item in slices)]
    if len(runs) > len(set(runs)):
        raise DamagedInput(f"{len(set(runs))} acquisitions are mixed: along the series AcquisitionNumber changes "
                           f"{len(runs) - 1} times: make a series of each")  # fmt: skip
