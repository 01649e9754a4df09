"""The page a person reads at the end: `report.html`, one file, no network, from what lies in the workdir.

It states what was measured and nothing else, works on a run that is not finished and says then what is
missing.
"""

import base64
import json
from pathlib import Path

import jinja2

from aiseeme_jax import checkpoint
from aiseeme_jax.report import charts, summary, tables
from aiseeme_jax.report.contents import Contents, read_contents

REPORT = "report.html"
HEADLINE = ("balanced_accuracy", "auroc", "average_precision")
FURTHER = ("macro_f1", "macro_specificity", "accuracy")


def write_report(workdir: str | Path) -> Path:
    """Writes `workdir/report.html` whole or not at all, and returns its path.

    Raises ValueError that names file and line if results.csv, a prediction or a record is damaged.
    """
    workdir = Path(workdir)
    checkpoint.write_text(workdir / REPORT, render(read_contents(workdir)))
    return workdir / REPORT


def render(contents: Contents) -> str:
    """The page as HTML."""
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("report.html.jinja")
    differences = tables.differences(contents)
    return template.render(
        contents=contents,
        sentences=summary.sentences(contents, differences),
        facts=summary.facts(contents),
        headline=tables.headline(contents, HEADLINE),
        further=tables.headline(contents, FURTHER),
        differences=differences,
        fractions=charts.fraction_curves(contents),
        fraction_table=tables.fractions(contents),
        per_class=[(target, tables.per_class(contents, target)) for target in contents.targets],
        confusions=tables.confusions(contents),
        stages=tables.stage_rows(contents),
        losses=charts.loss_curves(contents),
        views=[(stage, _data_uri(stage.views)) for stage in contents.stages if stage.views],
        config=json.dumps(contents.config, indent=2),
        name=tables.target_name,
        tone=charts.tone,
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
