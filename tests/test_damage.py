"""Files of a workdir and of a prepared data set, cut and with flipped bits: never another result, never a traceback.

What is damaged, and where, is drawn by a seed. Each trial either gives what the whole files give, or ends in the error
that a command shows as one message. Any other exception fails the test.
"""

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import phantom  # noqa: F401
from short_runs import Killed, config, splits, stage  # noqa: F401
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data, weights
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.data.prepared import open_split
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.store.keys import tree_hash
from aiseeme_jax.training import loop
from tfds_builders.__main__ import main

# Flips among the ways to damage a file; there are four others.
FLIPS = 4


class Remade(Exception):
    """A piece of work would be done again."""


class Resumed(Exception):
    """A training would go on: from this state, with this record."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of the runs that the first test makes."""
    return tmp_path_factory.mktemp("made")


def short():
    run = config((stage("rotation", 5),), baselines=())
    run.targets[0].update({"fractions": (1.0,), "seeds": (0,)})
    return run


@pytest.fixture
def runs(made, no_events, tiny_in_the_table, splits, monkeypatch):  # noqa: F811
    """The workdirs `interrupted`, killed after its second checkpoint, and `finished`, the same run to its end."""
    if not (made / "finished").exists():
        real = data.Batches.__call__

        def batches(self, start=0):
            for step, batch in enumerate(real(self, start), start=start + 1):
                if step == 5:
                    raise Killed
                yield batch

        with monkeypatch.context() as patch:
            patch.setattr(data.Batches, "__call__", batches)
            with pytest.raises(Killed):
                curriculum.run(short(), made / "interrupted")
        shutil.copytree(made / "interrupted", made / "finished")
        curriculum.run(short(), made / "finished")
    return made


def list_files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def damage(file: Path, random: np.random.Generator) -> str:
    """Damages a file, and says how."""
    how = random.choice(["flip"] * FLIPS + ["cut", "empty", "another type", "gone"])
    content = bytearray(file.read_bytes())
    place = int(random.integers(max(len(content), 1)))
    if how == "flip" and content:
        content[place] ^= 1 << int(random.integers(8))
    file.write_bytes({"cut": content[:place], "empty": b"", "another type": b"[3]"}.get(how, content))
    if how == "gone":
        file.unlink()
    return f"{how} at {place}"


def try_damage(folder: Path, look: Callable[[Path], Any], copy: Path, files: list[Path], trials: int, seed: int):
    """Damages copies of a folder one by one, and compares what a look at each gives. Gives the messages of errors."""
    expected, random, said = look(folder), np.random.default_rng(seed), []
    for trial in range(trials):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        file = files[trial % len(files)]
        how = damage(copy / file, random)
        try:
            found = look(copy)
        except Remade:
            continue
        except UserError as error:
            said.append(f"{file}: {error}")
            continue
        except Exception as error:
            pytest.fail(f"{file}, {how}: {type(error).__name__}: {error}")
        assert found == expected, f"{file}, {how}: another result, and no message"
    return said


@pytest.fixture
def nothing_is_made(monkeypatch):
    """What would be made again raises Remade: that it ends in the same result is tested elsewhere."""

    def refuse(*arguments, **options):
        raise Remade

    monkeypatch.setattr(loop, "fit", refuse)
    monkeypatch.setattr(protocols, "measure", refuse)


@pytest.mark.slow
def test_a_finished_workdir(runs, tmp_path, nothing_is_made):
    def look(workdir):
        curriculum.run(short(), workdir)
        (folder,) = workdir.glob("stages/*-*")
        backbone, _ = weights.load_backbone(folder)
        tables = [(workdir / name).read_bytes() for name in ("results.csv", "config.json", "plan.json")]
        return weights.backbone_hash(backbone), tables

    files = [file for file in list_files(runs / "finished") if "checkpoints" not in file.parts]
    said = try_damage(runs / "finished", look, tmp_path / "run", files, 56, seed=0)
    assert any("backbone.safetensors" in text for text in said) and any("predictions.npz" in text for text in said)


@pytest.mark.slow
def test_an_interrupted_workdir(runs, tmp_path, monkeypatch):
    def stop(training, state, batches):
        raise Resumed(int(state.step), tree_hash(state.replace(frozen=None)), training.record)

    def look(workdir):
        try:
            curriculum.run(short(), workdir)
        except Resumed as resumed:
            return resumed.args

    monkeypatch.setattr(loop._Training, "run", stop)
    folder = runs / "interrupted"
    newest = [file for file in list_files(folder) if "4" in file.parts]
    others = [file for file in list_files(folder) if "checkpoints" not in file.parts]
    assert look(folder)[0] == 4
    said = try_damage(folder, look, tmp_path / "run", [*newest, *others], 36, seed=1)
    assert any("checkpoints/4` deletes it" in text for text in said)


def read_everything(data_dir):
    """What training gets from the data set."""
    found = []
    for name in ("train", "validation", "test"):
        split = open_split("derm_phantom/tiny", name, data_dir)
        found.append((split.class_names, split.fingerprint(), tree_hash([split.images(), split.segmentations()])))
    return found


def run_command(*arguments):
    """What the command of the builders prints. Raises UserError if it ends in its one line about an error."""
    said, wrong = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
        code = main(list(map(str, arguments)))
    # Before it may stand the progress of reading.
    *_, last = ["", *wrong.getvalue().splitlines()]
    if last.startswith("error: "):
        assert code and "ready" not in said.getvalue()
        raise UserError(last)
    return code, re.sub("ready: .*", "ready", said.getvalue())


DOORS = {
    "training": (read_everything, 70),
    "prepare": (lambda folder: run_command("prepare", "derm_phantom/tiny", "--data_dir", folder), 50),
    "check": (lambda folder: run_command("check", "derm_phantom/tiny", "--data_dir", folder), 24),
}


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_a_prepared_data_set(door, phantom, tmp_path):  # noqa: F811
    look, trials = DOORS[door]
    files = [file for file in list_files(phantom) if file.parent.name == "1.0.0"]
    said = try_damage(phantom, look, tmp_path / "data", files, trials, seed=2)
    assert any(re.search("array_record.* delete the folder .*/1.0.0 and prepare the data set again", t) for t in said)
