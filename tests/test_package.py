"""The package as others install it: what its wheel holds, its commands, and the versions that it asks for."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running import QUICK_TO_COMPILE, phantom  # noqa: F401

import aiseeme_jax
from aiseeme_jax.jobs import config_names
from tfds_builders import __main__ as builders
from tfds_builders import checking

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def read_lock() -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def test_every_tested_version_lies_in_its_range_and_every_library_has_one():
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    ranges = {canonicalize_name((one := Requirement(line)).name): one for line in [*PROJECT["dependencies"], *extras]}
    locked = read_lock()
    other = ranges.keys() ^ locked.keys()
    assert not other, f"only one of pyproject.toml (a range) and requirements.txt (a version) has {sorted(other)}"
    assert [name for name, one in ranges.items() if not one.specifier.contains(locked[name])] == []
    assert all(str(one.specifier) and "==" not in str(one.specifier) for one in ranges.values())


def test_the_citation_has_the_version():
    text = (REPOSITORY / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == aiseeme_jax.__version__
    assert f"## {aiseeme_jax.__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text()


class TestNamesOfConfigFiles:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (["--config=isic_curriculum"], "isic_curriculum.py"),
            (["--config=isic_curriculum:small", "--plan"], "isic_curriculum.py:small"),
            (["--config", "evaluate:dermoscopy,64"], "evaluate.py:dermoscopy,64"),
        ],
    )
    def test_a_bare_name_is_one_of_this_project(self, given, expected):
        found = config_names.find_shipped(["launch.py", *given])
        assert found[:2] == ["launch.py", f"--config={config_names.CONFIGS / expected}"]
        assert found[2:] == [flag for flag in given if flag == "--plan"]

    @pytest.mark.parametrize("config", [["--config=own_images"], ["--config", "own_images"]])
    def test_another_value_that_equals_the_name_stays(self, config):
        given = ["launch.py", "--workdir", "own_images", *config, "--plan"]
        expected = [*given[:3], f"--config={config_names.CONFIGS / 'own_images.py'}", "--plan"]
        assert config_names.find_shipped(given) == expected

    @pytest.mark.parametrize(
        "given", ["--config=mine", "--config=configs/isic_order.py", "--config.seed=1", "--config=recipes"]
    )
    def test_others_stay(self, given):
        assert config_names.find_shipped(["launch.py", given]) == ["launch.py", given]

    def test_a_file_of_that_name_comes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("isic_order").touch()
        assert config_names.find_shipped(["launch.py", "--config=isic_order"]) == ["launch.py", "--config=isic_order"]

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (["--config=isic_order"], "--config=isic_order:small is its variant for CPUs"),
            (
                ["--config", "configs/isic_order.py:full"],
                "--config=configs/isic_order.py:small is its variant for CPUs",
            ),
            (["--config=evaluate"], "other configs have a variant for CPUs, such as --config=isic_curriculum:small"),
            ([], "other configs have a variant for CPUs, such as --config=isic_curriculum:small"),
        ],
    )
    def test_a_small_machine_is_told_of_a_variant_for_it(self, given, expected, monkeypatch):
        monkeypatch.chdir(REPOSITORY)
        assert config_names.suggest_small(["launch.py", *given]) == expected
        assert config_names.is_config(config_names.CONFIGS / f"{config_names.EXAMPLE.partition(':')[0]}.py")


def test_a_library_that_is_not_installed_is_named(monkeypatch, capsys):
    def lack(*arguments):
        raise ModuleNotFoundError("No module named 'imagehash'", name="imagehash")

    monkeypatch.setattr(builders, "read_all", lack)
    assert builders.main(["check", "derm_phantom/tiny", "--data_dir", "d"]) == 2
    assert "error: check needs imagehash: pip install 'aiseeme-jax[data]'" in capsys.readouterr().err
    assert checking.read_all is not lack


# Random weights, measured by kNN.
MINE = """
from configs import base, recipes

def get_config():
    config = base.get_config()
    config.job = "evaluate"
    config.model.update({"name": "resnet18", "width": 0.125, "stem": "small", "dtype": "float32"})
    config.targets = (base.target("knn", size=16),)
    return config
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the content of the wheel, which is built in a copy, without what git ignores."""
    pytest.importorskip("setuptools", minversion="77", reason="of requirements.txt, to build the wheel")
    copy, folder = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    for name in ("aiseeme_jax", "tfds_builders", "configs", "tests"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "pylidc*"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "launch.py"):
        shutil.copy(REPOSITORY / name, copy)
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=copy, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == f"aiseeme_jax-{aiseeme_jax.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
class TestWheel:
    def test_holds_the_packages_and_their_files_and_nothing_else(self, installed):
        top = {path.name for path in installed.iterdir()}
        assert top == {"aiseeme_jax", "tfds_builders", f"aiseeme_jax-{aiseeme_jax.__version__}.dist-info"}
        shipped = {
            "aiseeme_jax/shipped/configs": "configs",
            "aiseeme_jax": "aiseeme_jax",
            "tfds_builders": "tfds_builders",
        }
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", *shipped.values()],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        if listed.returncode:
            pytest.skip("the files of the repository are known with git alone")
        places = {origin: place for place, origin in shipped.items()}
        wanted = {"/".join((places[(parts := name.split("/"))[0]], *parts[1:])) for name in listed.stdout.split()}
        assert sorted(name for name in wanted if not (installed / name).is_file()) == []
        (commands,) = installed.glob("*.dist-info/entry_points.txt")
        assert "aiseeme = aiseeme_jax.__main__:main" in commands.read_text()

    def test_its_commands_work_in_an_empty_folder(self, installed, tmp_path, phantom):  # noqa: F811
        """With a config of one's own there, which imports `configs`, though another package has that name too."""
        (other := tmp_path / "other" / "configs").mkdir(parents=True)
        (other / "__init__.py").touch()
        place = os.pathsep.join(map(str, (tmp_path / "other", installed)))
        environment = {**os.environ, "PYTHONPATH": place, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_TO_COMPILE}
        (folder := tmp_path / "empty").mkdir()
        (folder / "mine.py").write_text(MINE)

        def call(*arguments, code=0):
            program = "import sys; sys.argv[0] = 'aiseeme'; from aiseeme_jax.__main__ import main; sys.exit(main())"
            command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == code, done.stderr
            return done.stdout + done.stderr

        assert "plan,predict,prepare,report" in call("--help")
        data = (f"--config.runtime.data_dir={phantom}", "--config.data.name=derm_phantom/tiny", "--workdir=run")
        said = call("plan", "--config=evaluate:dermoscopy,64,frozen", *data)
        assert "knn-100pct-seed0-" in said and "0 of which exist" in said
        call("train", "--config=mine.py", *data)
        assert "knn" in (folder / "run" / "report.html").read_text()
        assert "Config files are base, cxr_curriculum, " in call("train", "--config=mime.py", "--workdir=run", code=2)
        assert f"ready: {phantom}" in call("prepare", "derm_phantom/tiny", "--data_dir", phantom)
