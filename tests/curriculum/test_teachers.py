"""Who teaches whom: names, files and what is judged beforehand; two short stages of every kind of distillation."""

import shutil

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from short_runs import Killed, config, stage, stage_folders, stage_records

from aiseeme_jax import data, distill, models, weights
from aiseeme_jax.curriculum import teachers
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import PlannedFisher
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.store import artifacts
from aiseeme_jax.weights import tensors, torchvision

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")


def place(position=2, init="scratch", **options):
    return teachers.StagePosition(position, ("rotation", "npid", "rotation", "simclr"), init, **options)


def two(*terms, first=(), **changes):
    """Two short stages, the second distilled."""
    return config((stage("rotation", 2, distill=first), stage("rotation", 3, distill=terms)), baselines=(), **changes)


def plan(made):
    return make_plan(made, DataSets(made))


def train(made, workdir):
    """Trains the curriculum of a config, and measures nothing. Gives the record of its last stage."""
    made.targets = ()
    curriculum.run(made, workdir)
    return stage_records(workdir)[-1]


def stage_weights(workdir, position):
    return tiny.arrays(weights.load_backbone(stage_folders(workdir)[position])[0])


class TestNames:
    def test_previous_is_the_stage_before_or_what_the_run_starts_from(self):
        assert place().find_teacher("previous") == 1
        assert place(0).find_teacher("previous") is None
        assert place(0, "weights.pth").find_teacher("previous") == "init"

    def test_stages_go_by_position_and_by_task_and_all_else_is_a_path(self):
        assert [place().find_teacher(name) for name in (0, "1", "npid", "rotation")] == [0, 1, 1, 0]
        assert place().find_teacher("runs/other") == "runs/other"

    @pytest.mark.parametrize("name", [2, 3, -1, "simclr"])
    def test_a_stage_that_does_not_come_earlier(self, name):
        earlier = r"no earlier stage is '.*'; there are: 0 \(rotation\), 1 \(npid\)"
        with pytest.raises(ValueError, match=f"distill.teachers: {earlier}"):
            place().find_teacher(name)

    def test_a_task_that_names_two_stages(self):
        with pytest.raises(ValueError, match="more than one earlier stage is 'rotation'"):
            place(3).find_teacher("rotation")
        with pytest.raises(ValueError, match="no earlier stage is '0'; there are: none"):
            place(0).find_teacher(0)

    def test_a_single_task_has_no_earlier_stage_but_its_start_and_files(self):
        names = ("previous", 0, "npid", "weights.pth")
        assert [place(single=True).find_teacher(n) for n in names] == [None, None, None, "weights.pth"]
        assert place(init="weights.pth", single=True).find_teacher("previous") == "init"

    def test_terms_without_a_teacher_are_left_out(self):
        terms = ({"kind": "kl", "teachers": ("previous", "w.pth")}, {"kind": "mse"}, {"kind": "pfr", "teachers": (1,)})
        taught = stage("rotation", 3, distill=terms)
        found, sources = teachers.resolve_terms(taught, place())
        assert [term.teachers for term in found] == [("01-npid", "w.pth"), ("01-npid",), ("01-npid",)]
        assert sources == {"01-npid": 1, "w.pth": "w.pth"}
        found, sources = teachers.resolve_terms(taught, place(single=True))
        assert [(term.name, term.teachers) for term in found] == [("kl", ("w.pth",))] and list(sources) == ["w.pth"]


class TestPlan:
    def check(self, *terms, **changes):
        return plan(two(*terms, targets=(), **changes))

    @pytest.mark.parametrize("kind", [*distill.KINDS, distill.AVERAGING])
    def test_every_kind_can_be_planned_and_has_a_key_of_its_own(self, kind):
        plain, distilled = self.check(), self.check({"kind": kind})
        assert distilled.arms[0].stages[1].artifact.key != plain.arms[0].stages[1].artifact.key
        assert list(distilled.arms[0].stages[1].teachers) == ["00-rotation"]

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
            FileNotFoundError, match="no Fisher information of .*; train that stage with `fisher_batches`"
        ):
            self.check({"kind": "ewc", "teachers": (str(path),)})

    def test_fisher_information_is_estimated_where_a_later_stage_or_the_config_asks_for_it(self):
        made = two({"kind": "ewc"})
        assert self.fishers(made) == [("00-rotation", 3)]
        assert self.fishers(two({"kind": "l2_sp"})) == []
        made.stages[0].fisher_batches = 7
        assert self.fishers(made) == [("00-rotation", 7)]
        made.stages[1].fisher_batches = 2
        assert self.fishers(made) == [("00-rotation", 7), ("01-rotation", 2)]
        made.baselines = ("single:rotation",)
        assert self.fishers(made) == [("00-rotation", 7), ("01-rotation", 2)]
        made.stages[0].fisher_batches = -1
        with pytest.raises(ValueError, match="fisher_batches is -1"):
            plan(made)

    def fishers(self, made):
        found = [piece for piece in plan(made).pieces() if isinstance(piece, PlannedFisher)]
        return sorted((piece.artifact.label, piece.batches) for piece in found)


