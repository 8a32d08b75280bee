#!/usr/bin/env bash
# Run the app in Flower's simulation (Ray) by `flwr run`, and end the SuperLink that it leaves.
# usage: [CLIENTS=4] ./simulate.sh AUDIT_FOLDER [more --run-config settings]
set -euo pipefail
cd "$(dirname "$0")"
. ./runtime.sh
clients=${CLIENTS:-4}
FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=${PORT:-$(free_port)}
FLWR_LOCAL_RUNTIME_API_PORT=$(free_port) FLWR_LOCAL_CONTROL_API_PORT=$(free_port) # flwr 1.36
export FLWR_LOCAL_SUPERLINK_HTTP_API_PORT FLWR_LOCAL_RUNTIME_API_PORT FLWR_LOCAL_CONTROL_API_PORT
flwr run . --stream --federation-config "num-supernodes=$clients" \
  --run-config "num-clients=$clients audit-folder='$folder' ${2:-}" || {
  tail -n 30 "$home"/local-superlink/*.log
  exit 1
}
