"""The train step and the loop: what they change, what they refuse, what they log."""

import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import no_events  # noqa: F401

from aiseeme_jax import augment, data, distill, losses, seeds, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import checkpoints
from aiseeme_jax.task import Average, Bank, Output, Task
from aiseeme_jax.training import loop, stopping
from aiseeme_jax.training.state import Program, make_state, task_of
from aiseeme_jax.training.step import train_step, transient_programs

pytestmark = pytest.mark.usefixtures("no_events")


class Toy(Task):
    """Compiles at once: regression to 1, a bank that counts; `poison` in the batch spoils the loss or the gradient, or
    says that the batch is empty."""

    def __init__(self, body: nnx.Module):
        super().__init__(body, augment.Views(**{**tiny.STILL, "size": tiny.SIZE, "crop_scale": (0.5, 1.0)}))
        self.head = nnx.Linear(body.features, 2, rngs=nnx.Rngs(0))
        self.counted = Bank(jnp.zeros(()))
        self.progress = Bank(jnp.zeros(()))

    def views(self, key, batch):
        return {**super().views(key, batch), "poison": batch.get("poison", jnp.zeros(3))}

    def loss(self, views, progress):
        features = self.backbone(views["image"], train=True)["pooled"]
        self.counted.set_value(self.counted.get_value() + 1)
        weight = self.head.bias.get_value().sum()
        in_loss, in_gradient, empty = views["poison"]
        # At 0 the square root is finite and its gradient is not.
        root = jnp.sqrt(jnp.where(in_gradient > 0, 0.0 * weight, 1.0)) - 1
        loss = losses.mse(self.head(features), jnp.ones((len(features), 2))) + root + jnp.where(in_loss > 0, jnp.nan, 0)
        return Output(loss, {"shown": views["image"].mean()}, views["image"], features, empty > 0)

    def after_update(self, progress):
        self.progress.set_value(progress)


POISON = {"none": (0.0, 0.0, 0.0), "loss": (1.0, 0.0, 0.0), "gradient": (0.0, 1.0, 0.0), "empty": (0.0, 0.0, 1.0)}


def batch(poison: str = "none"):
    sharded = tiny.on_devices(tiny.batch(), 8)
    return {**sharded, "poison": jnp.array(POISON[poison])}


def poisoned(steps, kind: str = "loss"):
    """Batches of which those of the given steps, counted from 1, are bad."""
    return lambda start: (batch(kind if step in steps else "none") for step in range(start + 1, 10**6))


def toy_stage(**changes):
    """Of one length for nearly all tests: an equal stage is not compiled anew."""
    return tiny.stage("rotation", **{"steps": 8, "optimizer": {"learning_rate": 0.003}, **changes})


def start(stage, task=None, *, frozen=None, patience: int = 10):
    return make_state(task or Toy(tiny.Linear()), tiny.recipe(stage, patience=patience), frozen)


def snapshot(state):
    return {name: tiny.arrays(getattr(state, name)) for name in ("params", "rest", "optimizer")}


def step(program, state, poison: str = "none", key: int = 0):
    return train_step(program, state, batch(poison), jax.random.key(key))


