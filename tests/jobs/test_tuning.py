"""Searches of a learning rate and a batch size in runs: keys, what is trained, and what must not happen."""

import json
import math

import pytest
import tiny
from short_runs import Killed, outcome, stage, stage_records
from short_runs import config as short_config

from aiseeme_jax import data, pretext, weights
from aiseeme_jax.curriculum import checks
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import PlannedStage
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.curriculum.stages import describe_tuning
from aiseeme_jax.curriculum.trials import Candidate, PlannedTrial, PlannedTuning
from aiseeme_jax.curriculum.tuning import plan_trial
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum, search, study
from aiseeme_jax.jobs.freezing import freeze_stage
from aiseeme_jax.search import findings, trial_work
from aiseeme_jax.search.best_order import to_values
from aiseeme_jax.search.tuning import list_trials
from aiseeme_jax.store import artifacts, listing
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training import loop
from aiseeme_jax.training.loop import Diverged
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")
# Around which is searched.
PUBLISHED = {"batch_size": 24, "optimizer": {"name": "adamw", "learning_rate": 1e-3}}
BOTH = ("learning_rate", "batch_size")


def judge(**changes):
    return base.proxy("knn", size=tiny.SIZE, views=tiny.PLAIN, neighbours=3, samples=5, **changes)


def tuning(proxy=None, **changes):
    small = {"auto": BOTH, "batches": (8, 16, 24), "trials": 4, "rungs": 2, "keep": 2, "share": 0.5}
    return base.tuning(proxy or judge(), **{**small, **changes})


def config(search=None, steps=8, **changes):
    tuned = stage("rotation", steps, tuning=search or tuning(), **{**PUBLISHED, **changes})
    return short_config((tuned, stage("npid", 2)), baselines=(), targets=())


def plan(made):
    return make_plan(made, DataSets(made))


def keys(made, kind=PlannedStage):
    return [piece.artifact.key for piece in plan(made).pieces() if isinstance(piece, kind)]


@pytest.fixture
def trained(monkeypatch):
    """Titles of the trials and stages that were trained, in the place of a training of trials.

    A score is the higher, the nearer the rate is to 0.002 on batches of 8.
    """
    done = []

    def do(self, trial, directory):
        done.append(trial.title)
        rate, batch = trial.candidate.learning_rate, trial.candidate.batch_size
        value = 0.9 - 0.1 * math.log(rate / 0.002) ** 2 - 0.1 * (batch != 8)
        rest = {"images": trial.stage.total_steps * batch, "seconds": 1.0, "devices": 1}
        return {"state": "scored", "value": value, "draws": [value, value + 0.01], **rest}

    def train(planned, context, directory):
        settled = context.settle(planned)
        done.append(f"{settled.artifact.label}: {settled.total_steps} steps of {settled.fields.batch_size}")
        written = weights.save_backbone(directory, context.load_start(planned.start), {})
        length = {"steps": settled.total_steps, "seconds": 1.0, "speed_of": settled.speed_of}
        return {"task": planned.fields.task, "backbone_hash": written, **length, **describe_tuning(planned, context)}

    monkeypatch.setattr(trial_work.TrialWork, "do", do)
    monkeypatch.setattr(curriculum, "train_stage", train)
    return done


def kill_after(saves):
    """Saves so many checkpoints, and is killed."""
    real, done = loop._Training._save, []

    def save(training, step, state, metrics):
        real(training, step, state, metrics)
        done.append(step)
        if len(done) == saves:
            training.store.wait()
            raise Killed

    return save


def found_in(workdir):
    (folder,) = workdir.glob("tuning/*")
    return artifacts.read_record(folder)


