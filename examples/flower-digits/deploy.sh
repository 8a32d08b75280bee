#!/usr/bin/env bash
# Run the app on Flower's deployment runtime: a SuperLink and some SuperNodes on loopback.
# usage: [CLIENTS=2] ./deploy.sh AUDIT_FOLDER [more --run-config settings]
set -euo pipefail
cd "$(dirname "$0")"
. ./runtime.sh
clients=${CLIENTS:-2}
port=${PORT:-$(free_port)}
printf '[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\naddress = "127.0.0.1:%s"\ninsecure = true\n' \
  "$port" > "$home/config.toml"
flower-superlink --insecure --host 127.0.0.1 --port "$port" > "$home/superlink.log" 2>&1 &
for _ in $(seq 150); do
  (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
  sleep 0.2
done
for ((node = 0; node < clients; node++)); do
  flower-supernode --insecure --superlink "127.0.0.1:$port" --host 127.0.0.1 \
    --port "$(free_port)" --node-config "partition-id=$node num-partitions=$clients" \
    > "$home/supernode$node.log" 2>&1 &
done
flwr run . loopback --stream --run-config "num-clients=$clients audit-folder='$folder' ${2:-}" || {
  tail -n 30 "$home"/*.log
  exit 1
}
