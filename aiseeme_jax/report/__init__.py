"""The page that a person reads at the end: `report.html`, one file that needs no network.

If its pictures are more than `MOST_BYTES`, they lie in a folder beside it, `report_pictures/`.

It states what was measured and nothing else. Of a run that is not finished it shows what is there, and says what is
missing.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from aiseeme_jax.curriculum import costs
from aiseeme_jax.evaluate import bootstrap, results
from aiseeme_jax.report import charts, names, several, summary, tables
from aiseeme_jax.report.contents import Contents, read_contents
from aiseeme_jax.report.estimates import Estimates
from aiseeme_jax.report.search_page import write_search_report
from aiseeme_jax.report.study_page import write_study_report
from aiseeme_jax.report.templates import REPORT, load_template
from aiseeme_jax.store import records

__all__ = [
    "REPORT",
    "render",
    "write_report",
    "write_report_of_several",
    "write_results",
    "write_search_report",
    "write_study_report",
]

# The metrics of the first table of the page, and those under its details.
HEADLINE = ("balanced_accuracy", "auroc", "average_precision", "jaccard", "dice", "threshold_jaccard", "hausdorff95")
FURTHER = ("macro_f1", "macro_specificity", "accuracy", "hausdorff95_undefined")

# Of pictures within a page; more of them lie beside it.
MOST_BYTES = 10_000_000


def write_results(workdir: str | Path) -> Path:
    """Writes `workdir/results.csv`, the metrics of all finished measurements that the present config asks for."""
    results.write_rows(Path(workdir), read_contents(Path(workdir)).rows)
    return Path(workdir) / results.RESULTS


def write_report(workdir: str | Path) -> Path:
    """Writes `workdir/report.html` whole or not at all, and returns its path.

    Raises MissingFile for a folder in which no run was begun. Raises UserError that names the file if predictions or a
    record are damaged, and one that names two folders whose predictions are of the same images, but with other classes,
    labels or groups.
    """
    workdir = Path(workdir)
    return _write_page(workdir / REPORT, read_contents(workdir))


def write_report_of_several(workdirs: Sequence[Path], page: Path) -> Path:
    """Writes one page for several runs whole or not at all, and returns its path. Raises as `several.read_several`."""
    return _write_page(page, several.read_several(workdirs))


def _write_page(page: Path, contents: Contents) -> Path:
    """Writes a page, and its pictures beside it if they are too many for one file."""
    folder = page.with_name(f"{page.stem}_pictures")
    pictures = {f"{place:02d}.png": stage.views for place, stage in enumerate(contents.stages) if stage.views}
    beside = sum(map(len, pictures.values())) > MOST_BYTES
    for name, png in pictures.items() if beside else ():
        records.write_bytes(folder / name, png)
    for old in folder.glob("*.png"):
        if not beside or old.name not in pictures:
            old.unlink(missing_ok=True)
    records.write_text(page, render(contents, folder.name if beside else ""))
    return page


def render(contents: Contents, folder: str = "") -> str:
    """The page as HTML.

    Args:
      folder: of its pictures, which lie beside the page; by default they are within it.
    """
    template = load_template("report.html.jinja")
    estimates = Estimates(contents)
    targets = contents.measured_targets()
    kind_of = {target: estimates.scoring_of(target).kind for target in targets}
    several_shares = [target for target in targets if len(contents.fractions_of(target)) > 1]
    differences = tables.tabulate_differences(estimates)
    return template.render(
        contents=contents,
        sentences=[
            *summary.write_sentences(estimates, differences),
            *several.describe_differing_targets(contents),
        ],
        facts=summary.list_facts(estimates),
        kinds=sorted(set(kind_of.values())),
        headline=tables.tabulate_metrics(estimates, HEADLINE),
        further=tables.tabulate_metrics(estimates, FURTHER),
        differences=differences,
        difference_metrics=names.list_alternatives([table.sections[0].title for table in differences]),
        fractions=charts.draw_fractions(estimates),
        fraction_table=tables.tabulate_fractions(estimates),
        fraction_metrics=names.list_alternatives([estimates.describe_metric(target) for target in several_shares]),
        per_class=[(target, kind_of[target], tables.tabulate_classes(estimates, target)) for target in targets],
        confusions=tables.tabulate_confusions(estimates),
        chosen=tables.list_choices(estimates),
        fewest_groups=bootstrap.MIN_GROUPS,
        stages=tables.list_stages(contents),
        losses=charts.draw_losses(contents),
        rising=sorted({stage.task for stage in contents.stages} & names.QUEUED),
        pacing=charts.draw_pacing(contents),
        searches=tables.list_searches(contents),
        search_charts=charts.draw_tuning(contents),
        views=[
            (stage, f"{folder}/{place:02d}.png" if folder else _make_data_uri(stage.views))
            for place, stage in enumerate(contents.stages)
            if stage.views
        ],
        runs=tables.list_runs(contents),
        configs=_list_configs(contents),
        costs={arm: contents.describe_cost(arm) for arm in contents.arms},
        cost_heads=(*costs.HEADS, costs.MEASURING),
        describe_target=names.describe_target,
        choose_tone=charts.choose_tone,
        tone_of=lambda arm: charts.choose_tone(arm, contents.arms),
    )


def _list_configs(contents: Contents) -> list[tuple[str, str]]:
    """Configs as JSON under their titles."""
    shown = {f"Configuration of {name}": one.config for name, one in contents.runs_shown.items()}
    return [
        (title, json.dumps(config, indent=2)) for title, config in (shown or {"Configuration": contents.config}).items()
    ]


def _make_data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
