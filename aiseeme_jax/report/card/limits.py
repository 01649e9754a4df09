"""Sentences about the limits of an arm. Each follows from a fact of its records."""

from collections.abc import Iterator, Sequence

from aiseeme_jax.evaluate.bootstrap import MIN_GROUPS
from aiseeme_jax.report.card.evaluation import Score
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.estimates import Estimates
from aiseeme_jax.report.names import describe_target, within_sentence

# Below so many lesions or patients, 89 to 97 % of 95 % intervals held the truth (results/coverage.md).
FEW_GROUPS = 80


def list_limits(estimates: Estimates, arms: Sequence[str], scores: Sequence[Score]) -> Iterator[str]:
    """Sentences about data, seeds, test images and what was not measured."""
    contents = estimates.contents
    if contents.synthetic:
        yield "The images are synthetic: the numbers show that the program works and say nothing about patients."
    yield from _list_seeds(contents, arms)
    if not scores:
        yield "Nothing has been measured: nothing is known of what the features are worth for a diagnosis."
    sizes = {(one.groups, one.images) for one in scores}
    for groups, images in sorted(sizes):
        if groups < FEW_GROUPS:
            yield (
                f"One test split has {groups} lesions or patients alone ({images:,} images): with so few, 95 % "
                "intervals are less reliable than they say."
            )
    yield from _list_small_classes(estimates, scores)
    yield from _list_weak(estimates, arms)
    if contents.data_warnings:
        count = len(contents.data_warnings)
        yield f"The preparation of the data sets gave {count} warning{'s' if count > 1 else ''}: report.html has them."
    if scores:
        yield "Test images come from the data sets above. Other devices, hospitals and populations were not measured."


def _list_seeds(contents: Contents, arms: Sequence[str]) -> Iterator[str]:
    yield (
        "Each curriculum was trained once: the intervals do not cover another pretraining with another seed."
        if len(arms) > 1
        else "It was trained once: the intervals do not cover another pretraining with another seed."
    )
    single = [
        describe_target(target)
        for target in contents.measured_targets()
        if all(len(contents.runs_of(arm, target)) == 1 for arm in arms if contents.runs_of(arm, target))
    ]
    if single:
        yield f"Measured with one seed, so that the intervals cover the test images alone: {', '.join(single)}."


def _list_small_classes(estimates: Estimates, scores: Sequence[Score]) -> Iterator[str]:
    """Classes or findings of which the test split has too few lesions or patients, each list once."""
    small: dict[str, None] = {}
    for target in dict.fromkeys(one.target for one in scores):
        counts = estimates.scoring_of(target).count_groups()
        few = [f"{name} ({count})" for name, count in counts.items() if count < MIN_GROUPS]
        if few:
            where = estimates.contents.data_of(target)
            small[f"Of {where}, too few lesions or patients carry an interval of their own for: {', '.join(few)}."] = (
                None
            )
    yield from small


def _list_weak(estimates: Estimates, arms: Sequence[str]) -> Iterator[str]:
    """Targets on which an arm cannot be told apart from the same network without pretraining, or is below it."""
    contents = estimates.contents
    for arm in arms:
        for target in contents.measured_targets():
            scratch = contents.reference_of(arm)
            if arm == scratch or not contents.runs_of(arm, target) or not contents.runs_of(scratch, target):
                continue
            cell = estimates.estimate_difference(arm, scratch, target)
            if not cell.bounded or cell.low <= 0:
                words = within_sentence(estimates.describe_metric(target))
                yield (
                    f"{describe_target(target)}: {arm} is not shown to be better than the same network without "
                    f"pretraining ({words} {cell.text} {cell.interval})."
                )
