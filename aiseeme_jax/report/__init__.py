"""The page a person reads at the end: `report.html`, one file, no network, from what lies in the workdir.

It states what was measured and nothing else, works on a run that is not finished and says then what is
missing.
"""

import base64
import json
from pathlib import Path

import jinja2

from aiseeme_jax.evaluate import bootstrap, results
from aiseeme_jax.report import charts, summary, tables
from aiseeme_jax.report.contents import Contents, read_contents
from aiseeme_jax.report.measured import Measured
from aiseeme_jax.store import records

REPORT = "report.html"
HEADLINE = ("balanced_accuracy", "auroc", "average_precision")
FURTHER = ("macro_f1", "macro_specificity", "accuracy")


def write_results(workdir: str | Path) -> Path:
    """Writes `workdir/results.csv`, the metrics of all finished measurements that the present config asks for."""
    results.write_rows(Path(workdir), read_contents(Path(workdir)).rows)
    return Path(workdir) / results.RESULTS


def write_report(workdir: str | Path) -> Path:
    """Writes `workdir/report.html` whole or not at all, and returns its path.

    Raises UserError that names the file if a prediction or a record is damaged, and one that names two folders if
    their predictions are of the same images but do not belong together.
    """
    workdir = Path(workdir)
    records.write_text(workdir / REPORT, render(read_contents(workdir)))
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
    measured = Measured(contents)
    differences = tables.differences(measured)
    return template.render(
        contents=contents,
        sentences=summary.sentences(measured, differences),
        facts=summary.facts(contents),
        headline=tables.headline(measured, HEADLINE),
        further=tables.headline(measured, FURTHER),
        differences=differences,
        fractions=charts.fraction_curves(measured),
        fraction_table=tables.fractions(measured),
        per_class=[(target, tables.per_class(measured, target)) for target in contents.targets],
        confusions=tables.confusions(contents),
        chosen=tables.chosen_rows(contents),
        fewest_groups=bootstrap.MIN_GROUPS,
        stages=tables.stage_rows(contents),
        losses=charts.loss_curves(contents),
        views=[(stage, _data_uri(stage.views)) for stage in contents.stages if stage.views],
        config=json.dumps(contents.config, indent=2),
        name=tables.target_name,
        tone=charts.tone,
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
