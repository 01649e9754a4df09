"""A file imports from its own floor or a lower one, and `make lint` holds it to that; every name is defined."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    program = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run([*program, "--no-cache"], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("aiseeme_jax/losses/arrays.py", "from aiseeme_jax.models import heads", "losses is not allowed to import"),
        ("aiseeme_jax/pretext/simclr.py", "import aiseeme_jax.distill", "pretext is not allowed to import"),
        ("tfds_builders/common/splits.py", "import aiseeme_jax.seeds", "tfds_builders is not allowed to import"),
        ("aiseeme_jax/loose.py", "x = 1", "aiseeme_jax.loose"),
    ],
    ids=["upwards", "sideways", "from a builder", "a file without a floor"],
)
def test_an_import_that_leads_upwards_is_refused(tmp_path, file, line, broken):
    for folder in ("aiseeme_jax", "tfds_builders"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    assert lint_imports(tmp_path).returncode == 0
    with open(tmp_path / file, "a") as changed:
        changed.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and broken in done.stdout + done.stderr


def test_make_lint_asks_for_it():
    lint = (REPOSITORY / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert "lint-imports" in lint


def find_undefined(*places: str) -> list[str]:
    """Names that nothing defines. `make lint` passes over all of them, since jaxtyping writes shapes as text."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", "--output-format=json", *places]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    found = []
    for one in json.loads(done.stdout):
        row, column = one["location"]["row"], one["location"]["column"]
        before = Path(one["filename"]).read_text().splitlines()[row - 1][: column - 1]
        # Within a text there is an odd number of quotes before it.
        if before.count('"') % 2 == 0:
            found.append(f"{one['filename']}:{row}: {one['message']}")
    return found


def test_every_name_is_defined(tmp_path):
    assert find_undefined("aiseeme_jax", "configs", "bench", "tfds_builders", "launch.py") == []
    (tmp_path / "wrong.py").write_text('def f(x: Float[Array, "n d"]):\n    return missing(x)\n')
    (name,) = [line for line in find_undefined(str(tmp_path)) if "missing" in line]
    assert "wrong.py:2" in name
