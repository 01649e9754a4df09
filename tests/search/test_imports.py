"""Config files that the program writes, whose stages are of tasks of the user's own."""

import importlib
import importlib.util
import sys

import pytest
from tiny import own_tasks  # noqa: F401

from aiseeme_jax import pretext
from aiseeme_jax.search.best_order import to_values, write_best_order
from aiseeme_jax.search.imports import PLAIN, explain_unknown, write_imports
from configs import base

TASK = """
from aiseeme_jax.pretext.rotation import Rotation

class Turning(Rotation):
    NAME = "turning"

    def __init__(self, backbone, spec, setting, *, share=0.5, rngs):
        super().__init__(backbone, spec, setting, rngs=rngs)
"""
pytestmark = pytest.mark.usefixtures("own_tasks")


def read(file, module):
    """The class, as a config file imports it from a file; without a module, from the config file itself."""
    if module is None:
        spec = importlib.util.spec_from_file_location("config_config", file)
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(module)
    return found.Turning


@pytest.mark.parametrize(
    ("path", "module"),
    [("turning_of_mine.py", "turning_of_mine"), ("my_own/tasks/one.py", "my_own.tasks.one"), ("my-config.py", None)],
)
def test_the_best_order_of_tasks_of_ones_own_runs_anywhere(path, module, tmp_path, monkeypatch):
    (file := tmp_path / "mine" / path).parent.mkdir(parents=True)
    file.write_text(TASK)
    with monkeypatch.context() as first:
        first.syspath_prepend(tmp_path / "mine")
        pretext.register(read(file, module))
        key = dict(pretext.REGISTERED)
        config = base.get_search_config()
        with config.search.unlocked():
            config.search.pool = base.ConfigDict({"turned": base.stage("turning", share=0.3)})
        write_best_order(tmp_path, config, ("turned",), ["It is."], tmp_path)
    # Another process knows nothing of it.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("turning_of_mine", "my_own")]:
        del sys.modules[name]
    pretext.REGISTERED.clear()
    del pretext.TASKS["turning"]
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec((tmp_path / "best_order.py").read_text(), space := {})
    (stage,) = space["get_config"]().stages
    assert (stage.task, stage.fields.share) == ("turning", 0.3)
    assert key == pretext.REGISTERED, "its stages are found again"


def test_what_is_not_registered_here_is_named():
    members = {"members": {"rotation": {"task": "rotation"}, "turning": {"task": "turning"}}}
    stages = ({"task": "joint", "fields": members}, {"task": "simclr", "fields": {}})
    assert write_imports(stages) == PLAIN
    assert explain_unknown(stages).startswith("turning: not a task of this program. Import the class from its file")
    assert explain_unknown([to_values(base.stage("simclr"))]) == ""
