"""Targets and metrics in the words of the report."""

from collections.abc import Sequence

from aiseeme_jax.evaluate.labels import ClassLabels, FindingLabels

METRICS = {
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "macro_f1": "F1",
    "macro_specificity": "Specificity, at the highest probability",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity, at the highest probability",
    "jaccard": "Jaccard index",
    "dice": "Dice coefficient",
    "threshold_jaccard": "Threshold Jaccard index",
    "hausdorff95": "95 % Hausdorff distance in pixels, lower is better",
    "hausdorff95_undefined": "Share of images without a Hausdorff distance, lower is better",
}
# Names of people keep their capital letter within a sentence.
PERSONS = ("Jaccard", "Dice")
# What is called otherwise where each image has several findings.
METRICS_OF_FINDINGS = {"auroc": "Macro AUROC", "average_precision": "Macro average precision"}
PROTOCOLS = {
    "knn": "kNN",
    "linear": "Linear probe",
    "svm": "Linear SVM",
    "finetune": "Fine-tuning",
    "segment": "Segmentation",
    "arl_cnn": "ARL-CNN",
    "mb_dcnn_coarse": "MB-DCNN, coarse segmentation",
    "mb_dcnn_classifier": "MB-DCNN, mask-guided classification",
    "mb_dcnn_enhanced": "MB-DCNN, enhanced segmentation",
    "fisher_vector": "Fisher vectors",
    "thorax_attention": "Thorax-Net, attention branch",
    "thorax_net": "Thorax-Net",
    "fuse_tsd": "Fuse-TSD",
    "mv_kbc": "MV-KBC",
    "ssac_style": "SSAC-style",
}
# Tasks whose loss is that of a queue of keys, which begins with random ones.
QUEUED = {"moco_v1", "moco_v2", "densecl"}
# What the classes of a target are called.
CLASSES = {ClassLabels.KIND: "classes", FindingLabels.KIND: "findings"}


def describe_target(target: str) -> str:
    """A target in words: its protocol, with what else its name says (see `results.name_target`)."""
    rest, _, data = target.partition(":")
    protocol, _, method = rest.partition("+")
    return ", ".join(filter(None, (PROTOCOLS.get(protocol, protocol), method, data)))


def describe_metric(metric: str, kind: str) -> str:
    """A metric over all classes or findings in words.

    Args:
      kind: of the predictions, as `Scoring.kind`.
    """
    return METRICS_OF_FINDINGS[metric] if kind == FindingLabels.KIND else METRICS[metric]


def within_sentence(name: str) -> str:
    """The words of a metric as they are written within a sentence: 'balanced accuracy', 'macro AUROC', 'AUROC'."""
    return name if name[:2].isupper() or name.startswith(PERSONS) else name[0].lower() + name[1:]


def list_alternatives(names: Sequence[str]) -> str:
    """Names of metrics at the start of a sentence, each once: 'Balanced accuracy or macro AUROC'."""
    once = list(dict.fromkeys(names))
    return " or ".join([*once[:1], *map(within_sentence, once[1:])])
