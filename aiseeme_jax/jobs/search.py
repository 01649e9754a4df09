"""The job `search`: finds an order of tasks for a target, and writes it as a config.

Every trial is an arm whose stages and score lie in the store under their keys. So what exists is never made again, and
a search that was interrupted goes on. Several runs of one search share the work: each takes its next order from a queue
(`rounds.py`). The strategy itself is deterministic. It decides the same in each of them, since it decides by scores.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from aiseeme_jax import report, seeds
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import Piece, Plan, PlannedArm, PlannedScore
from aiseeme_jax.curriculum.scores import check_proxy
from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.jobs import printing
from aiseeme_jax.jobs.curriculum import check_starts, choose_work, list_artifacts
from aiseeme_jax.jobs.rounds import Maker, Round, Workers
from aiseeme_jax.jobs.run_record import record_run
from aiseeme_jax.search import certainty, findings, trials
from aiseeme_jax.search.best_order import FILE as BEST_ORDER
from aiseeme_jax.search.best_order import write_best_order
from aiseeme_jax.search.planning import TrialPlanner, name_order, name_trial
from aiseeme_jax.search.problem import FINALIST, REVERSE, SINGLE, Problem, read_problem
from aiseeme_jax.search.queue import Queue, name_study, read_diverged
from aiseeme_jax.search.scoring import Scorer, compare_backbones, read_score
from aiseeme_jax.search.storage import Storage
from aiseeme_jax.search.trials import START, Order, Outcome, Trial
from aiseeme_jax.search.tuning import describe_score
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training import writers
from aiseeme_jax.training.compilation import keep_programs

log = logging.getLogger(__name__)


class NotScored(Exception):
    """A score is missing, and the search only looks at what exists."""


def run(config: ConfigDict, workdir: Path, *, plan_only: bool = False) -> None:
    """Searches, and writes best_order.py, search.json and report.html.

    Args:
      plan_only: only print what the next round of trials would train. Nothing is done or written.

    Raises UserError if the config cannot be carried out, MissingFile if a data set or weights are missing.
    """
    artifacts.check_layout(workdir)
    problem = read_problem(config)
    check_starts(config, workdir)
    datasets = DataSets(config)
    check_proxy(config, config.search.proxy, datasets, "search.proxy")
    store = Store(workdirs.find_store(workdir, config.runtime.store))
    search = Search(config, problem, datasets, store)
    search.check()
    if plan_only:
        print(search.describe_next_round())
        return
    keep_programs(config.runtime.compiled_programs)
    workdirs.write_config(workdir, workdirs.to_json_config(config))
    search.write_to(workdir)
    with record_run(workdir), writers.use(config.runtime.writers, workdir.name):
        outcome = search.run()
        outcome.check()
        search.compare(outcome)
    write_best_order(workdir, config, search.best, search.sentences, store.root)
    log.info("%s", "\n".join(search.sentences))
    log.info("done: the best order is the config %s, the report %s", workdir / BEST_ORDER, workdir / report.REPORT)


class Search:
    """A search in progress: the trials so far, as arms and with their scores."""

    def __init__(self, config: ConfigDict, problem: Problem, datasets: DataSets, store: Store):
        self.config, self.problem, self.datasets, self.store = config, problem, datasets, store
        self.planner = TrialPlanner(config, datasets)
        context = Context.of(config, store, datasets)
        self.scorer, self.make_other = Scorer(context), choose_work(context)
        self.arms: dict[Trial, PlannedArm] = {}
        self.final_arms: dict[tuple[Trial, int], PlannedArm] = {}
        self.scores: dict[Trial, Score] = {}
        self.maker = Maker(store, self.make)
        self.workdir: Path | None = None
        # Of the search, and of its finalists with other seeds.
        self.workers: dict[str, Workers] = {}
        self.rounds = 0
        self.best: Order = ()
        self.compared: Sequence[certainty.Compared] = ()
        self.sentences: Sequence[str] = ()
        self.stages, self.stopped = 0.0, False

    def check(self) -> None:
        """Checks every stage of the pool, and warns of what pretraining and validation share.

        Raises UserError or MissingFile.
        """
        planned = self.planner.plan([Trial((name,)) for name in self.problem.space.pool])
        held_out = {"validation": self.datasets.searched(self.planner.set, "validation")}
        for sets in dict.fromkeys(stage.sets for arm in planned.values() for stage in arm.stages):
            self.datasets.warn_of_shared_groups(sets, self.planner.set, held_out)

    def write_to(self, workdir: Path) -> None:
        """From now on the plan, the findings and the report are written to a workdir after every round, and the orders
        are taken from the storage, together with other workers.

        Raises UserError if the storage does not answer.
        """
        self.workdir = workdir
        if self.config.search.storage:
            name, kinds = name_study(self.config), {"": self.describe_trial}
            # Scores of other seeds do not compare with those of the search: they have a study of their own.
            if self.config.search.finalist_seeds:
                kinds[FINALIST] = self.describe_finalist
            storage = None if jax.process_index() else Storage(self.config.search.storage, self.store.root)
            for kind, describe in kinds.items():
                queue = storage and Queue(storage, f"{name} {kind}".strip(), tuple(self.config.search.pool))
                self.workers[kind] = Workers(self.maker, queue, describe)

    # The search

    def run(self) -> Outcome:
        """Runs the strategy to its end."""
        outcome = trials.run(self.problem.propose(), self.score, self.similarity, self.problem.budget)
        self.stages, self.stopped = outcome.stages, outcome.stopped
        return outcome

    def score(self, wanted: Sequence[Trial]) -> Mapping[Trial, Score]:
        """Trains and scores trials, as far as that was not done before."""
        planned = self.planner.plan(wanted)
        self.arms |= planned
        log.info("%d orders to score", len(planned))
        self.write()
        self.make_round([(trial, planned[trial]) for trial in wanted])
        found = {trial: self.read(planned[trial]) for trial in wanted}
        self.scores |= found
        self.write()
        return found

    def make_round(self, arms: Sequence[tuple[Trial, PlannedArm]], kind: str = "") -> None:
        """Makes orders, together with other workers. The start of all of them is no order, and waits in no queue."""
        self.maker.begin([arm for _, arm in arms])
        self.maker.make_all(arm for trial, arm in arms if trial == START)
        orders = [(trial, arm) for trial, arm in arms if trial != START]
        if kind in self.workers:
            self.rounds += 1
            self.workers[kind].make(Round.of(self.rounds, orders))
        else:
            self.maker.make_all(arm for _, arm in orders)

    def describe_trial(self, trial: Trial, arm: PlannedArm) -> findings.Node:
        """A trial that has ended, in the tree of orders."""
        return findings.make_node(trial, self.read(arm), self.read(self.arms[trial.beginning]))

    def similarity(self, one: Order, other: Order) -> float:
        """CKA of the backbones of two orders that were scored."""
        return compare_backbones(self.store, *(self.arms[Trial(order)].scores[0] for order in (one, other)))

    def read(self, arm: PlannedArm) -> Score:
        """The score of an arm; NaN if one of its stages diverged."""
        if self.maker.has_diverged(arm):
            return Score(float("nan"))
        return read_score(self.store, arm.scores[0])

    def make(self, piece: Piece, directory: Path) -> dict[str, Any]:
        """Does a piece of work in its folder, and returns the record."""
        if isinstance(piece, PlannedScore):
            return self.scorer.score(piece, directory)
        return self.make_other(piece, directory)

    # The finalists

    def compare(self, outcome: Outcome) -> None:
        """Finds the best of the finalists, and compares it with what is trained beside it."""
        fields = self.config.search
        parts = dict.fromkeys(outcome.ranking()[: fields.finalists], FINALIST)
        self.compare_parts(parts)
        best = self.compared[0].trial
        for part in fields.compare:
            trial = self.choose_reference(part, best, outcome)
            if trial is not None:
                parts.setdefault(trial, part)
        self.compare_parts(parts)
        self.best = self.compared[0].trial.order
        self.sentences = certainty.describe_comparison(
            self.compared,
            describe_score(self.config.search.proxy),
            tuple(fields.finalist_seeds) or (self.config.seed,),
            new=bool(fields.finalist_seeds),
        )
        self.write()

    def compare_parts(self, parts: Mapping[Trial, str]) -> None:
        """Trains trials with the seeds of the finalists, or if there are none with that of the search."""
        for seed in self.config.search.finalist_seeds:
            planned = self.planner.plan([trial for trial in parts if (trial, seed) not in self.final_arms], seed)
            self.final_arms |= {(trial, seed): arm for trial, arm in planned.items()}
        if not self.config.search.finalist_seeds:
            stages = dict.fromkeys(stage for trial in parts for stage in trial.stages())
            self.score([stage for stage in stages if stage not in self.scores])
        self.write()
        self.make_round([(trial, arm) for (trial, _), arm in self.final_arms.items()], FINALIST)
        self.compared = certainty.compare_finalists(parts, {trial: self.read_by_seed(trial) for trial in parts})

    def describe_finalist(self, trial: Trial, arm: PlannedArm) -> findings.Node:
        """A trial with another seed; without the gain, since the orders that it begins with have no score."""
        return findings.make_node(trial, self.read(arm))

    def read_by_seed(self, trial: Trial) -> dict[int, Score]:
        """The scores of a trial by seed: those of the finalists, or without them that of the search."""
        found = {seed: self.read(arm) for (other, seed), arm in self.final_arms.items() if other == trial}
        return found or {self.config.seed: self.scores[trial]}

    def choose_reference(self, part: str, best: Trial, outcome: Outcome) -> Trial | None:
        """What the best order is compared with, by chance if it is no other part.

        None for an order of one task, which is its own reverse and single.
        """
        if len(best.order) < 2:
            return None
        if part == REVERSE:
            return Trial(best.order[::-1])
        if part == SINGLE:
            alone = [trial for trial in outcome.ranking() if len(trial.order) == 1 and trial.order[0] in best.order]
            images = {trial: self.count_images(trial) for trial in (best, *alone[:1])}
            return Trial(alone[0].order, images[best] / images[alone[0]]) if alone else None
        generator = np.random.default_rng(seeds.derive(self.config.seed, "compared order"))
        return Trial(self.problem.space.draw(generator, len(best.order)))

    def count_images(self, trial: Trial) -> int:
        """Images that the stages of a trial show."""
        return sum(stage.images_shown for stage in self.arms[trial].stages)

    # What is written

    def write(self) -> None:
        """Writes the plan, so that `store prune` leaves the trials alone, and the findings with the report."""
        if self.workdir is None or jax.process_index():
            return
        plan = Plan((*self.arms.values(), *self.final_arms.values()))
        workdirs.write_plan(self.workdir, list_artifacts(plan, workdirs.name_store(self.config.runtime.store)))
        if self.scores:
            found = self.find()
            findings.write_findings(self.workdir, found)
            report.write_search_report(self.workdir)

    def find(self) -> findings.Findings:
        """What was found so far."""
        outcome = Outcome(self.scores, self.stages, self.stopped)
        fields = self.config.search
        names = {one.trial: name_trial(one.trial) for one in self.compared}
        return findings.Findings(
            strategy=fields.strategy,
            proxy=fields.proxy.proxy,
            metric=fields.proxy.get("metric", ""),
            best=self.best,
            nodes=findings.make_nodes(outcome),
            cost=findings.sum_cost(self.arms.values(), self.store),
            final_cost=findings.sum_cost(self.final_arms.values(), self.store, without=self.arms.values()),
            stopped=self.stopped,
            ranks=findings.correlate_ranks(outcome),
            compared=findings.describe_compared(self.compared, names),
            sentences=tuple(self.sentences),
        )

    def describe_next_round(self) -> str:
        """What exists of the search, and what its next round would train."""
        rounds: list[PlannedArm] = []
        if self.config.search.storage:
            found = read_diverged(self.config.search.storage, self.store.root, name_study(self.config))
            self.maker.diverged |= found

        def read_only(wanted: Sequence[Trial]) -> Mapping[Trial, Score]:
            planned = self.planner.plan(wanted)
            self.arms |= planned
            left = (arm for arm in planned.values() if not self.maker.has_diverged(arm))
            missing = [arm for arm in left if not self.maker.has_score(arm)]
            if missing:
                rounds.extend(missing)
                raise NotScored
            return {trial: self.read(arm) for trial, arm in planned.items()}

        with contextlib.suppress(NotScored):
            outcome = trials.run(self.problem.propose(), read_only, self.similarity, self.problem.budget)
            outcome.check()
            return f"all trials exist; the best order so far is {name_order(outcome.ranking()[0].order)}"
        return (
            f"the next round of '{self.problem.strategy}':\n{printing.describe_plan(Plan(tuple(rounds)), self.store)}"
        )
