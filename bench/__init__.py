"""Benchmarks: speed, as ratios that are measured in one run. `results/` has the tables, with hardware and versions."""
