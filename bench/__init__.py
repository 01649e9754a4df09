"""Speed, as ratios measured in one run. Nothing here is a test; `results/` keeps the tables with hardware and
versions.
"""