class TestNonFinite:
    @pytest.mark.parametrize("poison", [pytest.param("loss", marks=pytest.mark.slow), "gradient"])
    def test_step_changes_the_counters_alone(self, poison):
        program, state = start(toy_stage())
        state, _, _ = step(program, state)
        before = snapshot(state)
        state, metrics, _ = step(program, state, poison)
        assert np.isfinite(metrics["loss"]) == (poison == "gradient")
        assert np.isfinite(metrics["gradient_norm"]) == (poison == "loss")
        for name, tree in before.items():
            tiny.assert_same(getattr(state, name), tree)
        assert (int(state.step), int(state.skipped), int(state.streak), int(state.halted)) == (2, 1, 1, -1)
        assert float(metrics["skipped_steps"]) == 1
        state, metrics, _ = step(program, state)
        tiny.assert_different(state.params, before["params"])
        assert (int(state.skipped), int(state.streak)) == (1, 0) and np.isfinite(metrics["loss"])

    def test_an_empty_batch_changes_the_counters_alone_and_ends_no_streak(self):
        program, state = start(toy_stage())
        for poison, streak in (("none", 0), ("loss", 1)):
            state, _, _ = step(program, state, poison)
            assert int(state.streak) == streak
        before = snapshot(state)
        state, metrics, _ = step(program, state, "empty")
        for name, tree in before.items():
            tiny.assert_same(getattr(state, name), tree)
        assert (int(state.step), int(state.skipped), int(state.streak)) == (3, 2, 1) and np.isfinite(metrics["loss"])
        state, _, _ = step(program, state)
        assert (int(state.skipped), int(state.streak)) == (2, 0)
        tiny.assert_different(state.params, before["params"])

    def test_nothing_is_updated_once_patience_is_over(self):
        program, state = start(toy_stage(), patience=2)
        for _ in range(2):
            state, _, _ = step(program, state, "loss")
        before = snapshot(state)
        state, _, _ = step(program, state)
        for name, tree in before.items():
            tiny.assert_same(getattr(state, name), tree)
        assert int(state.halted) == 2

    @pytest.mark.slow
    def test_ten_in_a_row_end_the_run_and_the_last_good_checkpoint_stays(self, tmp_path):
        stage = toy_stage(steps=20)
        pace = {"log_every": 3, "checkpoint_every": 5}
        with pytest.raises(loop.Diverged, match="not finite for 10 steps in a row, the last at step 16; .*clip_norm"):
            tiny.fit(Toy(tiny.Linear()), stage, tmp_path, batches=poisoned(range(7, 100)), **pace)
        program, state = start(stage)
        for _ in range(6):
            state, _, _ = step(program, state, key=seeds.derive(0, "steps"))
        kept = newest(tmp_path, stage)
        assert int(kept.step) == 15 and int(kept.halted) == -1
        for name, tree in snapshot(state).items():
            tiny.assert_same(getattr(kept, name), tree)

    @pytest.mark.slow
    def test_nine_in_a_row_are_passed_over_and_reported(self, tmp_path):
        result = tiny.fit(Toy(tiny.Linear()), toy_stage(steps=20), tmp_path, batches=poisoned(range(2, 11)))
        assert result.record["skipped_steps"] == 9
        assert float(result.task.counted.get_value()) == 11


@functools.cache
def one_step(**optimizer):
    """Parameters before and after the first step, its gradient and its metrics."""
    program, state = start(toy_stage(optimizer={"learning_rate": 0.1, "momentum": 0.0, **optimizer}))
    before, gradient = tiny.arrays(state.params), first_gradient()
    state, metrics, _ = step(program, state)
    return before, tiny.arrays(state.params), gradient, metrics


@functools.cache
def first_gradient():
    program, state = start(toy_stage())

    def loss(params):
        task = nnx.merge(program.graph, params, state.rest)
        return task.loss(task.views(jax.random.fold_in(jax.random.key(0), 0), batch()), 0.0).loss

    return tiny.arrays(jax.jit(jax.grad(loss))(state.params))


