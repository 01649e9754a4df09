"""Whole studies on arrays in memory: what is planned, what is trained, what is written."""

import csv
from pathlib import Path

import pytest
import tiny
from short_runs import Killed, stage
from short_runs import config as short_config

from aiseeme_jax.curriculum import measurements
from aiseeme_jax.curriculum import stages as stage_work
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum, study
from aiseeme_jax.store import listing
from configs import base

pytestmark = [pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")]
SHARES = base.variants({"half": {"data.share": 0.5}, "all": {"data.share": 1.0}})


def config(**changes):
    made = base.get_study_config()
    made.update({name: value for name, value in short_config().items() if name not in ("job", "stages", "budget")})
    made.stages = (stage("rotation", 2), stage("npid", 2))
    made.targets = (
        base.target("knn", size=tiny.SIZE, views=tiny.PLAIN, neighbours=(3,), fractions=(0.5, 1.0), seeds=(0, 1)),
    )
    made.baselines = ("scratch",)
    made.study.update({"seeds": (0, 1), **changes})
    return made


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trained(monkeypatch):
    """Labels of the stages that were trained, in their order."""
    done = []
    train = stage_work.train_stage

    def note(planned, context, directory):
        done.append(planned.artifact.name)
        return train(planned, context, directory)

    monkeypatch.setattr(curriculum, "train_stage", note)
    return done


@pytest.mark.slow
class TestStudy:
    def test_trains_nothing_twice_goes_on_after_a_kill_and_writes_every_table(self, tmp_path, trained, monkeypatch):
        """Two shares of the images and two seeds: one training of each stage for each, and nothing the second time."""
        made, calls = config(vary=SHARES), []
        measure = measurements.Measurer.measure

        def kill(*arguments):
            calls.append(1)
            if len(calls) == 5:
                raise Killed
            return measure(*arguments)

        monkeypatch.setattr(measurements.Measurer, "measure", kill)
        with pytest.raises(Killed):
            study.run(made, tmp_path / "run")
        study.run(made, tmp_path / "run")
        assert len(trained) == len(set(trained)) == 2 * 2 * 2
        # Scratch knows nothing of the share of the images: it is measured once for each seed.
        measured = len(list((tmp_path / "run" / "measurements").iterdir()))
        assert measured == 2 * (2 * 3 + 3) == len(calls) - 1
        values = rows(tmp_path / "run" / "study.csv")
        assert len(values) == 2 * 2 * 3 * 2 * 2, "variants, arms, draws of labels, metrics, seeds"
        scratch = [row["value"] for row in values if row["arm"] == "scratch"]
        assert scratch[: len(scratch) // 2] == scratch[len(scratch) // 2 :]
        summary = rows(tmp_path / "run" / "summary.csv")
        assert {(row["arm"], float(row["images"])) for row in summary} == {("curriculum", 32.0), ("scratch", 0.0)}
        assert {row["x"] for row in summary} == {"0.5", "1"} and {row["pretraining_seeds"] for row in summary} == {"2"}
        differences = rows(tmp_path / "run" / "differences.csv")
        assert {(row["arm"], row["reference"], row["comparisons"]) for row in differences} == {
            ("curriculum", "scratch", "2")
        }
        page = (tmp_path / "run" / "report.html").read_text()
        assert "<svg" in page and "not complete" not in page and "data.share" in page
        assert all(entry.wanted for entry in listing.list_store([tmp_path / "run"])), "prune leaves them alone"

        trained.clear()
        study.run(config(vary=SHARES, seeds=(0, 1, 2)), tmp_path / "run")
        assert len(trained) == 2 * 2, "the new seed alone"

    def test_a_variant_that_diverges_ends_nothing(self, tmp_path):
        rates = base.variants(
            {
                "1e-3": {"stages[0].optimizer.learning_rate": 1e-3},
                "huge": {
                    "stages[0].optimizer": {"learning_rate": 1e30, "name": "sgd"},
                    "patience": 1,
                    "stages[0].duration.steps": 6,
                },
            }
        )
        made = config(vary=rates, seeds=(0,))
        study.run(made, tmp_path / "run")
        page = (tmp_path / "run" / "report.html").read_text()
        assert "The training of curriculum, huge, seed 0 diverged." in page
        found = {(row["variant"], row["arm"]) for row in rows(tmp_path / "run" / "summary.csv")}
        assert found == {("1e-3", "curriculum"), ("1e-3", "scratch"), ("huge", "scratch")}
        assert "There is one pretraining seed: no interval covers another pretraining." in page


class TestPlans:
    def test_all_are_made_before_anything_and_counted(self, tmp_path, capsys):
        study.run(config(vary=SHARES), tmp_path / "run", plan_only=True)
        said = capsys.readouterr().out
        assert "half, seed 0: 8 pieces of work; 0 of 8 new ones exist" in said
        assert "all, seed 0: 8 pieces of work, 3 of which are planned above; 0 of 5 new ones exist" in said
        assert "26 pieces of work, 0 of which exist\nto train: 8 stages, 16 steps, 128 images" in said
        assert not (tmp_path / "run").exists()

    def test_a_field_changes_only_what_depends_on_it(self):
        """Of the second stage its own key and what it is measured by, of a target no stage."""
        vary = base.variants(
            {
                "plain": {"patience": 10},
                "second": {"stages[1].optimizer.learning_rate": 0.5},
                "probe": {"targets[0].temperature": 0.5},
            }
        )
        planned = study.plan_runs(study.read_study(config(vary=vary, seeds=(0,))), Path("run"))
        stages, measured = zip(
            *(
                [[p.artifact.key for p in getattr(one.plan.arms[0], kind)] for kind in ("stages", "measurements")]
                for one in planned
            ),
            strict=True,
        )
        assert stages[0][0] == stages[1][0] and stages[0][1] != stages[1][1] and stages[0] == stages[2]
        assert not {*measured[0]} & {*measured[1]} and not {*measured[0]} & {*measured[2]}
        scratch = [{m.artifact.key for m in one.plan.arms[1].measurements} for one in planned]
        assert scratch[0] == scratch[1] and not scratch[0] & scratch[2]


class TestBadInput:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"seeds": ()}, r"study.seeds are \(\); there must be some, each once"),
            ({"seeds": (1, 1)}, "each once, whole and not negative"),
            ({"reference": "single:npid"}, "study.reference is 'single:npid'; the arms are curriculum, scratch"),
            ({"reference_variant": "third"}, "study.reference_variant is 'third'; there are none"),
            (
                {"vary": base.variants({"a": {"data.sahre": 0.1}})},
                "study.vary 'a': unknown field 'sahre' of config.data",
            ),
            ({"vary": base.variants({"a": {"stages[2].batch_size": 1}})}, "config.stages has 2 entries: there is no"),
            ({"vary": base.variants({"a": {"stages[*].batch_size": "x"}})}, "is of type int; it cannot be 'x'"),
            ({"vary": base.variants({"a": {"seed": 1}})}, "'seed' cannot vary: the pretraining seeds are study.seeds"),
            ({"vary": base.variants({"a": {"targets": ()}})}, "'targets' cannot vary: all variants have the same"),
            ({"vary": base.variants({"a": {"stages[0]": 1}})}, "no field but a whole entry"),
            ({"vary": base.variants({"a": {"stages[0].views": 1}})}, r"is a node with the fields .*: name one of them"),
            ({"vary": base.variants({"a": {"stages..x": 1}})}, r"'stages..x' is no field: write it as in"),
            ({"vary": base.variants({"a": {"patience": 3}, "b": {"patience": 3}})}, "'a' and 'b' are the same"),
            ({"vary": 2 * base.variants({"a": {"patience": 3}})}, "two variants have the name 'a'"),
            ({"vary": base.variants({" ": {"patience": 3}})}, "a variant needs a name"),
            ({"vary": ("a",)}, "write base.variants"),
            ({"vary": base.variants({"a": {"stages[0].seed": 3}})}, "has a seed of its own"),
            ({"vary": base.variants({"a": {"data.share": 0.0}})}, r"study.vary 'a': data.share is 0.0; it must lie in"),
            ({"vary": base.variants({"a": {"data.share": 0.1}})}, "data.share 0.1 leaves 2 images, fewer than a batch"),
            (
                {"vary": base.variants({"a": {"targets[0].endpoint": "head"}})},
                "endpoint is 'head'; the endpoints of ti",
            ),
        ],
    )
    def test_is_named_before_anything_is_written(self, changes, message, tmp_path):
        with pytest.raises(UserError, match=message):
            study.run(config(**changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_run_without_fields_of_a_study(self, tmp_path):
        made = short_config()
        made.job = "study"
        with pytest.raises(UserError, match="begin the config file with base.get_study_config"):
            study.run(made, tmp_path / "run")
