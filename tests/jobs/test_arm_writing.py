"""What TensorBoard and other writers get of each arm."""

import pytest
from report_runs import make_predictions, write_two_arms

from aiseeme_jax.evaluate import metrics
from aiseeme_jax.jobs import arm_writing
from aiseeme_jax.training import writers


class Notes:
    """A writer that notes everything."""

    def __init__(self, folder, title, group, start_step):
        self.said = []
        written.append((folder.name, title, self.said))

    def __getattr__(self, name):
        return lambda *args: self.said.append((name, *args))


written = []


def test_arms_have_a_metric_under_one_tag_and_their_settings(tmp_path, monkeypatch):
    write_two_arms(tmp_path, 0.1, (0, 1))
    monkeypatch.setattr(writers, "WRITERS", {"notes": Notes})
    written.clear()
    with writers.use(("notes",), "run"):
        arm_writing.write_arms(tmp_path)
    assert [(folder, title) for folder, title, _ in written] == [
        ("config", "config"),
        ("curriculum", "curriculum"),
        ("scratch", "scratch"),
    ]
    (_, step, texts), _ = written[0][2]
    assert step == 0 and texts["config"].startswith("```json\n{") and '"data"' in texts["config"]
    for folder, _, said in written[1:]:
        (_, settings), (_, percent, scalars), closed = said
        assert settings["arm"] == folder and settings["model"] == "resnet18" and percent == 10
        values = [
            metrics.balanced_accuracy(found.labels, found.probs)
            for found in (make_predictions(folder, "linear", 0.1, seed) for seed in (0, 1))
        ]
        assert scalars["linear/balanced_accuracy"] == pytest.approx(sum(values) / 2)
        assert not any("sensitivity" in tag for tag in scalars) and closed == ("close",)


def test_arms_are_written_again_when_anything_changed(tmp_path, monkeypatch):
    write_two_arms(tmp_path, 0.1, (0,))
    monkeypatch.setattr(writers, "WRITERS", {"notes": Notes, "more": Notes, "none": lambda *given: None})
    written.clear()

    def count_written(*names):
        before = len(written)
        with writers.use(names, "run"):
            arm_writing.write_arms(tmp_path)
        return len(written) - before

    # The config and two arms; nothing again; for two writers; again after a run that could not write everything.
    assert [count_written("notes"), count_written("notes"), count_written("notes", "more")] == [3, 0, 6]
    assert [count_written("notes", "none"), count_written("notes", "none"), count_written("notes")] == [3, 3, 3]
