"""MODEL_CARD.md of a workdir: one file, with a section for each curriculum."""

import fnmatch
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiseeme_jax.curriculum.arms import CURRICULUM
from aiseeme_jax.errors import UserError
from aiseeme_jax.report.card import training
from aiseeme_jax.report.card.datasets import UNKNOWN, UsedData, describe_data_set, list_used
from aiseeme_jax.report.card.evaluation import Score, list_scores, write_calibration, write_gaps, write_scores
from aiseeme_jax.report.card.front_matter import write_front_matter
from aiseeme_jax.report.card.limits import list_limits
from aiseeme_jax.report.card.markdown import escape, write_table
from aiseeme_jax.report.contents import Contents, read_contents
from aiseeme_jax.report.estimates import Estimates
from aiseeme_jax.search.best_order import FILE as BEST_ORDER
from aiseeme_jax.store import records

CARD = "MODEL_CARD.md"
USE = (
    "A backbone for research: its features are a start for fine-tuning or for a probe on labelled images of the same "
    "kind.",
    "It is not a medical device. It must not be used for a diagnosis, a decision about treatment, or screening. No "
    "number below was measured in a clinic.",
)


def write_card(workdir: Path, patterns: Sequence[str] = ()) -> Path | None:
    """Writes `workdir/MODEL_CARD.md` whole or not at all, and returns its path.

    Args:
      patterns: of the arms that it describes; * stands for anything. By default the finished curricula; if there are
        none, nothing is written.

    Raises MissingFile for a folder in which no run was begun. Raises UserError for the workdir of a search, for that of
    a study without patterns, for a pattern that names no arm with stages, and for an arm that is not finished.
    """
    contents = read_contents(workdir)
    _check_job(workdir, contents, patterns)
    arms = choose_arms(contents, patterns)
    if not arms:
        return None
    records.write_text(workdir / CARD, render(workdir, contents, arms))
    return workdir / CARD


def _check_job(workdir: Path, contents: Contents, patterns: Sequence[str]) -> None:
    """Raises UserError, with what to do instead, where it is not clear which arms a card would be of."""
    job = contents.config["job"]
    if job == "search":
        best = workdir / BEST_ORDER
        then = f"run it with `python -m aiseeme_jax train --config={best} --workdir=OTHER`, and OTHER gets a card"
        there = then if best.exists() else f"end the search first; it writes {best}, which is then to be run"
        raise UserError(
            f"'{workdir}' is the workdir of a search, which measures no test images. Its best order is a config of its "
            f"own: {there}"
        )
    if job == "study" and not patterns:
        trained = [arm for arm, stages in contents.stages_of.items() if stages]
        raise UserError(
            f"'{workdir}' is the workdir of a study, which has an arm for each variant and pretraining seed, and no "
            f"winner: name those that the card is of with --arm. There are {', '.join(trained) or 'none yet'}"
        )


def choose_arms(contents: Contents, patterns: Sequence[str]) -> list[str]:
    """The arms that a card describes. Raises UserError as `write_card` does."""
    trained = [arm for arm, stages in contents.stages_of.items() if stages]
    finished = [arm for arm in trained if all(stage.record for stage in contents.stages_of[arm])]
    if not patterns:
        return [arm for arm in finished if arm == CURRICULUM or arm in contents.config["curricula"]]
    for pattern in patterns:
        if not fnmatch.filter(trained, pattern):
            raise UserError(f"no arm '{pattern}' was trained: there are {', '.join(trained) or 'none'}")
    named = [arm for arm in trained if any(fnmatch.fnmatch(arm, pattern) for pattern in patterns)]
    if unfinished := [arm for arm in named if arm not in finished]:
        raise UserError(f"{', '.join(unfinished)}: not finished; run the config to the end first")
    return named


def render(workdir: Path, contents: Contents, arms: Sequence[str]) -> str:
    """The card as Markdown. It names no folder of the machine."""
    estimates = Estimates(contents)
    used = list_used(contents, arms)
    scores = {arm: list_scores(estimates, arm) for arm in arms}
    found = [one for arm in arms for one in scores[arm]]
    lines = [
        *write_front_matter(contents, used, scores),
        "",
        f"# {escape(contents.title)}",
        "",
        *_write_summary(contents, arms),
        *_write_list("Intended use", USE),
        *_write_data(used),
    ]
    for arm in arms:
        lines += _write_arm(workdir, contents, arm, scores[arm])
    lines += _write_list("Limits", [escape(sentence) for sentence in list_limits(estimates, arms, found)])
    lines += _write_citations(used)
    return "\n".join(lines).rstrip() + "\n"


