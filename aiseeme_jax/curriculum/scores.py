"""Which images a proxy scores a backbone by: checked, and identified for a key."""

from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax import data
from aiseeme_jax.curriculum import checks
from aiseeme_jax.curriculum.datasets import DataSets, find_set
from aiseeme_jax.evaluate import proxies

# Fields of a proxy that are not in a key as they are.
RESOLVED_FIELDS = ("data", "made_for")


def check_proxy(config: ConfigDict, fields: ConfigDict, datasets: DataSets, where: str) -> None:
    """Raises UserError for a proxy that cannot score, such as one that needs labels where there are none.

    Args:
      fields: of the proxy.
      where: the field of the config that holds it.
    """
    with checks.name_in_errors(f"{where} ({fields.proxy})"):
        proxy = proxies.find_proxy(fields.proxy)
        checks.check_made_for(fields, "proxy", "proxy")
        proxy.check(fields)
        opened = {name: datasets.searched(find_set(config, fields), name) for name in proxy.splits}
        for split in opened.values():
            data.check_model(split, config.model)
            checks.check_views(config.model, fields, split)
        proxies.select_images(fields, opened.get)


def describe_proxy(config: ConfigDict, fields: ConfigDict, datasets: DataSets) -> dict[str, Any]:
    """The part of a key for a proxy: its fields, and the images of the splits that it needs."""
    name = find_set(config, fields)
    images = {split: datasets.searched(name, split).fingerprint() for split in proxies.find_proxy(fields.proxy).splits}
    own = {field: value for field, value in fields.items() if field not in RESOLVED_FIELDS}
    return {"proxy": own, "data": {"name": name, **images}}
