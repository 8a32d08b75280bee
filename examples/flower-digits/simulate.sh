#!/usr/bin/env bash
# Run the app in Flower's simulation (Ray) by `flwr run`, and end the SuperLink that it leaves.
# usage: ./simulate.sh AUDIT_FOLDER [more --run-config settings]
set -euo pipefail
cd "$(dirname "$0")"
folder=$(realpath -m "${1:?usage: ./simulate.sh AUDIT_FOLDER}")
home=$(mktemp -d)
export FLWR_HOME=$home FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 OMP_NUM_THREADS=1
export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
export FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=${PORT:-39091}
end() {
  # `flwr run` starts a SuperLink of its own, apart from this shell; it is known by our home.
  for environment in /proc/[0-9]*/environ; do
    if grep -qsa "FLWR_HOME=$home" "$environment"; then
      pid=${environment#/proc/}
      pid=${pid%/environ}
      [ "$pid" = $$ ] || kill "$pid" 2>/dev/null || true
    fi
  done
  rm -rf "$home" 2>/dev/null || true
}
trap end EXIT
flwr run . --stream --federation-config "num-supernodes=${CLIENTS:-4}" \
  --run-config "audit-folder='$folder' ${2:-}" || {
  tail -n 30 "$home"/local-superlink/*.log
  exit 1
}
