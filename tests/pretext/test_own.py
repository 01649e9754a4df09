"""Tasks that a user's own file registers: what is refused, and that a change of their code is in their keys."""

import importlib.util

import pytest
from short_runs import config, splits, stage  # noqa: F401
from tiny import own_tasks, tiny_in_the_table  # noqa: F401

from aiseeme_jax import pretext
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.errors import UserError

TASK = """
from aiseeme_jax.pretext.rotation import Rotation

class Base(Rotation):
    def loss(self, views, progress):
        return super().loss(views, progress)

class Turning({base}):
    NAME = "{name}"

    def __init__(self, backbone, spec, setting, {fields}, rngs):
        super().__init__(backbone, spec, setting, rngs=rngs)

    def after_update(self, progress):
        pass  # {comment}
"""
PLAIN = {"base": "Base", "name": "turning", "fields": "*, share=0.5", "comment": ""}


pytestmark = pytest.mark.usefixtures("own_tasks")


def load(file, **changes):
    """The class of a file that Python has no module of, as of a config file."""
    file.write_text(changes.pop("text", TASK).format(**{**PLAIN, **changes}))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Turning


def find_keys(*tasks):
    made = config(tuple(stage(task, 3) for task in tasks))
    (arm,) = [arm for arm in make_plan(made, DataSets(made)).arms if arm.name == "curriculum"]
    return [one.artifact.key for one in arm.stages]


def test_it_is_a_task_like_others(tmp_path):
    assert pretext.register(load(tmp_path / "own.py")) is pretext.task_class("turning")
    assert pretext.task_fields("turning") == {"share": 0.5}


@pytest.mark.usefixtures("tiny_in_the_table", "splits")
def test_the_text_of_its_classes_is_in_the_key_of_its_stage(tmp_path):
    file = tmp_path / "own.py"
    found = {}
    for name, text in (
        ("first", TASK),
        ("again", TASK),
        ("changed", TASK.replace("pass", "return")),
        ("base", TASK.replace("return super()", "return  super()")),
        ("beside", f"import math\n{TASK}\n\ndef other(): pass\n"),
    ):
        pretext.register(load(file, text=text))
        found[name] = find_keys("npid", "turning")
    assert len({keys[0] for keys in found.values()}) == 1
    turning = {name: keys[1] for name, keys in found.items()}
    assert turning["first"] == turning["again"] == turning["beside"]
    assert len({turning["first"], turning["changed"], turning["base"]}) == 3


def test_a_file_whose_name_begins_like_that_of_a_library(tmp_path):
    found = set()
    for text in (TASK, TASK.replace("pass", "return")):
        pretext.register(load(tmp_path / "abc_task.py", text=text, base="Rotation"))
        found.add(pretext.REGISTERED["turning"])
    assert len(found) == 2
    of_library = load(tmp_path / "abc_task.py", base="Rotation")
    of_library.__module__ = "abc"
    with pytest.raises(UserError, match="Turning of the module abc has no text .* write the class into a file of your"):
        pretext.register(of_library)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "rotation"}, r"Turning.NAME is 'rotation', which Rotation of .*rotation.py has: rename it"),
        ({"name": "joint"}, "NAME is 'joint', which Joint of"),
        ({"name": "My Task"}, "Turning.NAME is 'My Task': write a name of lower-case letters"),
        (
            {"fields": "*, share"},
            "is made as .backbone, spec, setting, .* are the task.s fields, each with its default",
        ),
        ({"fields": "share=0.5, *"}, r"not as .self, backbone, spec, setting, share=0.5, \*, rngs"),
    ],
)
def test_what_cannot_be_a_task(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pretext.register(load(tmp_path / "own.py", **changes))
    assert not pretext.REGISTERED


def test_other_things_that_cannot_be_a_task(tmp_path):
    with pytest.raises(UserError, match="register takes a class that derives from aiseeme_jax.task.Task, not 3"):
        pretext.register(3)
    bare = type("Bare", (pretext.Task,), {"NAME": "bare"})
    with pytest.raises(UserError, match="Bare defines no loss: write a method loss"):
        pretext.register(bare)
    names = {}
    exec(TASK.format(**PLAIN), names)
    with pytest.raises(UserError, match="Turning is not in a file: write the class into one"):
        pretext.register(names["Turning"])
    pretext.register(load(tmp_path / "own.py"))
    with pytest.raises(UserError, match=f"'turning', which Turning of {tmp_path / 'own.py'} has: rename it"):
        pretext.register(load(tmp_path / "second.py"))
    with pytest.raises(UserError, match="unknown pretext task 'spin'.* the file of a task of your own says"):
        pretext.task_class("spin")
