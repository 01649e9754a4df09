"""Configs of a data set that differ from others in one respect, and say so in name and description."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import tensorflow_datasets as tfds

Config = TypeVar("Config", bound=tfds.core.BuilderConfig)


def variants(configs: Iterable[Config], name: str, text: str, **fields: Any) -> list[Config]:
    """Each config with other `fields`; `name` is that of the variant with {} for the config's own ('{}_mask')."""
    return [
        dataclasses.replace(
            config, name=name.format(config.name), description=f"{config.description}; {text}", **fields
        )
        for config in configs
    ]
