"""Backbones as files: the same bits back, found wherever they lie, and damage noticed by every way in."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from narrow_backbone import MODEL, narrow
from tiny import tiny_in_the_table  # noqa: F401

import aiseeme_jax
from aiseeme_jax import weights
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import workdirs
from aiseeme_jax.store.artifacts import STAGES, Artifact, Store
from aiseeme_jax.weights import tensors, torchvision

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")


def finish_stages(workdir, arms):
    """Leaves a workdir with the stages of arms; their backbones are `narrow(0)`, `narrow(1)`, … Gives their folders."""
    store, entries, folders = Store(workdir), [], []
    for arm, tasks in arms.items():
        stages = []
        for position, task in enumerate(tasks):
            artifact = Artifact(STAGES, f"{position:02d}-{task}", {"number": len(folders)})
            folder = store.begin(artifact)
            found = weights.save_backbone(folder, narrow(len(folders)), {"task": task})
            store.finish(artifact, {"backbone_hash": found, "made_from": {}})
            stages.append(workdirs.StageEntry(artifact.label, task, 1, artifact.key))
            folders.append(folder)
        entries.append(workdirs.ArmEntry(arm, tuple(stages), ()))
    workdirs.write_plan(workdir, workdirs.WorkdirPlan(".", tuple(entries)))
    return folders


class TestHash:
    def test_depends_on_names_shapes_types_and_bytes(self):
        tree = {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2)}
        others = [
            {"c": tree["a"], "b": tree["b"]},
            {**tree, "a": tree["a"].reshape(2, 2)},
            {**tree, "a": tree["a"].view(np.int32)},
            {**tree, "a": np.nextafter(tree["a"], 9)},
        ]
        hashes = [weights.tree_hash(t) for t in (tree, *others)]
        assert len(set(hashes)) == 5 and all(len(h) == 64 for h in hashes)
        assert weights.tree_hash({"b": tree["b"], "a": tree["a"]}) == hashes[0]

    def test_of_a_backbone_covers_running_statistics_too(self):
        one = narrow()
        before = weights.backbone_hash(one)
        assert weights.backbone_hash(narrow()) == before
        one.stem_norm.mean.set_value(one.stem_norm.mean.get_value() + 1)
        assert weights.backbone_hash(one) != before

    def test_does_not_depend_on_the_devices_the_weights_lie_on(self):
        leaf = jnp.arange(16.0)
        spread = tiny.on_devices(leaf, 8)
        assert weights.tree_hash({"a": leaf}) == weights.tree_hash({"a": spread})


class TestBackbone:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_comes_back_bit_by_bit(self, tmp_path, dtype):
        saved = narrow(dtype=dtype)
        weights.save_backbone(tmp_path, saved, {"task": "simclr"})
        loaded, info = aiseeme_jax.load_backbone(tmp_path)
        tiny.assert_same(loaded, saved)
        assert info["task"] == "simclr" and info["model"] == saved.config
        assert info["backbone_hash"] == weights.backbone_hash(saved) == weights.backbone_hash(loaded)
        assert [path.name for path in tmp_path.iterdir()] == ["backbone.safetensors"]

    def test_is_found_in_a_workdir_a_stage_and_a_file(self, tmp_path):
        folders = finish_stages(tmp_path, {"curriculum": ("rotation", "simclr", "npid")})
        (folders[2] / "record.json").unlink()  # as if killed just before
        for path, seed in (
            (tmp_path, 1),
            (str(tmp_path), 1),
            (folders[0], 0),
            (folders[1] / "backbone.safetensors", 1),
        ):
            tiny.assert_same(aiseeme_jax.load_backbone(path)[0], narrow(seed))

    def test_of_a_workdir_is_that_of_the_arm_asked_for(self, tmp_path):
        folders = finish_stages(tmp_path, {"curriculum": ("rotation", "simclr"), "single:simclr": ("simclr",)})
        for arm, seed in ((None, 1), ("curriculum", 1), ("single:simclr", 2)):
            tiny.assert_same(aiseeme_jax.load_backbone(tmp_path, arm)[0], narrow(seed))
        with pytest.raises(UserError, match="has no arm 'npid' with stages: there are curriculum, single:simclr"):
            aiseeme_jax.load_backbone(tmp_path, arm="npid")
        with pytest.raises(UserError, match=f"{folders[0].name}' is not a workdir: it has no arm 'curriculum'"):
            aiseeme_jax.load_backbone(folders[0], arm="curriculum")

    def test_without_a_curriculum_there_must_be_one_arm_or_it_must_be_named(self, tmp_path):
        finish_stages(tmp_path, {"plain": ("rotation", "npid")})
        tiny.assert_same(aiseeme_jax.load_backbone(tmp_path)[0], narrow(1))
        finish_stages(tmp_path, {"plain": ("rotation", "npid"), "distilled": ("simclr",)})
        with pytest.raises(UserError, match="has several arms: say `arm`, .* There are plain, distilled"):
            aiseeme_jax.load_backbone(tmp_path)
        tiny.assert_same(aiseeme_jax.load_backbone(tmp_path, arm="distilled")[0], narrow(2))

    def test_of_an_arm_that_has_finished_no_stage(self, tmp_path):
        (folder,) = finish_stages(tmp_path, {"curriculum": ("rotation",)})
        (folder / "record.json").unlink()
        with pytest.raises(MissingFile, match="has no finished stage of the arm 'curriculum': run the curriculum"):
            aiseeme_jax.load_backbone(tmp_path)

    def test_export_is_an_init_of_the_same_bits(self, tmp_path):
        exported = narrow()
        aiseeme_jax.export_backbone(exported, tmp_path / "weights.safetensors")
        tiny.assert_same(weights.starting_backbone(MODEL, str(tmp_path / "weights.safetensors"), 5), exported)
        tiny.assert_same(aiseeme_jax.load_backbone(tmp_path / "weights.safetensors")[0], exported)

    def test_scratch_is_decided_by_the_seed(self):
        one, again, other = (weights.starting_backbone(MODEL, "scratch", seed) for seed in (5, 5, 6))
        tiny.assert_same(one, again)
        tiny.assert_different(one, other)

    def test_init_that_is_not_there_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="init: no file or folder at '.*absent.pth'"):
            weights.starting_backbone(MODEL, str(tmp_path / "absent.pth"), 0)

    def test_damaged_file_is_an_error(self, tmp_path):
        weights.save_backbone(tmp_path, narrow(), {})
        path = tmp_path / weights.BACKBONE
        whole = path.read_bytes()
        for cut in (len(whole) // 2, 4):
            path.write_bytes(whole[:cut])
            with pytest.raises(ValueError, match="backbone.safetensors is not a whole safetensors file"):
                aiseeme_jax.load_backbone(tmp_path)
        flipped = bytearray(whole)
        flipped[-10] ^= 1
        path.write_bytes(bytes(flipped))
        with pytest.raises(ValueError, match="backbone.safetensors is damaged: its weights do not have the hash"):
            aiseeme_jax.load_backbone(tmp_path)

    def test_what_to_do_about_damage_depends_on_whose_the_file_is(self, tmp_path):
        (stage,) = finish_stages(tmp_path, {"curriculum": ("rotation",)})
        path, loose = stage / weights.BACKBONE, tmp_path / "loose.safetensors"
        whole = path.read_bytes()
        anew = f"; `python -m aiseeme_jax store remove {stage}` removes it, and the next run makes it again"
        for cut in (len(whole) - 10, len(whole) // 2):
            path.write_bytes(whole[:cut] + bytes(10 * (cut > len(whole) // 2)))
            loose.write_bytes(path.read_bytes())
            for read in (aiseeme_jax.load_backbone, lambda file: weights.any_backbone(file, MODEL)):
                with pytest.raises(UserError, match=anew):
                    read(path)
                with pytest.raises(UserError, match="; copy or download it again"):
                    read(loose)
        with pytest.raises(UserError, match=f"init: .*{anew}"):
            weights.starting_backbone(MODEL, str(stage), 0)
        path.unlink()
        with pytest.raises(MissingFile, match=f"{stage.name} has lost its backbone.safetensors{anew}"):
            aiseeme_jax.load_backbone(stage)

    @pytest.mark.parametrize(
        ("header", "wrong"),
        [
            ("not JSON", "JSONDecodeError"),
            ("[]", "it contains a list, not an object"),
            ("{}", "KeyError: 'model'"),
            ('{"model": {"name": "resnet999", "width": 1.0, "channels": 3, "dimensions": 2}}', "unknown backbone"),
            ('{"model": {"name": "tiny", "width": 4000, "channels": 3, "dimensions": 2}}', "model.width is 4000"),
            (
                '{"model": {"name": "tiny", "width": 1, "channels": 3, "dimensions": 2, "sten": "x"}}',
                "field model.sten",
            ),
            ('{"model": {"name": "tiny", "width": 1, "channels": 3, "dimensions": 2, "stem": 3}}', "model.stem is 3"),
            ('{"model": {"name": "tiny", "width": "1", "channels": 3, "dimensions": 2}}', "model.width is '1'"),
            ('{"model": {"name": "tiny", "width": 1, "channels": 3, "dimensions": 2}}', "KeyError: 'backbone_hash'"),
        ],
    )
    def test_a_damaged_header_is_named_before_a_network_is_built(self, tmp_path, header, wrong):
        path = tmp_path / "w.safetensors"
        tensors.write_safetensors(path, torchvision.to_torchvision(narrow()), {"aiseeme": header})
        for read in (
            aiseeme_jax.load_backbone,
            lambda file: weights.any_backbone(file, MODEL),
            lambda file: weights.starting_backbone(MODEL, str(file), 0),
        ):
            with pytest.raises(UserError, match=f"{path} has a damaged header .*{wrong}.*; copy or download it again"):
                read(path)

    def test_every_way_to_load_notices_a_flipped_bit(self, tmp_path):
        weights.save_backbone(tmp_path, narrow(), {})
        path = tmp_path / weights.BACKBONE
        flipped = bytearray(path.read_bytes())
        flipped[-10] ^= 1
        path.write_bytes(bytes(flipped))
        for read in (
            aiseeme_jax.load_backbone,
            lambda file: weights.any_backbone(file, MODEL),
            lambda file: weights.starting_backbone(MODEL, str(file), 0),
        ):
            with pytest.raises(UserError, match="is damaged: its weights do not have the hash in its header"):
                read(path)

    def test_a_file_of_another_program_is_an_error_that_says_how_to_use_it(self, tmp_path):
        path = tmp_path / "foreign.safetensors"
        tensors.write_safetensors(path, torchvision.to_torchvision(narrow()))
        with pytest.raises(ValueError, match="was not written by aiseeme_jax, .* use it as `init`"):
            aiseeme_jax.load_backbone(path)

    def test_nothing_there_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no file or folder at '.*absent'"):
            aiseeme_jax.load_backbone(tmp_path / "absent")
        with pytest.raises(FileNotFoundError, match="is not the workdir of a run: it has no plan.json"):
            aiseeme_jax.load_backbone(tmp_path)
