"""The job `study`: a config with fields that vary, over several pretraining seeds, and what can be said about its arms.

Every variant with every seed is the plan of a run. All plans are made before anything is trained, and all have one
store. So what does not depend on the varied fields or the seed is made once. What can be shared with other runs, an
interruption and several workers are those of the job `curriculum`: both do the same pieces of work.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from aiseeme_jax import report
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.datasets import DataSets, find_share_seed
from aiseeme_jax.curriculum.pieces import Piece, Plan, find_planned_key
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.jobs import printing
from aiseeme_jax.jobs.curriculum import check_starts, choose_work, list_artifacts
from aiseeme_jax.jobs.outlook import RunOutlook
from aiseeme_jax.jobs.run_record import record_run
from aiseeme_jax.jobs.working import needs_any, work_around_divergence
from aiseeme_jax.store import artifacts, keys, workdirs
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.study import tables
from aiseeme_jax.study.certainty import Outcomes
from aiseeme_jax.study.measured import Reader
from aiseeme_jax.study.variants import Study, StudyRun, name_variant, read_study
from aiseeme_jax.training import writers
from aiseeme_jax.training.compilation import keep_programs

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run of a study with its plan, and the data sets that it reads."""

    run: StudyRun
    plan: Plan
    datasets: DataSets


def run(config: ConfigDict, workdir: Path, *, plan_only: bool = False) -> None:
    """Trains and measures what a study asks for, and writes study.csv, summary.csv, differences.csv and report.html.

    Args:
      plan_only: only print the counts of the plans. Nothing is done or written.

    Raises UserError if the config cannot be carried out, MissingFile if a data set or weights are missing.
    """
    artifacts.check_layout(workdir)
    study = read_study(config)
    planned = plan_runs(study, workdir)
    store = Store(workdirs.find_store(workdir, config.runtime.store))
    counts = describe_plans(planned, store)
    if plan_only:
        print(counts)
        return
    log.info("%s", counts)
    keep_programs(config.runtime.compiled_programs)
    workdirs.write_config(workdir, workdirs.to_json_config(config))
    workdirs.write_plan(workdir, list_artifacts(name_arms_apart(planned), workdirs.name_store(config.runtime.store)))
    with record_run(workdir), writers.use(config.runtime.writers, workdir.name):
        StudyJob(config, study, planned, store, workdir).work()
    log.info("done: results in %s, report in %s", workdir / tables.SUMMARY, workdir / report.REPORT)


def plan_runs(study: Study, workdir: Path) -> list[PlannedRun]:
    """Plans every run. What was opened or checked for one is not opened or checked again for another.

    Raises UserError that names the variant, MissingFile for missing weights or a missing data set.
    """
    first = DataSets(study.runs[0].config)
    datasets: dict[str, DataSets] = {}
    checked: dict[str, set[str]] = {}
    planned = []
    for one in study.runs:
        read = keys.make_key({"data": one.config.data, "seed": find_share_seed(one.config)})
        datasets.setdefault(read, DataSets(one.config, like=first))
        model = keys.make_key({"model": one.config.model})
        with name_variant(one.variant):
            check_starts(one.config, workdir)
            plan = make_plan(one.config, datasets[read], checked=checked.setdefault(model, set()))
        planned.append(PlannedRun(one, plan, datasets[read]))
    return planned


def name_arms_apart(planned: list[PlannedRun]) -> Plan:
    """One plan of all runs, whose arms have the variant and the seed in their names."""
    return Plan(
        tuple(dataclasses.replace(arm, name=f"{arm.name}, {one.run.title}") for one in planned for arm in one.plan.arms)
    )


def describe_plans(planned: list[PlannedRun], store: Store) -> str:
    """A line for each run, with what it has in common with those before it, and the sums over all."""
    known: set[str] = set()
    lines = []
    for one in planned:
        pieces = one.plan.pieces()
        new = [piece for piece in pieces if piece.artifact.key not in known]
        known |= {piece.artifact.key for piece in pieces}
        exist = sum(store.record(piece.artifact) is not None for piece in new)
        shared = f", {len(pieces) - len(new)} of which are planned above" if len(new) < len(pieces) else ""
        lines.append(f"{one.run.title}: {len(pieces)} pieces of work{shared}; {exist} of {len(new)} new ones exist")
    return "\n".join([*lines, printing.describe_sums(name_arms_apart(planned), store)])


class StudyJob:
    """A study in progress."""

    def __init__(self, config: ConfigDict, study: Study, planned: list[PlannedRun], store: Store, workdir: Path):
        self.config, self.study, self.planned, self.store, self.workdir = config, study, planned, store, workdir
        self.reader = Reader(study, store, config.statistics.to_dict())
        self.diverged: set[str] = set()
        self.makers: dict[str, Callable[[Piece, Path], dict[str, Any]]] = {}

    def work(self) -> None:
        """Makes every piece that does not exist, and writes the tables after each run and at the end."""
        pieces: dict[str, tuple[Piece, PlannedRun]] = {}
        for one in self.planned:
            for piece in one.plan.pieces():
                pieces.setdefault(piece.artifact.key, (piece, one))
        last_of_runs = {one.plan.pieces()[-1].artifact.key for one in self.planned}

        def make(piece: Piece, directory: Path) -> dict[str, Any]:
            return self.choose_maker(pieces[find_planned_key(piece)][1])(piece, directory)

        outlook = RunOutlook(name_arms_apart(self.planned).arms, self.store)
        all_pieces = [piece for piece, _ in pieces.values()]
        for piece in work_around_divergence(all_pieces, self.store, outlook.follow(make), self.diverged):
            if piece.artifact.key in last_of_runs:
                self.write()
        # Once more: what another run was making may have come last.
        self.write()

    def choose_maker(self, one: PlannedRun) -> Callable[[Piece, Path], dict[str, Any]]:
        """The function that does the work of a run. Runs of the same model and data have the same one."""
        alike = keys.make_key(
            {
                "model": one.run.config.model,
                "patience": one.run.config.patience,
                "data": one.run.config.data,
                "seed": find_share_seed(one.run.config),
            }
        )
        if alike not in self.makers:
            # The last one is released before the next: it keeps a backbone with its features.
            self.makers = {alike: choose_work(Context.of(one.run.config, self.store, one.datasets))}
        return self.makers[alike]

    def write(self) -> None:
        """Writes the tables and the report of what is there."""
        if jax.process_index():
            return
        plans = [(one.run, one.plan) for one in self.planned]
        outcomes = Outcomes(self.study, self.reader.read(plans), self.reader.sum_costs(plans))
        found = tables.write_tables(self.workdir, outcomes)
        report.write_study_report(self.workdir, self.study, outcomes, found, self.describe_missing())

    def describe_missing(self) -> list[str]:
        """Sentences about what diverged, and how much is not there yet."""
        sentences, unfinished = [], 0
        arms = [(arm, f"{arm.name}, {one.run.title}") for one in self.planned for arm in one.plan.arms]
        for arm, name in arms:
            if any(needs_any(piece, self.diverged) for piece in arm.pieces()):
                sentences.append(f"The training of {name} diverged.")
            elif any(self.store.record(piece.artifact) is None for piece in arm.pieces()):
                unfinished += 1
        if unfinished:
            sentences.append(f"{unfinished} of {len(arms)} arms, counted with each variant and seed, are not finished.")
        return sentences
