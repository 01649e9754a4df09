"""Who teaches whom: names, files and what is judged beforehand; two short stages of every kind of distillation."""

import shutil

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from short_runs import Killed, config, record, stage
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data, distill, models, weights
from aiseeme_jax.curriculum import plan, teachers
from aiseeme_jax.jobs import changes, curriculum

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")


def place(position=2, init="scratch", **options):
    return teachers.Place(position, ("rotation", "npid", "rotation", "simclr"), init, **options)


def two(*terms, first=(), **changes):
    """Two short stages, the second distilled."""
    return config((stage("rotation", 2, distill=first), stage("rotation", 3, distill=terms)), baselines=(), **changes)


def trained(made, workdir):
    """Trains the curriculum of a config, and measures nothing."""
    made.targets = ()
    curriculum.run(made, workdir)
    return record(workdir, "01-rotation")


def stage_weights(workdir, name):
    return tiny.arrays(weights.load_backbone(workdir / "stages" / name)[0])


class TestNames:
    def test_previous_is_the_stage_before_or_what_the_run_starts_from(self):
        assert place().source("previous") == 1
        assert place(0).source("previous") is None
        assert place(0, "weights.pth").source("previous") == "init"

    def test_stages_go_by_position_and_by_task_and_all_else_is_a_path(self):
        assert [place().source(name) for name in (0, "1", "npid", "rotation")] == [0, 1, 1, 0]
        assert place().source("runs/other") == "runs/other"

    @pytest.mark.parametrize("name", [2, 3, -1, "simclr"])
    def test_a_stage_that_does_not_come_earlier(self, name):
        earlier = r"no earlier stage is '.*'; there are: 0 \(rotation\), 1 \(npid\)"
        with pytest.raises(ValueError, match=f"distill.teachers: {earlier}"):
            place().source(name)

    def test_a_task_that_names_two_stages(self):
        with pytest.raises(ValueError, match="more than one earlier stage is 'rotation'"):
            place(3).source("rotation")
        with pytest.raises(ValueError, match="no earlier stage is '0'; there are: none"):
            place(0).source(0)

    def test_a_task_alone_has_no_earlier_stage_but_its_start_and_files(self):
        names = ("previous", 0, "npid", "weights.pth")
        assert [place(alone=True).source(n) for n in names] == [None, None, None, "weights.pth"]
        assert place(init="weights.pth", alone=True).source("previous") == "init"

    def test_terms_without_a_teacher_fall_away(self):
        terms = ({"kind": "kl", "teachers": ("previous", "w.pth")}, {"kind": "mse"}, {"kind": "pfr", "teachers": (1,)})
        taught = stage("rotation", 3, distill=terms)
        found, sources = teachers.resolve(taught, place())
        assert [term.teachers for term in found] == [("01-npid", "w.pth"), ("01-npid",), ("01-npid",)]
        assert sources == {"01-npid": 1, "w.pth": "w.pth"}
        found, sources = teachers.resolve(taught, place(alone=True))
        assert [(term.name, term.teachers) for term in found] == [("kl", ("w.pth",))] and list(sources) == ["w.pth"]


class TestPlan:
    def check(self, *terms, **changes):
        plan.check(two(*terms, targets=(), **changes), tiny.split(24))

    def test_every_kind_passes(self):
        for kind in (*distill.KINDS, distill.AVERAGING):
            self.check({"kind": kind})

    @pytest.mark.parametrize(
        "term, message",
        [
            ({"kind": "l1"}, r"stages\[1\] \(rotation\): distill.kind is 'l1'; known: none, kl, mse, cosine"),
            ({"kind": "mse", "teachers": (1,)}, "no earlier stage is '1'; there are: 0 .rotation."),
            (
                {"kind": "mse", "endpoint": "stage9"},
                "distill.endpoint is 'stage9'; the backbone of the stage has pooled",
            ),
            ({"kind": "kl", "temperature": -1.0}, "distill.temperature is -1.0"),
        ],
    )
    def test_what_cannot_be_done_is_named_before_the_first_step(self, term, message):
        with pytest.raises(ValueError, match=message):
            self.check(term)

    def test_fisher_information_of_random_weights(self):
        with pytest.raises(
            ValueError, match=r"stages\[0\] \(rotation\): .*'ewc' needs the Fisher information of an ear"
        ):
            self.check(first=({"kind": "ewc"},))
        self.check(first=({"kind": "l2_sp"},))

    def test_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="distill.teachers: no file or folder at 'absent'"):
            self.check({"kind": "mse", "teachers": ("absent",)})
        wide = models.make_backbone("tiny", width=0.25, stem="small", rngs=nnx.Rngs(0))
        path = tmp_path / "wide.safetensors"
        weights.export_backbone(wide, path)
        self.check({"kind": "relational", "teachers": (str(path),)})
        with pytest.raises(
            ValueError, match=r"'pooled' of .*wide.safetensors: \(1, 16\); kind 'mse' needs \(1, 8\) here"
        ):
            self.check({"kind": "mse", "teachers": (str(path),)})
        with pytest.raises(
            FileNotFoundError, match="no Fisher information at .*; train that stage with `fisher_batches`"
        ):
            self.check({"kind": "ewc", "teachers": (str(path),)})

    def test_fisher_information_is_left_where_a_later_stage_asks_for_it(self):
        made = two({"kind": "ewc"})
        assert [self.batches(made, position) for position in (0, 1)] == [3, 0]
        assert self.batches(made, 0, alone=True) == 0
        assert self.batches(two({"kind": "l2_sp"}), 0) == 0
        made.stages[0].fisher_batches = 7
        assert self.batches(made, 0) == 7
        made.stages[0].fisher_batches = -1
        with pytest.raises(ValueError, match="fisher_batches is -1"):
            plan.check(made, tiny.split(24))

    def batches(self, made, position, **options):
        where = teachers.Place(position, tuple(stage.task for stage in made.stages), made.init, **options)
        return teachers.fisher_batches(made.stages[position], where, 24, [made.stages])