class TestFiles:
    def test_fisher_information_knows_its_backbone(self, tmp_path):
        backbone, other = (models.make_backbone("tiny", width=0.125, stem="small", rngs=nnx.Rngs(i)) for i in (0, 1))
        fisher = nnx.clone(backbone)
        nnx.update(fisher, jax.tree.map(np.square, nnx.state(backbone, nnx.Param)))
        weights.save_backbone(tmp_path, backbone, {})
        weights.save_fisher(tmp_path, fisher, backbone)
        tiny.assert_same(weights.load_fisher(tmp_path, backbone), fisher)
        with pytest.raises(ValueError, match="fisher.safetensors is not the Fisher information of this backbone"):
            weights.load_fisher(tmp_path, other)

    def test_any_backbone_reads_its_own_header_or_takes_the_model_of_the_run(self, tmp_path):
        wide = models.make_backbone("tiny", width=0.25, stem="small", rngs=nnx.Rngs(0))
        weights.export_backbone(wide, tmp_path / "own.safetensors")
        model = {"name": "tiny", "width": 0.125, "stem": "small"}
        tiny.assert_same(weights.any_backbone(tmp_path / "own.safetensors", model), wide)
        foreign = tmp_path / "foreign.safetensors"
        tensors.write_safetensors(foreign, torchvision.to_torchvision(wide))
        tiny.assert_same(weights.any_backbone(foreign, {**model, "width": 0.25}), wide)
        with pytest.raises(ValueError, match="foreign.safetensors: these weights do not fit tiny"):
            weights.any_backbone(foreign, model)


