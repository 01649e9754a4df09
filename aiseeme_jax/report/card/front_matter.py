"""The front matter of a card: the fields that Hugging Face reads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiseeme_jax.report.card.datasets import UsedData
from aiseeme_jax.report.card.evaluation import Score
from aiseeme_jax.report.card.markdown import write_yaml
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.names import describe_target

# Names of metrics on Hugging Face, where it has one.
METRICS = {"auroc": "roc_auc"}
TASK, TASK_OF_MASKS = "image-classification", "image-segmentation"


def write_front_matter(contents: Contents, used: UsedData, scores: Mapping[str, Sequence[Score]]) -> Iterator[str]:
    """Lines of YAML between dashes.

    Args:
      scores: of each arm.
    """
    tasks = [stage.task for arm in scores for stage in contents.stages_of[arm]]
    tags = ["medical", "self-supervised-learning", "jax", "flax", contents.config["model"]["name"], *tasks]
    tags += ["synthetic-data"] if contents.synthetic else []
    metrics = [METRICS.get(one.metric, one.metric) for found in scores.values() for one in found]
    fields: dict[str, Any] = {
        "library_name": "aiseeme_jax",
        "pipeline_tag": "image-feature-extraction",
        "tags": list(dict.fromkeys(tags)),
        "datasets": list(dict.fromkeys(name.partition("/")[0] for name in used.names)),
    }
    if metrics:
        fields["metrics"] = list(dict.fromkeys(metrics))
        fields["model-index"] = [
            {"name": f"{contents.title}: {arm}", "results": list(_list_results(contents, used, found))}
            for arm, found in scores.items()
            if found
        ]
    yield "---"
    # That of the weights: the data may forbid one that the program could choose.
    yield "license: unknown  # of the weights; not known: fill in"
    yield from write_yaml({name: value for name, value in fields.items() if value})
    yield "---"


def _list_results(contents: Contents, used: UsedData, scores: Sequence[Score]) -> Iterator[dict[str, Any]]:
    """A result for each target and share of the labels, with its metrics."""
    for target, fraction in dict.fromkeys((one.target, one.fraction) for one in scores):
        data = used.test_sets.get(target) or contents.data_of(target)
        share = "" if fraction == 1 else f", {100 * fraction:g} % of the labels"
        kind = TASK_OF_MASKS if any(one.of_masks for one in scores if one.target == target) else TASK
        yield {
            "task": {"type": kind, "name": f"{describe_target(target)}{share}"},
            "dataset": {"name": data, "type": data.partition("/")[0], "split": "test"},
            "metrics": [
                {
                    "type": METRICS.get(one.metric, one.metric),
                    "name": f"{one.words} (95 % interval {one.cell.interval.strip('[]')})",
                    "value": round(one.cell.value, 4),
                }
                for one in scores
                if (one.target, one.fraction) == (target, fraction)
            ],
        }