class TestKeys:
    def test_are_known_before_anything_is_trained(self):
        tuned, after = keys(config())
        (search,) = keys(config(), PlannedTuning)
        plain, plain_after = keys(config(base.tuning()))
        assert len({tuned, after, search, plain, plain_after}) == 5

    def test_a_search_that_is_off_is_in_no_key(self):
        made = short_config(baselines=())
        before = keys(made)
        made.stages[0].tuning.trials = 77
        assert keys(made) == before

    @pytest.mark.slow
    def test_every_field_of_a_search_changes_those_of_all_that_follows(self, monkeypatch):
        monkeypatch.setattr(checks, "check_stage", lambda *arguments: None)
        others = {
            "auto": BOTH[:1], "scaling": "none", "spread": 3.0,
            "batches": (8, 16), "share": 0.25, "sampler": "random", "points": 9, "pruner": "hyperband",
            "trials": 5, "round": 2, "rungs": 3, "keep": 3, "patience": 1, "range_test": True, "range_steps": 50,
            "noise_scale": True, "noise_batches": 3, "memory_limit": 2.0, "proxy": judge(temperature=0.1),
        }  # fmt: skip
        assert set(others) == set(base.tuning())
        kinds = (PlannedTuning, PlannedStage)
        found = [set(keys(config(), kind)) for kind in kinds]
        for name, value in others.items():
            changed = plan(config(tuning(**{name: value})))
            for kind, known in zip(kinds, found, strict=True):
                own = {piece.artifact.key for piece in changed.pieces() if isinstance(piece, kind)}
                assert own and not own & known, name
                known |= own

    @pytest.mark.slow
    def test_depend_on_what_is_searched_seed_start_and_length(self):
        (search,) = keys(config(), PlannedTuning)
        others = [config(steps=9), config(optimizer={"name": "sgd", "learning_rate": 1e-3}), config(batch_size=8)]
        seeded = config()
        seeded.seed = 5
        after = short_config((stage("npid", 2), config().stages[0]), baselines=())
        found = [search, *(key for made in (*others, seeded, after) for key in keys(made, PlannedTuning))]
        assert len(set(found)) == 6

    def test_do_not_depend_on_runtime(self, tmp_path):
        made = config()
        made.runtime.update({"store": str(tmp_path), "residence": "device", "log_every": 9, "evaluation_batch": 3})
        assert keys(made) == keys(config()) and keys(made, PlannedTuning) == keys(config(), PlannedTuning)

    def test_another_search_finds_the_same_trials(self):
        """A trial of full length has the key that a stage with its values would have, and no name of a search."""
        searches = [next(p for p in plan(config(one)).pieces() if isinstance(p, PlannedTuning))
                    for one in (tuning(), tuning(trials=7))]  # fmt: skip
        trials = [plan_trial(search, search.published, 0.5) for search in searches]
        assert trials[0].artifact.key == trials[1].artifact.key
        whole = plan_trial(searches[0], searches[0].published, 1.0)
        assert whole.stage.artifact.key == keys(config(base.tuning()))[0]


