"""The findings at the top of the report: facts that were measured, no opinion."""

import math
from collections.abc import Sequence

from aiseeme_jax.curriculum.arms import CURRICULUM
from aiseeme_jax.curriculum.costs import sum_costs
from aiseeme_jax.evaluate.masks import MaskScoring
from aiseeme_jax.report.contents import Contents, sum_measuring
from aiseeme_jax.report.estimates import Cell, Estimates
from aiseeme_jax.report.names import CLASSES, describe_target, within_sentence
from aiseeme_jax.report.tables import Table

# More arms than this are counted: the table below the paragraph names them.
NAMED = 8


def write_sentences(estimates: Estimates, differences: Sequence[Table]) -> list[str]:
    """What was compared, then for each target the best arm and the difference of the curriculum from scratch.

    Args:
      differences: of `tables.tabulate_differences`.
    """
    contents = estimates.contents
    if not contents.runs:
        return ["Nothing has been measured yet."]
    sentences = [_describe_comparison(contents)]
    gains = _find_curriculum_gains(differences)
    for target in contents.measured_targets():
        best = _find_best(estimates, target)
        if best:
            arm, cell = best
            metric = _with_article(within_sentence(estimates.describe_metric(target)))
            sentence = f"{describe_target(target)}: best is {arm} with {metric} of {_join(cell)}"
            if target in gains:
                sentence += f"; the curriculum minus scratch is {_describe_gain(gains[target])}"
            sentences.append(sentence + ".")
    return [*sentences, *_describe_total(contents)]


def _describe_total(contents: Contents) -> list[str]:
    """What everything together cost, where the records tell it. A stage that several arms share counts once."""
    trained = [stage.cost for stage in contents.stages if stage.record]
    total = sum_costs([*trained, sum_measuring(contents.runs)])
    if math.isnan(total.device_seconds):
        return []
    shown = f", with {total.images:,.0f} images shown in pretraining" if total.images > 0 else ""
    return [f"All of it took {total.time} of device time{shown}; energy: {total.energy}."]


def list_facts(estimates: Estimates) -> list[str]:
    """The line under the title: data set, model, test images. Of several runs, what is not common to all is named."""
    contents = estimates.contents
    runs = contents.runs_shown
    facts_of = {name: _describe_training(one) for name, one in (runs or {"": contents}).items()}
    common = [fact for fact in next(iter(facts_of.values())) if all(fact in found for found in facts_of.values())]
    own = {name: [fact for fact in found if fact not in common] for name, found in facts_of.items()}
    facts = [*common, *(f"{name}: {', '.join(found)}" for name, found in own.items() if found)]
    # One target of each data set says what its test images are; those with masks may be others than those with labels.
    target_of = {
        (contents.data_of(target), estimates.scoring_of(target).kind == MaskScoring.kind): target
        for target in reversed(contents.measured_targets())
    }
    for (data, _), target in reversed(target_of.items()):
        name = "" if {data for data, _ in target_of} == {contents.data} else f"{data}: "
        facts += [name + fact for fact in _describe_test_images(estimates, target)]
    return facts


def _describe_training(contents: Contents) -> list[str]:
    """Data sets and model of one run."""
    facts = [contents.data]
    if pretrained_on := _list_pretraining_sets(contents):
        facts.append(f"pretraining on {', '.join(pretrained_on)}")
    # A workdir of an earlier version does not say it.
    share = contents.config["data"].get("share", 1)
    if share < 1:
        facts.append(f"pretraining on {100 * share:g} % of the images")
    model = contents.config["model"]
    volumes = "3-D " if model["dimensions"] == 3 else ""
    width = "" if model["width"] == 1 else f" × {model['width']:g}"
    facts.append(f"{volumes}{model['name']}{width}, {model['dtype']}")
    excluded = max((stage.record.get("excluded", 0) for stage in contents.stages if stage.record), default=0)
    if excluded:
        facts.append(f"{excluded:,} images kept out of pretraining")
    return facts


def _list_pretraining_sets(contents: Contents) -> list[str]:
    """The data sets that stages are trained on; empty if that is the one of the run alone."""
    config = contents.config
    stages = [*config["stages"], *(stage for stages in config["curricula"].values() for stage in stages)]
    named = dict.fromkeys(name for stage in stages for name, _ in stage["data"] or [(contents.data, 1.0)])
    return [] if list(named) == [contents.data] else list(named)


def _describe_test_images(estimates: Estimates, target: str) -> list[str]:
    test, scoring = estimates.read_predictions(target), estimates.scoring_of(target)
    counted = f"{len(scoring):,} test images{_describe_groups(test.groups)}"
    if scoring.kind == MaskScoring.kind:
        return [f"{counted}, with masks"]
    labels, classes = scoring.labels, CLASSES[scoring.kind]
    facts = [f"{counted}, {labels.count} {classes}"]
    if len(labels.measured) < labels.count:
        occur = "occur in the test images" if classes == "classes" else "are present in some test images, not in others"
        facts.append(f"{len(labels.measured)} of {labels.count} {classes} {occur}: means are over these")
    return facts


def _describe_groups(groups: Sequence[str]) -> str:
    count = len(set(groups))
    if count == 1:
        return " of one lesion or patient (no intervals)"
    return "" if count == len(groups) else f" of {count:,} lesions or patients"


def _describe_comparison(contents: Contents) -> str:
    arms = contents.measured_arms()
    tasks = " → ".join(stage["task"] for stage in contents.config["stages"])
    if CURRICULUM not in arms or not tasks:
        return f"Measured: {_list_or_count(arms)}."
    others = f" beside {_list_or_count(arms[1:])}" if arms[1:] else ""
    return f"A backbone trained by the curriculum {tasks} was measured{others}."


def _list_or_count(arms: Sequence[str]) -> str:
    return ", ".join(arms) if len(arms) <= NAMED else f"{len(arms)} arms"


def _find_best(estimates: Estimates, target: str) -> tuple[str, Cell] | None:
    """The arm with the highest main metric on the largest share of the labels."""
    contents, metric = estimates.contents, estimates.main_metric(target)
    fraction = contents.largest_fraction_of(target)
    cells = [(arm, estimates.estimate(arm, target, fraction, metric)) for arm in contents.arms]
    return max((pair for pair in cells if pair[1]), key=lambda pair: pair[1].value, default=None)


def _find_curriculum_gains(differences: Sequence[Table]) -> dict[str, Cell]:
    """Target -> difference of the curriculum from scratch."""
    gains = {}
    for table in differences:
        cells = dict(table.sections[0].rows).get(CURRICULUM, [None] * len(table.columns))
        gains |= {target: cell for target, cell in zip(table.columns, cells, strict=True) if cell}
    return gains


def _describe_gain(cell: Cell) -> str:
    includes = ", an interval that includes 0" if cell.low <= 0 <= cell.high else ""
    return f"{_join(cell)}{includes}"


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _join(cell: Cell) -> str:
    """Value and interval, which are not to be separated at the end of a line: no-break spaces, a word joiner."""
    return f"{cell.text} {cell.interval}".replace(" ", "\u00a0").replace("–", "–\u2060")
