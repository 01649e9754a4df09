"""The jobs `curriculum` and `evaluate`: do the pieces of work that do not exist yet, and write the report.

The plan of the job `evaluate` has a single arm, the backbone at `config.init`, and nothing to train.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax import report
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.measurements import Measurer
from aiseeme_jax.curriculum.pieces import Piece, Plan, PlannedFisher, PlannedMeasurement, PlannedStage
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.curriculum.stages import estimate_fisher, train_stage
from aiseeme_jax.curriculum.trials import PlannedProbe, PlannedTrial, PlannedTuning
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import printing
from aiseeme_jax.jobs.arm_writing import write_arms
from aiseeme_jax.jobs.forecast import Forecaster, describe_missing_device
from aiseeme_jax.jobs.outlook import RunOutlook, read_speeds
from aiseeme_jax.jobs.run_record import record_run
from aiseeme_jax.jobs.working import work_through
from aiseeme_jax.report.card.page import write_card
from aiseeme_jax.search.probing import probe
from aiseeme_jax.search.trial_work import TrialWork
from aiseeme_jax.search.tuning import conclude
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training import writers
from aiseeme_jax.training.compilation import keep_programs
from aiseeme_jax.training.display import Display

log = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: Path, *, plan_only: bool = False) -> None:
    """Trains and measures what a config asks for, and writes results.csv, report.html and MODEL_CARD.md.

    Args:
      plan_only: only print the plan. Nothing is done, and nothing is written but the programs that are compiled for it,
        which are kept in `runtime.compiled_programs` for the run.

    Raises UserError if the config cannot be carried out, MissingFile if a data set or weights are missing.
    """
    artifacts.check_layout(workdir)
    check_starts(config, workdir)
    with Display("checking the config and the data sets"):
        datasets = DataSets(config)
        plan = make_plan(config, datasets)
    store = Store(workdirs.find_store(workdir, config.runtime.store))
    context = Context.of(config, store, datasets)
    keep_programs(config.runtime.compiled_programs)
    forecaster = Forecaster(context, read_speeds(store))
    if plan_only:
        with Display("finding out what the stages need"):
            described = printing.describe_plan(plan, store, forecaster)
        print(described)
        return
    warn_of_missing_device(plan, store, forecaster)
    workdirs.write_config(workdir, workdirs.to_json_config(config))
    workdirs.write_plan(workdir, list_artifacts(plan, workdirs.name_store(config.runtime.store)))
    with record_run(workdir), writers.use(config.runtime.writers, workdir.name):
        work(plan, context, workdir)
        write_arms(workdir)
    # Once more: what another run was making may have come last, and this run has ended.
    write_tables(workdir)
    write_card(workdir)
    log.info("done: results in %s, report in %s", workdir / "results.csv", workdir / "report.html")


def work(plan: Plan, context: Context, workdir: Path) -> None:
    """Makes every piece that does not exist, and writes the tables after each arm."""
    store = context.store
    if all(store.record(piece.artifact) for piece in plan.pieces()):
        log.info("everything exists: nothing to train or measure")
    make = RunOutlook(plan.arms, store).follow(choose_work(context))
    for piece in work_through(plan.pieces(), store, make):
        if is_last_of_an_arm(piece, plan):
            write_tables(workdir)


def check_starts(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError if a run would start from its own workdir: what that means changes while it runs."""
    for field in ("init", "imagenet"):
        if config[field] and Path(config[field]).expanduser().resolve() == workdir.resolve():
            raise UserError(f"{field} is the workdir of this run itself: name the folder of one of its stages")


def warn_of_missing_device(plan: Plan, store: Store, forecaster: Forecaster) -> None:
    """Warns if the config was made for a GPU and there is none."""
    stages = [piece for piece in plan.pieces() if isinstance(piece, PlannedStage) and not store.record(piece.artifact)]
    with Display("estimating how long the stages take"):
        warning = describe_missing_device(stages, forecaster)
    if warning:
        log.warning("%s", warning)


def write_tables(workdir: Path) -> None:
    """Writes results.csv and report.html."""
    report.write_results(workdir)
    report.write_report(workdir)


def choose_work(context: Context) -> Callable[[Piece, Path], dict[str, Any]]:
    """Returns the function that does a piece of work in its folder and returns the record."""
    measurer, trial_work = Measurer(context), TrialWork(context)

    def make(piece: Piece, directory: Path) -> dict[str, Any]:
        match piece:
            case PlannedStage():
                return train_stage(piece, context, directory)
            case PlannedFisher():
                return estimate_fisher(piece, context, directory)
            case PlannedMeasurement():
                return measurer.measure(piece, directory)
            case PlannedTrial():
                return trial_work.do(piece, directory)
            case PlannedProbe():
                return probe(piece, context)
            case PlannedTuning():
                return conclude(piece, context.store)

    return make


def is_last_of_an_arm(piece: Piece, plan: Plan) -> bool:
    """Whether a piece is the last piece of an arm."""
    last = [(*arm.stages, *arm.fishers, *arm.measurements)[-1:] for arm in plan.arms]
    return any(piece.artifact.key == found[0].artifact.key for found in last if found)


def list_needed(measurement: PlannedMeasurement) -> tuple[str, ...]:
    """Keys of the measurements that must be made before one, each once, each after those that it needs."""
    found: dict[str, None] = {}
    for one in measurement.needed.values():
        found |= dict.fromkeys((*list_needed(one), one.artifact.key))
    return tuple(found)


def list_artifacts(plan: Plan, store: str) -> workdirs.WorkdirPlan:
    """The plan as it is written to a workdir: arms, with the keys of their stages, measurements and scores."""
    arms = tuple(
        workdirs.ArmEntry(
            arm.name,
            tuple(
                workdirs.StageEntry(
                    stage.artifact.label,
                    stage.fields.task,
                    stage.total_steps,
                    stage.artifact.key,
                    stage.tuning.artifact.key if stage.tuning else "",
                )
                for stage in arm.stages
            ),
            tuple(
                workdirs.MeasurementEntry(
                    one.artifact.label,
                    one.name,
                    one.fraction,
                    one.seed,
                    one.artifact.key,
                    list_needed(one),
                )
                for one in arm.measurements
            ),
            tuple(
                workdirs.ScoreEntry(score.artifact.label, score.proxy.proxy, score.artifact.key) for score in arm.scores
            ),
        )
        for arm in plan.arms
    )
    return workdirs.WorkdirPlan(store, arms)