class TestTrials:
    def test_show_a_share_of_the_images_of_the_stage(self):
        search = next(piece for piece in plan(config(steps=12)).pieces() if isinstance(piece, PlannedTuning))
        images = 12 * search.published.batch_size
        for batch in search.batches:
            trial = plan_trial(search, Candidate(0.01, batch), 0.5)
            assert isinstance(trial, PlannedTrial) and trial.stage.tuning is None
            assert trial.stage.total_steps * batch == images / 2
            assert trial.stage.fields.optimizer.learning_rate == 0.01

    def test_warm_up_keeps_its_share(self):
        warm = {"warmup": base.duration(steps=4)}
        search = next(
            piece
            for piece in plan(config(tuning(batches=(8, 16)), steps=16, batch_size=16, schedule=warm)).pieces()
            if isinstance(piece, PlannedTuning)
        )
        published = search.published.batch_size
        trial = plan_trial(search, Candidate(0.01, published // 2), 0.5)
        assert trial.stage.total_steps == 16 and trial.stage.fields.schedule.warmup.steps == 4


class TestRun:
    def test_trains_the_stage_with_what_was_found_and_says_so(self, tmp_path, trained):
        curriculum.run(config(tuning(pruner="none", trials=9)), tmp_path / "run")
        found = found_in(tmp_path / "run")
        best = max(found["trials"], key=lambda row: row["value"])
        assert (found["learning_rate"], found["batch_size"]) == (best["learning_rate"], best["batch_size"])
        record, after = stage_records(tmp_path / "run")
        assert record["tuning"]["batch_size"] == found["batch_size"] and record["tuning"]["trials"] == found["trials"]
        assert "tuning" not in after
        # 8 steps of the published 24 images.
        assert f"00-rotation: {8 * 24 // found['batch_size']} steps of {found['batch_size']}" in trained
        assert record["steps"] == 8 * 24 // found["batch_size"]
        assert f"batches of {found['batch_size']}" in (tmp_path / "run" / "report.html").read_text()
        assert all(entry.wanted for entry in listing.list_store([tmp_path / "run"])), "prune leaves trials alone"

    def test_the_record_and_the_report_say_what_became_of_each_trial(self, tmp_path, trained, monkeypatch):
        do = trial_work.TrialWork.do

        def fail_some(self, trial, directory):
            if trial.candidate.batch_size == 16:
                nothing = {"value": None, "draws": [], "reason": "it is", "images": 0, "seconds": 0.0, "devices": 1}
                return {"state": "too large" if trial.candidate.learning_rate < 0.001 else "diverged", **nothing}
            return do(self, trial, directory)

        monkeypatch.setattr(trial_work.TrialWork, "do", fail_some)
        curriculum.run(config(tuning(sampler="grid", points=3, trials=9)), tmp_path / "run")
        found = found_in(tmp_path / "run")
        states = [row["state"] for row in found["trials"]]
        # Nine for a quarter of the stage, of which three fail; the best four for half of it.
        assert states[:9].count("trained further") == 4 and states[:9].count("pruned") == 2
        assert states[:9].count("diverged") + states[:9].count("too large") == 3
        assert sorted(states[9:]) == ["chosen", "not chosen", "not chosen", "not chosen"]
        assert {"2 of 13 trials were pruned.", "It is."} <= set(found["sentences"])
        page = (tmp_path / "run" / "report.html").read_text()
        assert page.count("<td>pruned</td>") == 2 and page.count("<strong>chosen</strong>") == 1
        assert "Score of the shortest trials of rotation over the learning rate" in page

    def test_what_it_cost_is_part_of_the_cost_of_its_stage(self, tmp_path, trained):
        curriculum.run(config(), tmp_path / "run")
        found = found_in(tmp_path / "run")
        assert found["images"] == sum(row["images"] for row in found["trials"]) == 4 * 48 + 2 * 96
        arm = plan(config()).arms[0]
        cost = findings.sum_cost((arm, arm), Store(tmp_path / "run"))
        assert (cost.images, cost.device_seconds) == (8 * 24 + 2 * 8 + found["images"], 2.0 + 6.0)

    def test_again_trains_nothing_and_a_wider_search_only_what_is_new(self, tmp_path, trained):
        curriculum.run(config(), tmp_path / "run")
        assert len(trained) == 4 + 2 + 2
        trained.clear()
        curriculum.run(config(), tmp_path / "run")
        assert trained == []
        curriculum.run(config(tuning(patience=5)), tmp_path / "run")
        assert not any("rate" in title for title in trained), "the trials are the same"

    @pytest.mark.slow
    def test_after_a_kill_it_goes_on(self, tmp_path, trained, monkeypatch):
        curriculum.run(config(), tmp_path / "whole")
        whole = list(trained)
        trained.clear()
        do = trial_work.TrialWork.do

        def kill(self, trial, directory):
            if len(trained) == 3:
                raise Killed
            return do(self, trial, directory)

        monkeypatch.setattr(trial_work.TrialWork, "do", kill)
        with pytest.raises(Killed):
            curriculum.run(config(), tmp_path / "killed")
        assert len(trained) == 3
        monkeypatch.setattr(trial_work.TrialWork, "do", do)
        curriculum.run(config(), tmp_path / "killed")
        assert sorted(trained) == sorted(whole)
        assert found_in(tmp_path / "killed") == found_in(tmp_path / "whole")

    @pytest.mark.slow
    def test_two_workers_find_what_one_finds(self, tmp_path, trained):
        """The second one does a trial while the first does another; what each finds done, it does not do."""
        curriculum.run(config(), tmp_path / "alone")
        count, done = len(trained), []
        do = trial_work.TrialWork.do
        store = Store(tmp_path / "both")
        made = config()
        search = next(piece for piece in plan(made).pieces() if isinstance(piece, PlannedTuning))

        def interrupt(self, trial, directory):
            if not done:
                done.append(1)
                other = list_trials(search, store)[-1]
                store.begin(other.artifact)
                store.finish(other.artifact, {**do(self, other, directory), "made_from": {}})
            return do(self, trial, directory)

        trained.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trial_work.TrialWork, "do", interrupt)
            curriculum.run(made, tmp_path / "both")
        assert len(trained) == count == len(set(trained))
        assert found_in(tmp_path / "both") == found_in(tmp_path / "alone")

    def test_plan_says_what_would_be_tried_and_writes_nothing(self, tmp_path, capsys, quick_forecasts):
        curriculum.run(config(tuning(batches=(8, 16, 64))), tmp_path / "run", plan_only=True)
        said = capsys.readouterr().out
        assert "batch size 8, 16, by tpe: 4 at 25 %, 2 at 50 % of the stage; 0 trials exist" in said
        assert "a batch of 64 is left out: a batch of 64 is larger than the split of 24 images" in said
        assert "to search: settings of 1 stages" in said and not (tmp_path / "run").exists()

    def test_if_all_diverge_it_says_so(self, tmp_path, monkeypatch):
        lost = {"state": "diverged", "value": None, "draws": [], "images": 0, "seconds": 0.0, "devices": 1}
        monkeypatch.setattr(trial_work.TrialWork, "do", lambda *arguments: dict(lost))
        with pytest.raises(Diverged, match="every trial diverged or was too large; lower the learning rate"):
            curriculum.run(config(), tmp_path / "run")


@pytest.mark.slow
class TestOtherJobs:
    def test_a_search_for_an_order_searches_the_stages_of_its_pool_too(self, tmp_path, trained):
        made = base.get_search_config()
        made.update({name: value for name, value in short_config().items() if name in ("model", "runtime")})
        with made.search.unlocked():
            made.search.pool = base.ConfigDict({"rotation": config().stages[0]}).lock()
            made.search.proxy = judge()
        made.search.update({"length": 1, "finalist_seeds": ()})
        search.run(made, tmp_path / "run")
        found = found_in(tmp_path / "run")
        assert sum("rate" in title for title in trained) == 6
        cost = findings.read_findings(tmp_path / "run").cost
        assert (cost.stages, cost.images) == (1, 8 * 24 + found["images"])

    def test_a_study_searches_for_each_of_its_seeds(self, tmp_path, trained):
        made = base.get_study_config()
        made.update({name: value for name, value in short_config().items() if name not in ("job", "stages", "budget")})
        made.stages, made.baselines = config().stages[:1], ("scratch",)
        made.study.update({"seeds": (0, 1)})
        study.run(made, tmp_path / "run")
        assert len(list((tmp_path / "run").glob("tuning/*/record.json"))) == 2
        assert sum("rate" in title for title in trained) == 12


@pytest.mark.slow
class TestRealTrials:
    def test_a_search_from_begin_to_end(self, tmp_path):
        """With the noise scale, and a rate at which every training diverges."""
        small = {"trials": 2, "rungs": 1, "sampler": "grid", "points": 2, "spread": 1e30}
        made = config(
            tuning(auto=BOTH[:1], **small, noise_scale=True, noise_batches=1),
            steps=4, batch_size=16, optimizer={"name": "sgd", "learning_rate": 1e-3},
        )  # fmt: skip
        made.stages = made.stages[:1]
        made.patience = 1
        curriculum.run(made, tmp_path / "run")
        found = found_in(tmp_path / "run")
        assert sorted(row["state"] for row in found["trials"]) == ["chosen", "diverged"]
        assert found["learning_rate"] < 1 and "1 of 2 trials diverged." in found["sentences"]
        assert found["noise_scale"]["large"] == 16
        left = [path.name for folder in (tmp_path / "run").glob("trials/*") for path in folder.iterdir()]
        assert weights.BACKBONE not in left and "checkpoints" not in left

    def test_kills_in_the_middle_of_a_trial_and_of_the_stage_change_nothing(self, tmp_path, monkeypatch):
        made = config(tuning(auto=BOTH[:1], trials=2, rungs=1, share=0.5), steps=12, batch_size=8)
        made.stages = made.stages[:1]
        # Checkpoints are saved every two steps of six, six and twelve: in the first trial, in the second, in the stage.
        for saves in (1, 3, 4):
            with monkeypatch.context() as patch:
                patch.setattr(loop._Training, "_save", kill_after(saves))
                with pytest.raises(Killed):
                    curriculum.run(made, tmp_path / "killed")
        curriculum.run(made, tmp_path / "killed")
        curriculum.run(made, tmp_path / "whole")
        assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
        killed, whole = (found_in(tmp_path / name)["trials"] for name in ("killed", "whole"))
        assert [{**row, "seconds": 0} for row in killed] == [{**row, "seconds": 0} for row in whole]

    def test_what_does_not_fit_into_memory_is_left_out_before_it_runs(self, tmp_path, monkeypatch):
        monkeypatch.setattr(trial_work, "train_stage", lambda *arguments: pytest.fail("it was trained"))
        with pytest.raises(Diverged, match="every trial diverged or was too large"):
            curriculum.run(config(tuning(trials=1, memory_limit=1e-6)), tmp_path / "run")
        (record,) = [artifacts.read_record(folder) for folder in (tmp_path / "run").glob("trials/*")]
        assert record["state"] == "too large" and "needs 0." in record["reason"]

    def test_no_test_image_reaches_a_search(self, tmp_path, monkeypatch):
        class Sealed:
            def __getattr__(self, name):
                raise AssertionError(f"the search read '{name}' of the test images")

        def open_split(name, split, data_dir):
            return Sealed() if split == "test" else tiny.split(24, seed=["train", "validation"].index(split))

        monkeypatch.setattr(data, "open_split", open_split)
        made = config(tuning(trials=1, rungs=1))
        made.stages = made.stages[:1]
        curriculum.run(made, tmp_path / "run")
        assert found_in(tmp_path / "run")["value"] is not None


class TestBadInput:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"sampler": "clever"}, "tuning.sampler: 'clever' is unknown; known are tpe, random, grid"),
            ({"pruner": "median"}, "tuning.pruner: 'median' is unknown; known are halving, hyperband, none"),
            ({"scaling": "cubic"}, "tuning.scaling: 'cubic' is unknown; known are by_optimizer, linear, square_root"),
            ({"trials": 0}, "tuning.trials is 0; it must be at least 1"),
            ({"keep": 1}, "tuning.keep is 1; it must be at least 2"),
            ({"share": 0.0}, r"tuning.share is 0.0; it must lie in \(0, 1\]"),
            ({"spread": 1.0}, "tuning.spread is 1.0; it must be above 1 and finite"),
            ({"patience": 0}, "tuning.patience is 0"),
            ({"memory_limit": -1.0}, "tuning.memory_limit is -1.0"),
            ({"batches": ()}, "tuning.batches has no size that can be: it is empty"),
            ({"batches": (48, 64)}, "a batch of 48 is larger than the split of 24 images"),
            ({"batches": (4, 6)}, "no size that can be: a batch of 4 does not divide over 8 devices"),
            ({"batches": (0,)}, "a batch size is 0"),
            ({"auto": ("momentum",)}, "tuning.auto: 'momentum' is unknown; known are learning_rate, batch_size"),
        ],
    )  # fmt: skip
    def test_a_field_is_named(self, changes, message):
        with pytest.raises(UserError, match=r"stages\[0\] \(rotation\): .*" + message):
            plan(config(tuning(**changes)))

    def test_a_batch_that_is_too_small_for_the_task_is_left_out(self, monkeypatch):
        monkeypatch.setattr(pretext.TASKS["simclr"], "MINIMUM_BATCH", 9)
        made = short_config((stage("simclr", 8, tuning=tuning(), **PUBLISHED),), baselines=())
        search = next(piece for piece in plan(made).pieces() if isinstance(piece, PlannedTuning))
        assert search.batches == (16, 24) and "simclr: a batch of 8 is too small" in search.skipped[0]

    def test_a_trial_that_is_shorter_than_its_warm_up(self):
        warm = {"warmup": base.duration(epochs=1)}
        with pytest.raises(UserError, match="in the shortest trial: schedule.warmup lasts 1 steps, the whole stage 1"):
            plan(config(tuning(batches=(16,), rungs=3), steps=4, schedule=warm))

    def test_nothing_to_choose(self):
        with pytest.raises(UserError, match="tuning has nothing to choose: the only batch size is 8"):
            plan(config(tuning(auto=("batch_size",), batches=(8,))))

    def test_of_a_stage_with_members_needs_a_proxy(self):
        members = (base.stage("rotation"), base.stage("npid"))
        with pytest.raises(UserError, match="batch_size of a stage with members .* nothing says by which score"):
            base.stage("joint", members=members, batch_size="auto")

    def test_a_search_that_was_switched_on_without_a_proxy(self):
        made = config(base.tuning(batches=(8, 16)))
        made.stages[0].tuning.auto = ("batch_size",)
        with pytest.raises(UserError, match="tuning.proxy is empty, and trials are scored by it"):
            plan(made)

    def test_a_number_in_the_place_of_auto_says_where_it_belongs(self):
        with pytest.raises(UserError, match=r'learning_rate of a stage may only be "auto"; a number belongs into'):
            base.stage("rotation", learning_rate=0.1)

    def test_a_proxy_without_labels(self, monkeypatch):
        monkeypatch.setattr(data, "open_split", lambda *_: data.from_arrays(tiny.images(24), name="bare:train"))
        made = config()
        with pytest.raises(UserError, match=r"tuning: proxy \(knn\): the proxy 'knn' needs labels"):
            plan(made)


