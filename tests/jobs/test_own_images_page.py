"""docs/own_images.md from its first line to its last, on a few small images and with a tiny network."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax.__main__ import main as run_command
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum
from configs import base, own_images, recipes
from tfds_builders.__main__ import main as run_builders

sys.path.insert(0, str(Path(__file__).parents[1] / "tfds_builders"))
import own_table  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "own_images.md").read_text()


def make_photos(folder: Path) -> None:
    """Two photographs of each of 24 patients, of two classes that brightness tells apart, and two new ones."""
    for patient in range(24):
        for number in range(2):
            (place := folder / "photos" / ("melanoma", "naevus")[patient % 2]).mkdir(parents=True, exist_ok=True)
            (place / f"P{patient:02d}_{number}.png").write_bytes(own_table.picture(2 * patient + number))
    (folder / "new_photos").mkdir()
    for number in range(2):
        (folder / "new_photos" / f"{number}.png").write_bytes(own_table.picture(100 + number))


def run_training(config, workdir):
    """What launch.py does, with a tiny network and few steps."""
    assert config.startswith("configs/own_images.py:")
    made = own_images.get_config(config.partition(":")[2])
    made.model.update({"name": "tiny", "width": 0.125, "stem": "small"})
    made.statistics.samples = 20
    for part in (*made.stages, made.targets[-1]):
        part.batch_size = 8
        recipes.set_steps(part, 2)
    for part in (*made.stages, *made.targets):
        part.views.size = tiny.SIZE
    made.targets[0].update({"neighbours": (3,), "seeds": (0,)})
    made.targets[1].update({"strengths": (0.1,), "seeds": (0,), "max_iter": 20})
    curriculum.run(made, Path(workdir))


@pytest.mark.slow
@pytest.mark.usefixtures("no_events", "tiny_in_the_table")
def test_every_command_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path)
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(python, {})
    table = list(csv.DictReader((tmp_path / "photos" / "images.csv").read_text().splitlines()))
    assert len(table) == 48 and table[0] == {"path": "melanoma/P00_0.png", "label": "melanoma", "group": "P00"}
    commands = [shlex.split(line) for line in re.findall(r"^    (python .*)$", PAGE, re.MULTILINE)]
    done = []
    for command in commands:
        if command[1] == "launch.py":
            run_training(**dict(flag.removeprefix("--").split("=", 1) for flag in command[2:]))
        elif command[2] == "tfds_builders":
            assert run_builders(command[3:]) == 0
        else:
            monkeypatch.setattr(sys, "argv", command[2:])
            run_command()
        done.append(command[1] if command[1] == "launch.py" else command[3])
    assert done == ["prepare", "check", "launch.py", "predict", "card", "export"]
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["0.png", "1.png"]
    assert {row["class"] for row in rows} <= {"melanoma", "naevus"}
    assert "image_table/64" in Path("runs/own/MODEL_CARD.md").read_text()
    assert json.loads(Path("handed_on/settings.json").read_text())["class_names"] == ["melanoma", "naevus"]
    with np.load("handed_on/check.npz") as check:
        assert check["image"].shape == (80, 96, 3)


class TestArguments:
    def test_each_does_what_it_says(self):
        made = own_images.get_config("size=64,table=clinic_a,fit=pad,preset=cxr,tasks=byol+rotation")
        assert made.data.name == "image_table/clinic_a_64_pad"
        assert [stage.task for stage in made.stages] == ["byol", "rotation"]
        cxr = base.stage("byol", preset="cxr", size=64)
        assert made.stages[0].views.mean == cxr.views.mean != base.stage("byol", size=64).views.mean
        assert own_images.get_config().data.name == "image_table/224"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("size=100", "own_images: size=100: known are 64, 224"),
            ("fit=stretch", "own_images: fit=stretch: known are squeeze, pad, crop"),
            ("preset=ct", "own_images: preset=ct: known are natural, dermoscopy, cxr"),
            ("small", "no argument 'small': known are size=…, table=…, fit=…, preset=…, tasks=…"),
            ("size=", "no argument 'size='"),
            ("tasks=spin", "unknown pretext task 'spin'"),
        ],
    )
    def test_what_they_cannot_be(self, arguments, message):
        with pytest.raises(UserError, match=message):
            own_images.get_config(arguments)
