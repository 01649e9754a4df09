"""The fields of a search of a stage's learning rate and batch size, and what "auto" in a stage means."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax.errors import UserError
from configs.nodes import change

AUTO = "auto"


def tuning(proxy: ConfigDict | None = None, **changes: Any) -> ConfigDict:
    """How a stage's learning rate and batch size are searched. `docs/tuning.md` explains it.

    stage(..., learning_rate="auto", batch_size="auto", tuning=tuning(proxy("knn", share=0.1), trials=27))

    Args:
      proxy: of `base.proxy`: what trials are scored by. In a stage that says "auto" it is by default 'knn', on images
        of the stage's size and preset.
      **changes: fields, as in `stage`.
    """
    config = ConfigDict(
        {
            "auto": (),  # what is searched: learning_rate, batch_size. "auto" in `stage` adds to it; empty: nothing
            "proxy": ConfigDict() if proxy is None else proxy,
            "spread": 8.0,  # learning rates from the stage's own over this to its own times this, scaled with the batch
            "scaling": "by_optimizer",  # linear | square_root | none | by_optimizer: square_root of adamw, else linear
            "batches": (64, 128, 256, 512),  # batch sizes
            "share": 0.25,  # of the images of the stage, for the longest trials
            "sampler": "tpe",  # tpe | random | grid
            "points": 5,  # grid: learning rates
            "pruner": "halving",  # halving | hyperband | none: every trial has the greatest length
            "trials": 9,  # candidates that are tried; hyperband has its own numbers
            "round": 3,  # none: candidates that are proposed at once
            "rungs": 3,  # halving, hyperband: lengths of trials;
            "keep": 3,  # each is so many times the one before, for one candidate in so many
            "patience": 2,  # a candidate is given up whose score has not improved for so many rungs
            "range_test": False,  # first: learning rates are bounded by a range test
            "range_steps": 100,  # of the range test
            "noise_scale": False,  # first: the gradient noise scale is measured, a hint for the batch size
            "noise_batches": 16,  # of the stage's batch size, each cut into eight
            "memory_limit": 0.0,  # GiB for a step; a trial that needs more is left out. 0 = what the device has
        }
    )
    return change(config, changes)


def read_auto(changes: Mapping[str, Any], make_proxy: Callable[[], ConfigDict] | None) -> dict[str, Any]:
    """The changes of a stage in which `tuning` says what was "auto". The learning rate and batch size around which is
    searched stay those of the stage: what is given beside "auto", or the defaults.

    Args:
      make_proxy: makes the proxy that scores trials if none is given; None if there is no such proxy.

    Raises UserError for "auto" without a proxy, and for a learning rate outside of `optimizer`.
    """
    changes = dict(changes)
    auto = []
    if "learning_rate" in changes:
        if changes.pop("learning_rate") != AUTO:
            raise UserError(
                'learning_rate of a stage may only be "auto"; a number belongs into optimizer={"learning_rate": …}'
            )
        auto.append("learning_rate")
    if _is_auto(changes.get("optimizer"), "learning_rate"):
        changes["optimizer"] = {name: value for name, value in changes["optimizer"].items() if value != AUTO}
        auto.append("learning_rate")
    if _is_auto(changes, "batch_size"):
        del changes["batch_size"]
        auto.append("batch_size")
    given = changes.get("tuning", {})
    # A search that is used in several stages stays as it is.
    search = tuning(**given) if isinstance(given, dict) else given.copy_and_resolve_references()
    search.auto = tuple(dict.fromkeys((*search.auto, *auto)))
    if search.auto and not search.proxy:
        if make_proxy is None:
            raise UserError(
                f"{' and '.join(search.auto)} of a stage with members is to be searched, and nothing says by which "
                "score: write tuning=base.tuning(base.proxy('knn', size=…, preset=…))"
            )
        with search.unlocked():
            search.proxy = make_proxy().lock()
    return {**changes, "tuning": search}


def _is_auto(values: Any, field: str) -> bool:
    return isinstance(values, Mapping | ConfigDict) and isinstance(values.get(field), str) and values[field] == AUTO
