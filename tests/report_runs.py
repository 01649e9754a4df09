"""Workdirs as runs leave them, without a run: config, plan, and artifacts of stages and measurements."""

import dataclasses
import html.parser
import json
import re

import numpy as np

from aiseeme_jax.evaluate import results
from aiseeme_jax.store import workdirs
from aiseeme_jax.store.artifacts import MEASUREMENTS, STAGES, Artifact, Store

TASKS = ("rotation", "moco_v2", "simclr")
ARMS = ("curriculum", "scratch", "single:rotation", "single:moco_v2", "single:simclr")
TARGETS = {"knn": ((1.0,), (0,)), "linear": ((0.1, 1.0), (0, 1)), "finetune": ((0.1, 1.0), (0, 1))}
GRIDS = {"knn": {"neighbours": [5, 20, 200]}, "linear": {"strengths": [0.1, 1.0]}, "finetune": {}, "segment": {}}
FINDINGS = "knn:cxr/64"
PNG = b"\x89PNG not really a picture"
STATISTICS = {"samples": 50, "seed": 0}


def make_target(name, fractions=(1.0,), seeds=(0,)):
    """The fields of a target, by its name in results: 'knn' or 'knn:cxr/64'."""
    protocol, _, data = name.partition(":")
    counts = {"fractions": list(fractions), "seeds": list(seeds)}
    return {"protocol": protocol, "data": data, **counts, **GRIDS[protocol]}


def make_stages(*tasks, data=()):
    return [{"task": task, "data": list(data)} for task in tasks]


CONFIG = {
    "job": "curriculum",
    "title": "A <b>bold</b> & wild study",
    "data": {"name": "derm_phantom/demo", "synthetic": True},
    "model": {"name": "resnet18", "width": 0.25, "dimensions": 2, "stem": "small", "dtype": "float32"},
    "stages": make_stages(*TASKS),
    "targets": [make_target(name, *counts) for name, counts in TARGETS.items()],
    "curricula": {},
    "baselines": ["scratch", "single"],
    "statistics": STATISTICS,
    "runtime": {"data_dir": "data"},
}
# Curriculum and scratch, which trained nothing.
TWO_ARMS = {**CONFIG, "stages": [], "baselines": ["scratch"]}


def stage_artifact(arm, position, task):
    # The first stage alone is that of the curriculum: both are one artifact.
    owner = "curriculum" if (arm, position) == ("single:rotation", 0) else arm
    content = {"arm": owner, "position": position, "task": task}
    return Artifact(STAGES, f"{position:02d}-{task}", content)


def measurement_artifact(arm, target, fraction, seed):
    content = {"arm": arm, "target": target, "fraction": fraction, "seed": seed}
    label = f"{target}-{100 * fraction:g}pct-seed{seed}".replace("/", "-").replace(":", "-")
    return Artifact(MEASUREMENTS, label, content)


def stages_of_arms(config):
    """The tasks that each arm trains."""
    tasks = [stage["task"] for stage in config["stages"]]
    arms = {"curriculum": tasks}
    arms |= {name: [stage["task"] for stage in stages] for name, stages in config["curricula"].items()}
    if "scratch" in config["baselines"]:
        arms["scratch"] = []
    if "single" in config["baselines"]:
        arms |= {f"single:{task}": [task] for task in tasks}
    return arms


def name_of(fields):
    return results.name_target(fields, CONFIG["data"]["name"])


def begin_run(workdir, config=CONFIG):
    """What a run writes before it does anything: its config, and the plan of its arms."""
    arms = []
    for arm, tasks in stages_of_arms(config).items():
        stages = [(task, stage_artifact(arm, position, task)) for position, task in enumerate(tasks)]
        places = [
            (name_of(target), fraction, seed)
            for target in config["targets"]
            for fraction in target["fractions"]
            for seed in target["seeds"]
        ]
        measurements = [(place, measurement_artifact(arm, *place)) for place in places]
        arms.append(
            workdirs.ArmEntry(
                arm,
                tuple(workdirs.StageEntry(made.label, task, 500, made.key) for task, made in stages),
                tuple(workdirs.MeasurementEntry(made.label, *place, made.key) for place, made in measurements),
            )
        )
    workdirs.write_config(workdir, config)
    workdirs.write_plan(workdir, workdirs.WorkdirPlan(".", tuple(arms)))


def write_stage(workdir, arm, position, task, done=True, **record):
    """The folder of a stage, whose last line of metrics is half-written."""
    store, artifact = Store(workdir), stage_artifact(arm, position, task)
    directory = store.begin(artifact)
    lines = [json.dumps({"step": s, "loss": 2.0 / s, "effective_rank": 12.5}) for s in range(10, 500, 10)]
    lines += [json.dumps({"step": 490, "warning": "the features collapse"}), '{"step": 500, "lo']
    (directory / "metrics.jsonl").write_text("\n".join(lines))
    (directory / "views.png").write_bytes(PNG)
    if done:
        figures = {"steps": 500, "seconds": 80.0, "images_per_second": 1234.5, "final_loss": 0.004}
        store.finish(artifact, {"made_from": {}, "task": task, **figures, **record})
    return directory