class TestStep:
    @pytest.mark.slow
    def test_sgd_moves_against_the_gradient_by_the_learning_rate(self):
        before, after, gradient, metrics = one_step(weight_decay=0.0)
        for name in before:
            np.testing.assert_allclose(after[name], before[name] - 0.1 * gradient[name], rtol=1e-4, atol=1e-6)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradient.values()))
        assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
        assert float(metrics["learning_rate"]) == pytest.approx(0.1)

    def test_gradient_is_clipped(self):
        before, after, _, metrics = one_step(weight_decay=0.0, clip_norm=0.01)
        moved = np.sqrt(sum(np.sum(np.square(after[name] - before[name])) for name in before))
        assert float(metrics["gradient_norm"]) > 0.1
        assert moved == pytest.approx(0.1 * 0.01, rel=1e-3)

    def test_weights_decay_and_biases_do_not(self):
        plain = one_step(weight_decay=0.0)[1]
        before, decayed, _, _ = one_step(weight_decay=0.5)
        for name, value in decayed.items():
            decay = 0.0 if "bias" in name else 0.1 * 0.5 * before[name]
            np.testing.assert_allclose(value, plain[name] - decay, rtol=1e-4, atol=1e-6)

    def test_every_step_and_seed_sees_other_views_and_the_same_ones_again(self):
        def shown(seed):
            program, state = start(toy_stage())
            found = []
            for _ in range(3):
                state, metrics, _ = step(program, state, key=seed)
                found.append(float(metrics["shown"]))
            return found

        assert shown(0) == shown(0)
        assert len(set(shown(0) + shown(1))) == 6

    def test_task_hears_after_each_update_how_far_the_stage_is(self):
        program, state = start(toy_stage())
        for done in (0.125, 0.25):
            state, _, _ = step(program, state)
            assert float(task_of(program, state).progress.get_value()) == done

    def test_a_moving_average_takes_in_the_weights_after_the_update(self):
        class Averaged(Toy):
            def __init__(self, body):
                super().__init__(body)
                self.target = Average(self.head)

            def after_update(self, progress):
                self.target.update(self.head, 0.75)

        program, state = start(toy_stage(optimizer={"learning_rate": 0.1}), Averaged(tiny.Linear()))
        before = np.array(task_of(program, state).head.kernel[...])
        task = task_of(program, step(program, state)[0])
        average = task.target.module(task.head)
        assert not np.allclose(task.head.kernel[...], before, atol=1e-4)
        expected = 0.75 * before + 0.25 * task.head.kernel[...]
        np.testing.assert_allclose(average.kernel[...], expected, rtol=1e-5)

    def test_what_a_task_freezes_stays_and_starts_afresh(self):
        """Of AdamW a first step is as long as the rate at most, however long it was waited for."""

        class Held(Toy):
            def frozen(self, progress):
                return {"head.kernel": progress < 0.5}

        adamw = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.5}
        program, state = start(toy_stage(optimizer=adamw, schedule={"name": "constant"}), Held(tiny.Linear()))
        kernels, bodies = [], []
        for _ in range(5):
            task = task_of(program, state)
            kernels.append(np.array(task.head.kernel[...]))
            bodies.append(np.array(task.backbone.map.kernel[...]))
            state, _, _ = step(program, state)
        kernels.append(np.array(task_of(program, state).head.kernel[...]))
        for before, after in zip(kernels[:4], kernels[1:5], strict=True):
            np.testing.assert_array_equal(before, after)
        moved = kernels[5] - (1 - 0.1 * 0.5) * kernels[4]
        np.testing.assert_allclose(np.abs(moved), 0.1, rtol=1e-3)
        assert all((one != two).any() for one, two in zip(bodies[:4], bodies[1:], strict=True))

    def test_callers_task_survives_the_donation(self):
        task = Toy(tiny.Linear())
        before = tiny.arrays(task)
        step(*start(toy_stage(), task))
        tiny.assert_same(task, before)

    def test_equal_stages_share_one_compilation(self):
        step(*start(toy_stage()))
        compiled = train_step._cache_size()
        step(*start(toy_stage()))
        assert train_step._cache_size() == compiled
        step(*start(toy_stage(optimizer={"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.25})))
        assert train_step._cache_size() == compiled + 1

    def test_what_is_compiled_for_a_while_is_let_go_and_nothing_else(self):
        kept, state = start(toy_stage())
        step(kept, state)
        compiled, jitted = train_step._cache_size(), train_step.of(kept)
        with transient_programs():
            step(*start(toy_stage()))
            program, state = start(toy_stage(steps=5))
            step(program, state)
            assert train_step._cache_size() == compiled + 1
        assert program not in train_step.programs
        assert train_step._cache_size() == compiled and train_step.of(kept) is jitted

    @pytest.mark.slow
    def test_loop_does_not_look_its_program_up_at_every_step(self, tmp_path, monkeypatch):
        calls, real = [], Program.__hash__
        monkeypatch.setattr(Program, "__hash__", lambda program: calls.append(1) or real(program))
        tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path)
        assert 0 < len(calls) < 8


class TestDistillation:
    def stage(self, kind, **changes):
        return toy_stage(distill={"kind": kind, "weight": 0.5, "temperature": 2.0}, task_weight=0.25, **changes)

    def start(self, stage, teacher, task=None):
        task = task or Toy(tiny.Linear())
        return start(stage, task, frozen=taught(task, stage, teacher))

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["kl", "mse"])
    def test_loss_starts_at_nothing_and_grows_as_the_student_leaves_its_teacher(self, kind):
        program, state = self.start(self.stage(kind), tiny.Linear())
        state, metrics, _ = step(program, state)
        assert float(metrics["distill_loss"]) == pytest.approx(0, abs=1e-7)
        assert float(metrics["loss"]) == pytest.approx(0.25 * float(metrics["task_loss"]))
        state, metrics, _ = step(program, state)
        assert float(metrics["distill_loss"]) > 1e-6
        expected = 0.25 * float(metrics["task_loss"]) + 0.5 * float(metrics["distill_loss"])
        assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)

    def test_mse_compares_pooled_features_of_the_same_images(self):
        student, teacher = tiny.Linear(seed=0), tiny.Linear(seed=1)
        task = Toy(student)
        views = task.views(jax.random.fold_in(jax.random.key(0), 0), batch())["image"]
        expected = np.mean(np.square(student(views, train=True)["pooled"] - teacher(views, train=False)["pooled"]))
        _, metrics, _ = step(*self.start(self.stage("mse"), teacher, task))
        assert float(metrics["distill_loss"]) == pytest.approx(float(expected), rel=1e-5)

    @pytest.mark.slow
    def test_weight_goes_its_way_from_the_first_step_to_the_last(self):
        stage = toy_stage(steps=3, distill={"kind": "mse", "weight": 0.5, "schedule": "linear", "final_weight": 2.0})
        program, state = self.start(stage, tiny.Linear(seed=1))
        for weight in (0.5, 1.25, 2.0):
            state, metrics, _ = step(program, state)
            expected = metrics["task_loss"] + weight * metrics["distill_loss"]
            assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)

    def test_teacher_never_changes(self, tmp_path):
        teacher = tiny.Normed(seed=1)
        before = weights.backbone_hash(teacher)
        stage = self.stage("mse")
        program, state = self.start(stage, teacher)
        inside = tiny.arrays(state.frozen)
        for _ in range(3):
            state, _, _ = step(program, state)
        tiny.assert_same(state.frozen, inside)
        assert weights.backbone_hash(teacher) == before

    @pytest.mark.slow
    def test_resuming_under_another_teacher_is_refused(self, tmp_path):
        stage = self.stage("mse")

        def fit(seed, **options):
            task = Toy(tiny.Linear())
            return tiny.fit(task, stage, tmp_path, frozen=taught(task, stage, tiny.Linear(seed=seed)), **options)

        one, other = (weights.backbone_hash(tiny.Linear(seed=seed)) for seed in (1, 2))
        with pytest.raises(Killed):
            fit(1, batches=killed_after(3))
        changed = f"was distilled from another teacher.*previous {one[:12]} -> {other[:12]}.*store remove {tmp_path}"
        with pytest.raises(ValueError, match=changed):
            fit(2)
        with pytest.raises(ValueError, match=f"previous {one[:12]} -> .none."):
            tiny.fit(Toy(tiny.Linear()), stage, tmp_path)
        assert fit(1).record["teachers"] == {"previous": one}

    @pytest.mark.slow
    @pytest.mark.parametrize("old", [True, False])
    def test_resuming_from_another_start_or_on_other_images_is_refused(self, old, tmp_path, monkeypatch):
        def fit(*, seed=0, **options):
            options = {"identity": {"data": {"images": 24, "version": "1.0.0"}}, **options}
            return tiny.fit(Toy(tiny.Linear(seed=seed)), toy_stage(), tmp_path, **options)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            if old:
                # As records were before they said it.
                real = checkpoints.Checkpoints.save
                known = lambda record: {k: v for k, v in record.items() if k not in ("start_hash", "data")}  # noqa: E731
                patch.setattr(checkpoints.Checkpoints, "save", lambda *a: real(*a[:-1], known(a[-1])))
            fit(batches=killed_after(3))
        one, other = (weights.backbone_hash(tiny.Linear(seed=seed))[:12] for seed in (0, 1))
        changed = {
            f"started from another backbone.*start_hash {one} -> {other}.*store remove {tmp_path}": {"seed": 1},
            "trained on other data.*: images 24 -> 839, version 1.0.0 -> 1.1.0.*store remove": {
                "identity": {"data": {"images": 839, "version": "1.1.0"}}
            },
        }
        for message, options in changed.items() if not old else ():
            with pytest.raises(ValueError, match=message):
                fit(**options)
        record = fit().record
        assert record["start_hash"][:12] == one and record["data"] == {"images": 24, "version": "1.0.0"}

    @pytest.mark.slow
    def test_resuming_with_another_identity_of_any_name_is_refused(self, tmp_path):
        def fit(**options):
            return tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path, **options)

        with pytest.raises(Killed):
            fit(batches=killed_after(3), identity={"prior": "normal"})
        with pytest.raises(UserError, match="belongs to another prior.*normal -> uniform.*store remove"):
            fit(identity={"prior": "uniform"})
        assert fit(identity={"prior": "normal"}).record["prior"] == "normal"

    @pytest.mark.slow
    def test_predictor_of_a_killed_run_goes_on_in_the_same_bits(self, tmp_path):
        stage = toy_stage(distill=({"kind": "pfr", "hidden": 4}, {"kind": "l2_sp", "weight": 0.1}))

        def fit(name, **options):
            task = Toy(tiny.Normed())
            return tiny.fit(task, stage, tmp_path / name, frozen=taught(task, stage, tiny.Normed(seed=1)), **options)

        whole = fit("whole")
        with pytest.raises(Killed):
            fit("killed", batches=killed_after(5))
        resumed = fit("killed")
        assert any("distillation" in name for name in tiny.arrays(whole.task))
        tiny.assert_same(resumed.task, whole.task)


