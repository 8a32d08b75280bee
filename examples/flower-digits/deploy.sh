#!/usr/bin/env bash
# Run the app on Flower's deployment runtime: a SuperLink and two SuperNodes on loopback.
# usage: ./deploy.sh AUDIT_FOLDER [more --run-config settings]
set -euo pipefail
cd "$(dirname "$0")"
folder=$(realpath -m "${1:?usage: ./deploy.sh AUDIT_FOLDER}")
port=${PORT:-18000}
home=$(mktemp -d)
export FLWR_HOME=$home FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 OMP_NUM_THREADS=1
printf '[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\naddress = "127.0.0.1:%s"\ninsecure = true\n' \
  "$port" > "$home/config.toml"
pids=()
end() {
  kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  rm -rf "$home"
}
trap end EXIT
flower-superlink --insecure --host 127.0.0.1 --port "$port" > "$home/superlink.log" 2>&1 &
pids+=($!)
for _ in $(seq 150); do
  (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  sleep 0.2
done
for node in 0 1; do
  flower-supernode --insecure --superlink "127.0.0.1:$port" --host 127.0.0.1 \
    --port $((port + 1094 + node)) --node-config "partition-id=$node num-partitions=2" \
    > "$home/supernode$node.log" 2>&1 &
  pids+=($!)
done
flwr run . loopback --stream --run-config "num-clients=2 audit-folder='$folder' ${2:-}" || {
  tail -n 30 "$home"/*.log
  exit 1
}
