"""Keep Flower and Ray from phoning home; imported before anything of theirs."""

from __future__ import annotations

import os
from importlib.util import find_spec

from labelleak.errors import MissingExtra

# Flower reads the first one once, when it is imported; what the user has set stays.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

if find_spec("flwr") is None:
    raise MissingExtra("Flower is not installed; install labelleak[flower]")