class TestFiles:
    def test_fisher_information_knows_its_backbone(self, tmp_path):
        backbone, other = (models.make_backbone("tiny", width=0.125, stem="small", rngs=nnx.Rngs(i)) for i in (0, 1))
        fisher = nnx.clone(backbone)
        nnx.update(fisher, jax.tree.map(np.square, nnx.state(backbone, nnx.Param)))
        weights.save_backbone(tmp_path, backbone, {})
        weights.save_fisher(tmp_path, fisher, backbone)
        tiny.assert_same(weights.load_fisher(tmp_path, backbone), fisher)
        with pytest.raises(
            ValueError, match="fisher.safetensors is not the Fisher information of the backbone beside it"
        ):
            weights.load_fisher(tmp_path, other)

    def test_any_backbone_reads_its_own_header_or_takes_the_model_of_the_run(self, tmp_path):
        wide = models.make_backbone("tiny", width=0.25, stem="small", rngs=nnx.Rngs(0))
        weights.export_backbone(wide, tmp_path / "own.safetensors")
        model = {"name": "tiny", "width": 0.125, "stem": "small"}
        tiny.assert_same(weights.any_backbone(tmp_path / "own.safetensors", model), wide)
        from aiseeme_jax.weights import torchvision

        foreign = tmp_path / "foreign.safetensors"
        torchvision.write_safetensors(foreign, torchvision.to_torchvision(wide))
        tiny.assert_same(weights.any_backbone(foreign, {**model, "width": 0.25}), wide)
        with pytest.raises(ValueError, match="foreign.safetensors: these weights do not fit tiny"):
            weights.any_backbone(foreign, model)


def killed(monkeypatch, made, workdir, name, step):
    """Runs a curriculum up to the batch after `step` of the stage in folder `name`."""
    real = data.Batches.__call__

    def call(batches, start=0):
        for number, batch in enumerate(real(batches, start), start=start + 1):
            if (workdir / "stages" / name).exists() and number == step + 1:
                raise Killed
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(data.Batches, "__call__", call)
        with pytest.raises(Killed):
            curriculum.run(made, workdir)


