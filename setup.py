"""What pyproject.toml cannot say: config files lie in the package when it is installed, and beside it in a checkout.

So a wheel has no top-level package `configs`, which other projects have too. `aiseeme_jax/jobs/config_names.py` finds
them.
"""

from setuptools import find_packages, setup

SHIPPED = "aiseeme_jax.shipped.configs"
configs = [SHIPPED + name.removeprefix("configs") for name in find_packages(include=["configs", "configs.*"])]

setup(
    packages=[*find_packages(include=["aiseeme_jax*", "tfds_builders*"]), *configs],
    package_dir={SHIPPED: "configs"},
)
