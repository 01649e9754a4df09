"""The job `evaluate`: measures the backbone at `config.init` on all targets, without any training before."""

from pathlib import Path

from ml_collections import ConfigDict

from aiseeme_jax import report, weights
from aiseeme_jax.curriculum.plan import arms
from aiseeme_jax.evaluate import recording
from aiseeme_jax.jobs import changes
from aiseeme_jax.jobs import workdir as workdir_


def run(config: ConfigDict, workdir: Path) -> None:
    """Writes results.csv and report.html.

    Raises ValueError if the config cannot be run, or not in this workdir, FileNotFoundError if `init` or the data is
    not there.
    """
    if changes.begin(config, workdir, lambda: recording.target_splits(config)["train"]):
        return
    (arm,) = arms(config)
    backbone = weights.starting_backbone(config.model, arm.init, config.seed)
    recording.evaluate_arm(config, workdir, arm.name, backbone, random=arm.random)
    recording.write_results(config, workdir, [arm.name])
    report.write_report(workdir)
    workdir_.finish(workdir)