def write_measurement(workdir, place, predictions, validation=None, **chosen):
    """The folder of a finished measurement of (arm, target, fraction, seed); without `validation`, as it once was."""
    store, artifact = Store(workdir), measurement_artifact(*place)
    directory = store.begin(artifact)
    results.save_predictions(directory, predictions)
    if validation is not None:
        chosen["validation_sha256"] = results.save_predictions(directory, validation, results.VALIDATION)
    store.finish(artifact, {"made_from": {}, "predictions_sha256": results.hash_predictions(directory), **chosen})
    return directory


def write_measurements(workdir, made):
    """Measurements of (arm, target, fraction, seed) -> predictions."""
    return {place: write_measurement(workdir, place, predictions) for place, predictions in made.items()}


def write_targets(workdir, arms=ARMS, targets=TARGETS):
    """Every measurement of some arms and targets."""
    for arm in arms:
        for target in targets:
            fractions, seeds = TARGETS[target]
            for place in ((arm, target, fraction, seed) for fraction in fractions for seed in seeds):
                write_measurement(workdir, place, make_predictions(*place))


def write_two_arms(workdir, fraction=1.0, seeds=(0,), **changes):
    """Curriculum and scratch measured by a linear probe, with changed predictions."""
    begin_run(workdir, {**TWO_ARMS, "targets": [make_target("linear", (fraction,), seeds)]})
    places = [(arm, "linear", fraction, seed) for arm in ARMS[:2] for seed in seeds]
    made = {place: dataclasses.replace(make_predictions(*place), **changes) for place in places}
    write_measurements(workdir, made)
    return made


def make_predictions(arm, target, fraction, seed, names=("MEL", "NV <i>", "BCC")):
    """Probabilities of three classes, which know more about them in the curriculum and less in scratch."""
    member = np.repeat(np.arange(40), 2)
    labels = (np.arange(40) % 3)[member].astype(np.int32)
    rng = np.random.default_rng([ARMS.index(arm), list(TARGETS).index(target), int(100 * fraction), seed])
    logits = rng.normal(size=(len(labels), 3)) + strength_of(arm) * np.eye(3)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids, groups = [f"i{i}" for i in range(80)], [f"lesion-{g}" for g in member]
    return results.Predictions(labels, probs.astype(np.float32), ids, groups, names)


def make_findings(arm, seed=0, names=("Edema", "Effusion", "Hernia")):
    """Probabilities of findings in 90 images of 45 patients: one often not known, one present in few patients."""
    rng = np.random.default_rng(3)
    member = np.repeat(np.arange(45), 2)
    labels = (rng.random((45, 3)) < [0.4, 0.5, 0.1])[member].astype(np.float32)
    labels[rng.random(90) < 0.3, 1] = np.nan
    rng = np.random.default_rng([ARMS.index(arm), seed, 7])
    logits = rng.normal(size=(90, 3)) + strength_of(arm) * np.where(labels == 1, 0.5, -0.5)
    probs = 1 / (1 + np.exp(-logits))
    ids, groups = [f"x{i}" for i in range(90)], [f"patient-{g}" for g in member]
    return results.Predictions(labels, probs.astype(np.float32), ids, groups, names)


def make_overlaps(arm, seed=0):
    """Masks of 60 images of 30 lesions, of 400 pixels each; of the first image nothing was found."""
    rng = np.random.default_rng([ARMS.index(arm), seed, 11])
    true = np.full(60, 400, np.int32)
    share = np.clip(0.55 + 0.1 * strength_of(arm) + 0.1 * rng.normal(size=60), 0, 1)
    common = np.round(share * true).astype(np.int32)
    common[0] = 0
    far = np.where(common > 0, 20 * (1 - share), np.nan).astype(np.float32)
    ids, groups = [f"m{i}" for i in range(60)], [f"lesion-{i // 2}" for i in range(60)]
    return results.Overlaps(common, common, true, far, ids, groups)


def strength_of(arm):
    return {"curriculum": 2.0, "scratch": 0.5}.get(arm, 1.0)


def write_two_kinds(workdir):
    """Curriculum and scratch on a target of classes, and on one of findings with two shares of the labels."""
    targets = [make_target("linear"), make_target(FINDINGS, (0.1, 1.0), (0,))]
    begin_run(workdir, {**TWO_ARMS, "targets": targets})
    for arm in ARMS[:2]:
        write_measurement(workdir, (arm, "linear", 1.0, 0), make_predictions(arm, "linear", 1.0, 0))
        for fraction in (0.1, 1.0):
            chosen = {"neighbours": 20, "validation_score": 0.75}
            write_measurement(workdir, (arm, FINDINGS, fraction, 0), make_findings(arm, int(fraction)), **chosen)


class Page(html.parser.HTMLParser):
    """Collects text and attributes, and fails on tags that do not close in order."""

    VOID = ("meta", "img", "line", "circle", "polyline", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.bold = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if not {"style", "pre", "script"} & set(tags):
            self.text += data
            if self.open and "best" in self.open[-1][1].get("class", ""):
                self.bold.append(data)


def without_script(page):
    """A page without the script within it, which names a namespace of SVG; one from elsewhere stays."""
    rest, scripts = re.subn(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert scripts == 1
    return rest


def words(page):
    """The text of a page as a reader sees it."""
    return " ".join(Page(page).text.replace("\u2060", "").split())