def _write_summary(contents: Contents, arms: Sequence[str]) -> Iterator[str]:
    yield (
        "A visual backbone, trained without labels by a sequence of self-supervised tasks (a curriculum) with "
        "`aiseeme_jax`. Everything below is from the records of the run."
    )
    yield ""
    if contents.synthetic:
        yield "**The images are synthetic.** The numbers show that the program works and say nothing about patients."
        yield ""
    if len(arms) > 1:
        yield from (f"- `{arm}`: {' → '.join(s.task for s in contents.stages_of[arm])}" for arm in arms)
        yield ""
    if contents.missing:
        yield "The run is not complete: report.html says what is missing."
        yield ""


def _write_list(title: str, sentences: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {sentence}" for sentence in sentences), ""]


def _write_data(used: UsedData) -> Iterator[str]:
    yield "## Data"
    yield ""
    head = "Data set", "Version", "Used for", "Images", "Lesions or patients"
    yield from write_table(head, [one.row for one in used.splits]) or [f"The data are {UNKNOWN}.", ""]
    if used.excluded:
        yield f"{used.excluded:,} images were kept out of pretraining."
        yield ""
    for described in map(describe_data_set, used.names):
        yield f"- `{described.name}`. Licence: {described.licence}"
        yield from (f"  {text}" for text in described.warnings)
    yield ""
    yield f"Licence of the weights: {UNKNOWN}. It must agree with the licences of all data above."
    yield ""


def _write_arm(workdir: Path, contents: Contents, arm: str, scores: list[Score]) -> Iterator[str]:
    """The sections of one curriculum."""
    stages = contents.stages_of[arm]
    yield f"## {escape(arm)}"
    yield ""
    yield training.describe_network(contents, arm)
    yield ""
    yield from training.write_stages(stages)
    yield "### Metrics on test images"
    yield ""
    if scores:
        yield (
            "Everything was chosen on validation images. Intervals are bootstrapped over whole lesions or patients, "
            "and over the seeds where there are several. Images, time and energy are those of the pretraining."
        )
        yield ""
        yield from write_scores(scores, contents.pretraining_cost(arm).words)
        yield "### Calibration"
        yield ""
        yield (
            "Expected calibration errors. None is ever 0: beside it stands what a perfectly calibrated model with the "
            "same probabilities would have on as many images."
        )
        yield ""
        yield from write_calibration(workdir, contents, arm)
        yield "### Gaps between subgroups"
        yield ""
        yield from write_gaps(workdir, contents, arm)
    else:
        yield "Nothing was measured."
        yield ""
    yield "### Cost"
    yield ""
    yield from training.write_cost(contents, arm)
    yield ""
    yield from _write_loading(contents, arm)


def _write_loading(contents: Contents, arm: str) -> Iterator[str]:
    """How to load it, with the hash by which the file is known."""
    record = contents.stages_of[arm][-1].record
    yield "### How to load it"
    yield ""
    yield "```python"
    yield "import aiseeme_jax"
    yield ""
    name = json.dumps(arm, ensure_ascii=False)
    yield f"backbone, info = aiseeme_jax.load_backbone(WORKDIR, arm={name})  # or the file backbone.safetensors"
    yield 'features = backbone(info["preprocessing"].preprocess(images), train=False)["pooled"]  # uint8, or 0 to 1'
    yield "```"
    yield ""
    sentences = [training.describe_normalisation(contents.stages_of[arm])]
    if "backbone_hash" in record:
        sentences.append(f"The hash of its weights is `{record['backbone_hash']}`.")
    yield " ".join(filter(None, sentences))
    yield ""


def _write_citations(used: UsedData) -> Iterator[str]:
    """The citations of the data sets, each builder's once."""
    found = dict.fromkeys(
        described.citations for described in map(describe_data_set, used.names) if described.citations
    )
    if found:
        yield "## Citations of the data sets"
        yield ""
        yield "```bibtex"
        yield from found
        yield "```"