class TestConfig:
    def test_auto_searches_around_what_is_given_or_the_defaults(self):
        made = base.stage("rotation", size=48, preset="dermoscopy", learning_rate="auto", batch_size="auto")
        plain = base.stage("rotation", size=48, preset="dermoscopy")
        assert made.tuning.auto == BOTH and made.tuning.is_locked
        assert (made.batch_size, made.optimizer) == (plain.batch_size, plain.optimizer)
        assert made.tuning.proxy == base.proxy("knn", size=48, preset="dermoscopy")
        given = base.stage("rotation", optimizer={"name": "adamw", "learning_rate": "auto"}, tuning={"trials": 5})
        assert given.tuning.auto == BOTH[:1] and given.tuning.trials == 5 and given.optimizer.name == "adamw"

    def test_a_batch_that_may_not_be_tried_becomes_the_nearest_that_may(self):
        """The rate is scaled, and as many images are shown."""
        sgd = {"name": "sgd", "learning_rate": 0.32}
        for wanted, batches, expected, steps in ((256, (8, 16, 64), 16, 128), (10, (8, 16), 8, 10)):
            search = tuning(batches=batches)
            made = config(search, batch_size=wanted, optimizer=sgd)
            (planned,) = (piece for piece in plan(made).pieces() if isinstance(piece, PlannedTuning))
            assert planned.published.batch_size == expected and planned.stage.total_steps == steps
            assert planned.published.learning_rate == pytest.approx(0.32 * expected / wanted)
            assert made.stages[0].batch_size == wanted, "the config itself stays as it is"

    def test_values_make_the_same_stage(self):
        made = config().stages[0]
        again = base.stage_from_values(to_values(made))
        assert json.loads(again.to_json_best_effort()) == json.loads(made.to_json_best_effort())
        assert again.tuning.is_locked and again.tuning.proxy.is_locked

    def test_one_search_may_be_used_in_two_stages(self):
        shared = tuning(auto=())
        one = stage("rotation", 8, tuning=shared, learning_rate="auto", batch_size="auto")
        other = stage("rotation", 8, tuning=shared, batch_size="auto")
        assert (one.tuning.auto, other.tuning.auto) == (BOTH, ("batch_size",))
        assert shared.auto == ()


