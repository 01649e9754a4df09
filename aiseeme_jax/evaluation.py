"""The job `evaluate`: measures the backbone at `config.init` on all targets, without any training before."""

from pathlib import Path

from ml_collections import ConfigDict

from aiseeme_jax import checkpoint, data, experiment, report
from aiseeme_jax.evaluate import protocols

ARM = "init"


def run(config: ConfigDict, workdir: Path) -> None:
    """Writes results.csv and report.html.

    Raises ValueError if the workdir was begun with another config, FileNotFoundError if `init` or the data is not
    there.
    """
    backbone = checkpoint.starting_backbone(config.model, config.init, config.seed)
    if not experiment.is_begun(workdir):
        data.check_model(protocols.target_splits(config)["train"], config.model)
    if experiment.begin(config, workdir):
        return
    protocols.evaluate_arm(config, workdir, ARM, backbone)
    protocols.write_results(config, workdir, [ARM])
    report.write_report(workdir)
    experiment.finish(workdir)