def taught(task, stage, teacher):
    """What `task` is distilled from, one backbone by the name of 'previous'."""
    return distill.attach_distillation(task, distill.read_terms(stage.distill), {"previous": teacher})


class Killed(Exception):
    pass


def killed_after(last: int, *, how=None, **options):
    """The batches of `tiny.fit`, which end the run (or call `how`) when the step after `last` asks for its batch."""
    source = data.Batches(tiny.split(), **{"batch_size": 8, "seed": 0, **options})

    def batches(start):
        for step, item in enumerate(source(start), start=start + 1):
            if step == last + 1:
                if how is None:
                    raise Killed
                how()
            yield item

    return batches


def newest(directory, stage, task=None):
    """The state in the newest checkpoint."""
    with checkpoints.Checkpoints(directory) as store:
        return store.restore(start(stage, task)[1], data.data_mesh())[0]


class TestResume:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["toy", "npid", "moco_v2"])
    def test_run_stopped_at_a_random_step_ends_in_the_same_bits_without_compiling_anew(self, name, tmp_path):
        adamw = {"name": "adamw", "learning_rate": 1e-3}
        stage = toy_stage() if name == "toy" else tiny.stage(name, steps=8, optimizer=adamw)
        make = lambda: Toy(tiny.Normed()) if name == "toy" else tiny.task(stage)  # noqa: E731
        whole = tiny.fit(make(), stage, tmp_path / "whole")
        compiled = train_step._cache_size()
        last = int(np.random.default_rng(len(name)).integers(2, 8))
        with pytest.raises(Killed):
            tiny.fit(make(), stage, tmp_path / "killed", batches=killed_after(last))
        resumed = tiny.fit(make(), stage, tmp_path / "killed")
        assert train_step._cache_size() == compiled
        tiny.assert_same(resumed.task, whole.task)
        states = [newest(tmp_path / run, stage, make()) for run in ("killed", "whole")]
        assert [int(state.step) for state in states] == [8, 8]
        for part in ("params", "rest", "optimizer"):
            tiny.assert_same(getattr(states[0], part), getattr(states[1], part))

    @pytest.mark.slow
    def test_sigterm_saves_at_once_and_the_run_goes_on(self, tmp_path):
        stage = toy_stage()
        pace = {"log_every": 100, "checkpoint_every": 100}
        before = signal.getsignal(signal.SIGTERM)
        ask = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        batches = killed_after(4, how=ask)
        with pytest.raises(loop.Preempted, match="stopped and saved at step 5 of 8; the same command goes on"):
            tiny.fit(Toy(tiny.Linear()), stage, tmp_path / "asked", batches=batches, **pace)
        assert signal.getsignal(signal.SIGTERM) is before
        assert int(newest(tmp_path / "asked", stage).step) == 5
        resumed = tiny.fit(Toy(tiny.Linear()), stage, tmp_path / "asked", **pace)
        tiny.assert_same(resumed.task, tiny.fit(Toy(tiny.Linear()), stage, tmp_path / "whole", **pace).task)

    @pytest.mark.slow
    def test_log_of_a_resumed_run_has_each_step_once(self, tmp_path):
        stage = toy_stage()
        with pytest.raises(Killed):
            tiny.fit(Toy(tiny.Linear()), stage, tmp_path, batches=killed_after(5))
        tiny.fit(Toy(tiny.Linear()), stage, tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))

    @pytest.mark.slow
    def test_finished_run_is_not_trained_again(self, tmp_path):
        stage = toy_stage()
        first = tiny.fit(Toy(tiny.Linear()), stage, tmp_path)
        again = tiny.fit(Toy(tiny.Linear()), stage, tmp_path, batches=killed_after(0))
        tiny.assert_same(again.task, first.task)
        assert again.record == first.record

    def test_seconds_add_up_over_restarts(self, tmp_path, monkeypatch):
        clock = iter(range(0, 10**6, 100))
        monkeypatch.setattr(stopping.time, "monotonic", lambda: next(clock))
        pace = {"log_every": 100, "checkpoint_every": 2}
        with pytest.raises(Killed):
            tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path, batches=killed_after(2), **pace)
        assert tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path, **pace).record["seconds"] >= 200