class TestMembers:
    """Stages with members are searched as others are."""

    def made(self, kind, **changes):
        members = tuple(base.stage(task, size=tiny.SIZE, views=tiny.PLAIN) for task in ("rotation", "npid"))
        search = tuning(**changes.pop("tuning", {}))
        fields = {**PUBLISHED, "duration": base.duration(steps=8), **changes}
        return short_config((base.stage(kind, members=members, tuning=search, **fields),), baselines=(), targets=())

    def test_a_joint_stage_shows_as_many_images_with_every_candidate(self):
        (search,) = (piece for piece in plan(self.made("joint")).pieces() if isinstance(piece, PlannedTuning))
        trial = plan_trial(search, Candidate(0.01, 8), 0.5)
        assert trial.stage.images_shown == search.stage.images_shown / 2 == 4 * 24 * 2

    def test_batches_with_fewer_intervals_than_members_are_left_out(self):
        made = self.made("bandit", interval=2, tuning={"batches": (8, 24), "rungs": 1, "share": 0.25})
        (search,) = (piece for piece in plan(made).pieces() if isinstance(piece, PlannedTuning))
        assert search.batches == (8,) and "a batch of 24 is left out: in the shortest trial: " in search.skipped[0]

    def test_what_is_frozen_has_what_was_found(self, tmp_path, trained, monkeypatch):
        curriculum.run(self.made("joint", optimizer={"name": "sgd", "learning_rate": 1e-3}), tmp_path / "run")
        found = found_in(tmp_path / "run")
        (entry,) = stage_records(tmp_path / "run")
        summary = {"kind": "joint", "members": ["npid", "rotation"], "mean": [0.4, 0.6]}
        (frozen,) = freeze_stage(to_values(self.made("joint").stages[0]), {**entry, "pacing": summary})
        assert frozen["batch_size"] == found["batch_size"] and frozen["tuning"]["auto"] == ()
        assert frozen["optimizer"]["learning_rate"] == found["learning_rate"]
        assert frozen["duration"]["steps"] == 8 * 24 / found["batch_size"]
        assert base.stage_from_values(frozen).batch_size == found["batch_size"]
