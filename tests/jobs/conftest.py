"""Whole runs on arrays in memory."""

from short_runs import quick_forecasts, splits  # noqa: F401
from tiny import no_events, tiny_in_the_table  # noqa: F401