@pytest.mark.slow
class TestCurriculum:
    @pytest.mark.parametrize("kind", [*distill.KINDS, distill.AVERAGING])
    def test_two_stages_of_every_kind(self, kind, tmp_path):
        made = two({"kind": kind})
        plan.check(made, tiny.split(24))
        done = trained(made, tmp_path)
        first = record(tmp_path, "00-rotation")
        assert done["start_hash"] == first["backbone_hash"] and np.isfinite(done["final_loss"])
        log = (tmp_path / "stages/01-rotation/metrics.jsonl").read_text()
        assert (f"distill_{kind}" in log) == (kind != distill.AVERAGING)
        if kind != distill.AVERAGING:
            assert done["teachers"]["00-rotation"] == first["backbone_hash"]
        assert ("Fisher information of 00-rotation" in done["teachers"]) == (kind == "ewc")
        assert ("projector at the start" in done["teachers"]) == (kind == "cassle")
        assert (tmp_path / "stages/00-rotation/fisher.safetensors").exists() == (kind == "ewc")
        names = weights.load_backbone(tmp_path)[0]
        assert not any("distillation" in name for name in tiny.arrays(names))

    def test_merge_of_share_0_and_1_gives_either_file(self, tmp_path):
        plain = trained(two(), tmp_path / "plain")
        for share, name in ((0.0, "01-rotation"), (1.0, "00-rotation"), (0.5, None)):
            workdir = tmp_path / f"{share}"
            done = trained(two({"kind": "weight_average", "share": share}), workdir)
            (merged,) = done["weight_average"]
            teacher = {"00-rotation": plain["start_hash"]}
            assert merged == {"share": share, "trained_hash": plain["backbone_hash"], "teachers": teacher}
            if name:
                tiny.assert_same(stage_weights(workdir, "01-rotation"), stage_weights(tmp_path / "plain", name))
                assert done["backbone_hash"] == record(tmp_path / "plain", name)["backbone_hash"]
            else:
                a, b = (stage_weights(tmp_path / "plain", stage) for stage in ("00-rotation", "01-rotation"))
                for leaf, found in stage_weights(workdir, "01-rotation").items():
                    np.testing.assert_allclose(found, (a[leaf] + b[leaf]) / 2, rtol=1e-6, atol=1e-8)

    def test_a_kill_in_a_distilled_stage_or_before_its_fisher_information_changes_nothing(self, tmp_path, monkeypatch):
        terms = ({"kind": "cassle", "endpoint": "pooled"}, {"kind": "ewc"}, {"kind": "mse", "endpoint": "stage4"})
        made = config((stage("simclr", 3), stage("simclr", 5, distill=terms)), baselines=(), targets=())
        curriculum.run(made, tmp_path / "whole")
        killed(monkeypatch, made, tmp_path / "run", "01-simclr", 3)
        curriculum.run(made, tmp_path / "run")
        hashes = [record(tmp_path / name, "01-simclr")["backbone_hash"] for name in ("whole", "run")]
        assert hashes[0] == hashes[1]
        # A kill after the last step of the first stage: its Fisher information is made again.
        again = tmp_path / "again"
        with monkeypatch.context() as patch:
            patch.setattr(weights, "save_fisher", self.kill)
            with pytest.raises(Killed):
                curriculum.run(made, again)
        curriculum.run(made, again)
        files = [tmp_path / name / "stages/00-simclr/fisher.safetensors" for name in ("whole", "again")]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert record(again, "01-simclr")["backbone_hash"] == hashes[0]

    def kill(self, *_):
        raise Killed

    def test_another_projector_at_the_start_is_noticed_on_resume(self, tmp_path, monkeypatch):
        made = config((stage("simclr", 2), stage("simclr", 4, distill={"kind": "cassle"})), baselines=(), targets=())
        killed(monkeypatch, made, tmp_path / "run", "01-simclr", 3)
        made.stages[1].seed = 99
        monkeypatch.setattr(changes, "judge", lambda *_: changes.Change({}, ()))
        with pytest.raises(ValueError, match="distilled from another teacher.*projector at the start [0-9a-f]{12} ->"):
            curriculum.run(made, tmp_path / "run")

    def test_earlier_stages_and_files_teach_too(self, tmp_path):
        first = trained(two(), tmp_path / "first")
        saved = tmp_path / "weights.safetensors"
        shutil.copy(tmp_path / "first/stages/01-rotation/backbone.safetensors", saved)
        terms = ({"kind": "mse", "teachers": (0, str(saved))}, {"kind": "kl", "teachers": ("rotation",)})
        stages = (stage("rotation", 2), stage("npid", 2), stage("npid", 2, distill=terms))
        made = config(stages, baselines=("single:npid",), targets=())
        plan.check(made, tiny.split(24))
        curriculum.run(made, tmp_path / "run")
        found = record(tmp_path / "run", "02-npid")["teachers"]
        before = record(tmp_path / "run", "00-rotation")["backbone_hash"]
        assert found == {"00-rotation": before, str(saved): first["backbone_hash"]}

    def test_a_run_may_hold_on_to_an_earlier_one(self, tmp_path):
        earlier = two()
        earlier.stages[1].fisher_batches = 2
        first = trained(earlier, tmp_path / "first")
        made = two(first=({"kind": "ewc"},), init=str(tmp_path / "first"))
        plan.check(made, tiny.split(24))
        trained(made, tmp_path / "later")
        found = record(tmp_path / "later", "00-rotation")["teachers"]
        assert found["init"] == first["backbone_hash"] and "Fisher information of init" in found
