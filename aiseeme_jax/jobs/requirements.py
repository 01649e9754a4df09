"""What else may have to be installed."""

import importlib.metadata

# Installs jax for GPUs in the version that is there, as requirements-cuda.txt does in a checkout.
COMMAND_FOR_GPUS = f"pip install 'jax[cuda13]=={importlib.metadata.version('jax')}'"
