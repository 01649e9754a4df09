"""Runs a config in a workdir, as `aiseeme train` does. The same command again continues where it stopped.

python launch.py --config=configs/isic_curriculum.py:demo --workdir=runs/demo
"""

from aiseeme_jax.jobs import launch

if __name__ == "__main__":
    launch.run()
