"""Experiments, one file each. `base.py` has all fields with their defaults."""
