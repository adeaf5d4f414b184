"""How long to look: a glance in the tests, long with `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("glance", max_examples=60, stateful_step_count=15, deadline=None, derandomize=True)
settings.register_profile(
    "fuzz", max_examples=20_000, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "glance"))
