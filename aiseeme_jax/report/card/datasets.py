"""What is known of the data sets of an arm: versions and counts from records, licence and citation from builders."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tfds_builders
from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.scores import load_validation
from aiseeme_jax.report.contents import Contents, Run, Stage
from aiseeme_jax.store import artifacts

UNKNOWN = "not known: fill in"
BUILDERS = Path(tfds_builders.__file__).parent
# What an arm uses a split for.
PRETRAINING, LABELS, CHOICE, TEST = "pretraining", "labelled training", "choosing (validation)", "test"


@dataclass(frozen=True)
class UsedSplit:
    """Images of a data set that an arm used.

    Attributes:
      groups: how many lesions or patients they are of; None where the records do not tell.
    """

    data: str
    version: str
    used_for: str
    images: int
    groups: int | None = None

    @property
    def row(self) -> tuple[str, ...]:
        """As a line of a table."""
        groups = "not recorded" if self.groups is None else f"{self.groups:,}"
        return self.data, self.version, self.used_for, f"{self.images:,}", groups


@dataclass(frozen=True)
class Described:
    """What the builder of a data set says of it.

    Attributes:
      licence: the paragraph about it, or that it is not known.
      warnings: paragraphs that the builder stresses, such as that images are synthetic.
      citations: as BibTeX; '' if there are none.
    """

    name: str
    licence: str = UNKNOWN
    warnings: Sequence[str] = ()
    citations: str = ""


@dataclass
class UsedData:
    """The splits that arms used, each once.

    Attributes:
      excluded: images that were kept out of pretraining.
      test_sets: the data set of the test images of each target.
    """

    splits: list[UsedSplit] = field(default_factory=list)
    excluded: int = 0
    test_sets: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The data sets with their configs."""
        return list(dict.fromkeys(one.data for one in self.splits))

    def add(self, split: UsedSplit) -> None:
        if split not in self.splits:
            self.splits.append(split)


def list_used(contents: Contents, arms: Sequence[str]) -> UsedData:
    """What some arms were trained on, and measured with."""
    found = UsedData()
    for stage in (stage for arm in arms for stage in contents.stages_of[arm]):
        found.excluded = max(found.excluded, (stage.record or {}).get("excluded", 0))
        for one in list_pretraining(stage):
            found.add(one)
    for run in (run for run in contents.runs if run.arm in arms):
        measured = _list_measured(run, contents.data_of(run.target))
        found.test_sets[run.target] = measured[-1].data
        for one in measured:
            found.add(one)
    return found


def list_pretraining(stage: Stage) -> list[UsedSplit]:
    """The data sets that a stage was trained on."""
    sets = stage.made_from.get("data", [])
    return [UsedSplit(one["name"], one["version"], PRETRAINING, one["images"]) for one in sets]


def _list_measured(run: Run, name: str) -> list[UsedSplit]:
    """The splits of a measurement; lesions and patients are counted in its predictions."""
    data: Mapping[str, Any] = artifacts.read_key(run.directory).get("data", {})
    name, prints = data.get("name", name), {part: one for part, one in data.items() if isinstance(one, Mapping)}
    found = []
    if run.fraction == 1 and "train" in prints:
        found.append(UsedSplit(name, prints["train"]["version"], LABELS, prints["train"]["images"]))
    test = results.load_predictions(run.directory)
    parts = (
        ("validation", CHOICE, name, load_validation(run.directory)),
        ("test", TEST, data.get("test_name", name), test),
    )
    for part, used_for, of, predictions in parts:
        if predictions is not None:
            groups = len(set(map(str, predictions.groups)))
            version = prints.get(part, {}).get("version", UNKNOWN)
            found.append(UsedSplit(of, version, used_for, len(predictions.ids), groups))
    return found


def describe_data_set(name: str) -> Described:
    """What the builder of a data set says; nothing is known of one that is not built by `tfds_builders`."""
    folder = BUILDERS / name.partition("/")[0].partition("@")[0]
    readme = folder / "README.md"
    if not readme.exists():
        return Described(name)
    head = readme.read_text().partition("\n## ")[0]
    paragraphs = [" ".join(text.split()) for text in head.split("\n\n")[1:]]
    stressed = [text for text in paragraphs if text.startswith("**")]
    licences = [text for text in paragraphs if re.search(r"\blicences?\b", text, re.IGNORECASE)]
    licence = licences[0].removeprefix("Licence of the data: ") if licences else UNKNOWN
    bibliography = folder / "CITATIONS.bib"
    return Described(
        name,
        licence=licence.replace("`CITATIONS.bib`", "the citations below"),
        warnings=stressed,
        citations=bibliography.read_text().strip() if bibliography.exists() else "",
    )
