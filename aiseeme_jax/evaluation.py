"""The job `evaluate`: measures the backbone at `config.init` on all targets, without any training before."""

from pathlib import Path

from ml_collections import ConfigDict

from aiseeme_jax import checkpoint, data, experiment, plan, report
from aiseeme_jax.evaluate import protocols

ARM = "init"


def run(config: ConfigDict, workdir: Path) -> None:
    """Writes results.csv and report.html.

    Raises ValueError if the workdir was begun with another config, FileNotFoundError if `init` or the data is not
    there.
    """
    backbone = checkpoint.starting_backbone(config.model, config.init, config.seed)
    if not experiment.is_begun(workdir):
        splits = protocols.target_splits(config)
        data.check_model(splits["train"], config.model)
        plan.check_targets(config, splits)
    if experiment.begin(config, workdir):
        return
    protocols.evaluate_arm(config, workdir, ARM, backbone)
    protocols.write_results(config, workdir, [ARM])
    report.write_report(workdir)
    experiment.finish(workdir)