def kill_in(monkeypatch, made, workdir, label, step):
    """Runs a curriculum up to the batch after `step` of a stage."""
    real = data.Batches.__call__

    def call(batches, start=0):
        for number, batch in enumerate(real(batches, start), start=start + 1):
            if list(workdir.glob(f"stages/{label}-*")) and number == step + 1:
                raise Killed
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(data.Batches, "__call__", call)
        with pytest.raises(Killed):
            curriculum.run(made, workdir)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """A store for several runs: what they have in common is made once."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
class TestCurriculum:
    @pytest.mark.parametrize("kind", [*distill.KINDS, distill.AVERAGING])
    def test_two_stages_of_every_kind(self, kind, tmp_path, shared_store):
        made = two({"kind": kind})
        made.runtime.store = str(shared_store)
        before = list(shared_store.glob("fisher/*"))
        done = train(made, tmp_path)
        first, _ = stage_records(tmp_path)
        assert done["start_hash"] == first["backbone_hash"] and np.isfinite(done["final_loss"])
        log = (stage_folders(tmp_path)[1] / "metrics.jsonl").read_text()
        assert (f"distill_{kind}" in log) == (kind != distill.AVERAGING)
        if kind != distill.AVERAGING:
            assert done["teachers"]["00-rotation"] == first["backbone_hash"]
        assert ("Fisher information of 00-rotation" in done["teachers"]) == (kind == "ewc")
        assert ("projector at the start" in done["teachers"]) == (kind == "cassle")
        made_now = [folder for folder in shared_store.glob("fisher/*") if folder not in before]
        assert [(folder / "fisher.safetensors").exists() for folder in made_now] == [True] * (kind == "ewc")
        names = weights.load_backbone(tmp_path)[0]
        assert not any("distillation" in name for name in tiny.arrays(names))

    def test_an_average_of_share_0_and_1_gives_either_file(self, tmp_path):
        plain = train(two(), tmp_path / "plain")
        for share, position in ((0.0, 1), (1.0, 0), (0.5, None)):
            workdir = tmp_path / f"{share}"
            done = train(two({"kind": "weight_average", "share": share}), workdir)
            (averaged,) = done["weight_average"]
            teacher = {"00-rotation": plain["start_hash"]}
            assert averaged == {"share": share, "trained_hash": plain["backbone_hash"], "teachers": teacher}
            if position is not None:
                tiny.assert_same(stage_weights(workdir, 1), stage_weights(tmp_path / "plain", position))
                assert done["backbone_hash"] == stage_records(tmp_path / "plain")[position]["backbone_hash"]
            else:
                a, b = (stage_weights(tmp_path / "plain", position) for position in (0, 1))
                for leaf, found in stage_weights(workdir, 1).items():
                    np.testing.assert_allclose(found, (a[leaf] + b[leaf]) / 2, rtol=1e-6, atol=1e-8)

    def test_a_kill_in_a_distilled_stage_or_before_its_fisher_information_changes_nothing(self, tmp_path, monkeypatch):
        terms = ({"kind": "cassle", "endpoint": "pooled"}, {"kind": "ewc"}, {"kind": "mse", "endpoint": "stage4"})
        made = config((stage("simclr", 3), stage("simclr", 5, distill=terms)), baselines=(), targets=())
        curriculum.run(made, tmp_path / "whole")
        kill_in(monkeypatch, made, tmp_path / "run", "01-simclr", 3)
        curriculum.run(made, tmp_path / "run")
        hashes = [stage_records(tmp_path / name)[1]["backbone_hash"] for name in ("whole", "run")]
        assert hashes[0] == hashes[1]
        again = tmp_path / "again"
        with monkeypatch.context() as patch:
            patch.setattr(weights, "save_fisher", self.kill)
            with pytest.raises(Killed):
                curriculum.run(made, again)
        curriculum.run(made, again)
        files = [next((tmp_path / name).glob("fisher/*/fisher.safetensors")) for name in ("whole", "again")]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert stage_records(again)[1]["backbone_hash"] == hashes[0]

    def kill(self, *_):
        raise Killed

    def test_fisher_information_of_a_stage_that_did_not_know_of_it_is_the_same(self, tmp_path):
        """It is estimated from the stage's last checkpoint, by whoever asks for it first."""
        plain = two(targets=())
        curriculum.run(plain, tmp_path / "plain")
        assert not (tmp_path / "plain" / "fisher").exists()
        later = two({"kind": "ewc"}, targets=())
        curriculum.run(later, tmp_path / "plain")
        curriculum.run(later, tmp_path / "new")
        files = [next((tmp_path / name).glob("fisher/*/fisher.safetensors")) for name in ("plain", "new")]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert (
            stage_records(tmp_path / "plain")[1]["backbone_hash"] == stage_records(tmp_path / "new")[1]["backbone_hash"]
        )

    def test_without_the_last_checkpoint_there_is_no_fisher_information(self, tmp_path):
        curriculum.run(two(targets=()), tmp_path)
        shutil.rmtree(stage_folders(tmp_path)[0] / "checkpoints")
        message = "has lost its last checkpoint; .* store remove .*stages/00-rotation"
        with pytest.raises(ValueError, match=message):
            curriculum.run(two({"kind": "ewc"}, targets=()), tmp_path)

    def test_a_checkpoint_of_another_teacher_is_noticed_on_resume(self, tmp_path, monkeypatch):
        made = config((stage("simclr", 2), stage("simclr", 4, distill={"kind": "cassle"})), baselines=(), targets=())
        kill_in(monkeypatch, made, tmp_path, "01-simclr", 3)
        real = distill.attach_distillation
        monkeypatch.setattr(distill, "attach_distillation", lambda *a, **o: self.disturb(real(*a, **o)))
        with pytest.raises(ValueError, match="distilled from another teacher.*projector at the start [0-9a-f]{12} ->"):
            curriculum.run(made, tmp_path)

    def disturb(self, frozen):
        nnx.update(frozen.first_projection, jax.tree.map(lambda x: x + 1, nnx.state(frozen.first_projection)))
        return frozen

    def test_earlier_stages_and_files_teach_too(self, tmp_path):
        first = train(two(), tmp_path / "first")
        saved = tmp_path / "weights.safetensors"
        shutil.copy(stage_folders(tmp_path / "first")[1] / "backbone.safetensors", saved)
        terms = ({"kind": "mse", "teachers": (0, str(saved))}, {"kind": "kl", "teachers": ("rotation",)})
        stages = (stage("rotation", 2), stage("npid", 2), stage("npid", 2, distill=terms))
        made = config(stages, baselines=("single:npid",), targets=())
        curriculum.run(made, tmp_path / "run")
        records = stage_records(tmp_path / "run")
        assert records[2]["teachers"] == {
            "00-rotation": records[0]["backbone_hash"],
            str(saved): first["backbone_hash"],
        }

    def test_a_run_may_be_taught_by_an_earlier_one_with_its_fisher_information(self, tmp_path):
        earlier = two()
        earlier.stages[1].fisher_batches = 2
        first = train(earlier, tmp_path / "first")
        made = two(first=({"kind": "ewc"},), init=str(tmp_path / "first"))
        train(made, tmp_path / "later")
        found = artifacts.read_record(stage_folders(tmp_path / "later")[0])["teachers"]
        assert found["init"] == first["backbone_hash"] and "Fisher information of init" in found
