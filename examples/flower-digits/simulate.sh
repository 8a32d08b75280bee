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
for _ in 1 2 3; do # Flower gives its SuperLink 15 seconds to start, few on a busy machine
  flwr run . --stream --federation-config "num-supernodes=$clients" \
    --run-config "num-clients=$clients audit-folder='$folder' ${2:-}" 2>&1 | tee "$home/run.log" &&
    exit
  grep -q "Failed to start local SuperLink within" "$home/run.log" || break
done
tail -n 30 "$home"/local-superlink/*.log
exit 1