class TestLoop:
    @pytest.mark.slow
    def test_epochs_and_the_run_end_with_a_look_at_the_task_which_may_write_to_it(self, tmp_path):
        def after_epoch(task, step):
            seen.append((step, float(task.counted.get_value())))
            task.counted.set_value(jnp.float32(100.0))

        seen = []
        result = tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path, after_epoch=after_epoch)
        assert seen == [(3, 3), (6, 103), (8, 102)]
        assert float(result.task.counted.get_value()) == 100

    def test_run_shorter_than_an_epoch_ends_with_one_look(self, tmp_path):
        seen = []
        options = {"steps": 2, "after_epoch": lambda task, step: seen.append(step)}
        tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path, **options)
        tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path, **options)
        assert seen == [2]

    def test_record_says_what_a_reader_wants_to_know(self, tmp_path):
        record = tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path).record
        assert record["steps"] == 8 and record["skipped_steps"] == 0 and record["teachers"] == {}
        assert record["images_per_second"] > 0 and record["seconds"] >= 0 and np.isfinite(record["final_loss"])

    def test_log_holds_loss_rate_norm_and_feature_health(self, tmp_path):
        tiny.fit(Toy(tiny.Linear()), toy_stage(), tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert {"loss", "task_loss", "learning_rate", "gradient_norm", "skipped_steps"} <= lines[0].keys()
        assert {"feature_std", "effective_rank"} <= lines[0].keys()
        rates = [line["learning_rate"] for line in lines if "loss" in line]
        np.testing.assert_allclose(rates, [0.0015 * (1 + np.cos(np.pi * k / 8)) for k in range(8)], rtol=1e-5)

    @pytest.mark.slow
    def test_collapsed_features_are_warned_about(self, tmp_path):
        body = tiny.Linear()
        body.map.kernel.set_value(jnp.ones_like(body.map.kernel.get_value()))
        tiny.fit(Toy(body), toy_stage(optimizer={"learning_rate": 0.0}), tmp_path)
        assert "collapse" in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_no_step_after_the_first_compiles():
    """With every view there is; the other tasks are watched in test_learning.py."""
    stage = tiny.table_stage("simclr", preset="dermoscopy", views={})
    program, state = start(stage, tiny.task(stage, tiny.table_body("simclr")))
    batches = data.Batches(tiny.table_split("simclr"), batch_size=8, seed=0)(0)
    state, _, _ = train_step(program, state, next(batches), jax.random.key(0))
    compiled = train_step._cache_size()
    for _ in range(4):
        state, _, _ = train_step(program, state, next(batches), jax.random.key(0))
    assert train_step._cache_size() == compiled


@pytest.mark.slow
def test_weights_do_not_depend_on_workers_or_residence(tmp_path):
    stage = tiny.stage("npid", steps=8, optimizer={"name": "adamw", "learning_rate": 1e-3})
    whole = tiny.fit(tiny.task(stage), stage, tmp_path / "whole")
    ways = {"workers": data.Loading(workers=2), "device": data.Loading("device")}
    for name, loading in ways.items():
        with pytest.raises(Killed):
            tiny.fit(tiny.task(stage), stage, tmp_path / name, batches=killed_after(5, loading=loading))
        resumed = tiny.fit(tiny.task(stage), stage, tmp_path / name)
        tiny.assert_same(resumed.task, whole.task)
