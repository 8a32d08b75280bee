"""Keep Flower and Ray from phoning home; imported before anything of theirs."""

from __future__ import annotations

import logging
import os
import sys

from labelleak.errors import from_extra

# Flower reads the first one once, when it is imported; what the user has set stays.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Where Flower keeps what it read; there only if it was imported before this module.
_telemetry = sys.modules.get("flwr.supercore.telemetry")
if (
    "1"
    == getattr(_telemetry, "FLWR_TELEMETRY_ENABLED", "0")
    != os.environ.get("FLWR_TELEMETRY_ENABLED")
):
    logging.getLogger("labelleak.flower").warning(
        "flwr was imported before labelleak.flower, so Flower's telemetry is on in this process; "
        "import labelleak.flower first, or set FLWR_TELEMETRY_ENABLED=0 outside"
    )

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

with from_extra("Flower is not installed; install labelleak[flower]"):
    import flwr  # noqa: F401
