"""A point that the processes of one run pass together."""

import jax


def wait_for_all(name: str) -> None:
    """Waits until all processes are here. Then the others find what the first one has written."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
