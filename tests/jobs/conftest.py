"""Whole runs on arrays in memory."""

import pytest
from short_runs import splits  # noqa: F401
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax.jobs import forecast


@pytest.fixture
def quick_forecasts(monkeypatch):
    """Nothing is traced or compiled for a plan that is only printed."""
    monkeypatch.setattr(forecast.Forecaster, "shape", lambda self, stage: (None, None, None))
    monkeypatch.setattr(forecast.Forecaster, "_count_operations", lambda self, stage: 1e9)
    monkeypatch.setattr(forecast.memory, "measure_step", lambda program, state, batch: 5 * 2**20)
    monkeypatch.setattr(forecast, "_count_disk", lambda state: 3 * 2**20)
    monkeypatch.setattr(forecast, "measure_operations", lambda dtype: 1e9)
