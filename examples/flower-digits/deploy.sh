#!/usr/bin/env bash
# Run the app on Flower's deployment runtime: a SuperLink and some SuperNodes on loopback.
# usage: [CLIENTS=2] ./deploy.sh AUDIT_FOLDER [more --run-config settings]
set -euo pipefail
cd "$(dirname "$0")"
. ./runtime.sh
clients=${CLIENTS:-2}
version=$(python -c 'from importlib.metadata import version; print(version("flwr"))')
for _ in 1 2 3; do # a port may be taken between its choice and its use
  port=${PORT:-$(free_port)} fleet=$(free_port) control=$(free_port)
  # Flower moved to one HTTP port bit by bit; the gRPC ports, which would otherwise be open to the
  # world, serve what is older: `flwr run` on 1.36, the SuperNodes up to 1.39.
  case $version in
    1.36.*) nodes_at=$fleet run_at=$control ;;
    1.3[789].*) nodes_at=$fleet run_at=$port ;;
    *) nodes_at=$port run_at=$port ;;
  esac
  flower-superlink --insecure --host 127.0.0.1 --port "$port" \
    --fleet-api-address "127.0.0.1:$fleet" --control-api-address "127.0.0.1:$control" \
    >> "$home/superlink.log" 2>&1 &
  superlink=$!
  for _ in $(seq 300); do
    kill -0 $superlink 2> /dev/null || break # it has given up
    (exec 3<> "/dev/tcp/127.0.0.1/$run_at") 2> /dev/null && break 2
    sleep 0.2
  done
  kill $superlink 2> /dev/null || true
done
printf '[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\naddress = "127.0.0.1:%s"\ninsecure = true\n' \
  "$run_at" > "$home/config.toml"
for ((node = 0; node < clients; node++)); do
  flower-supernode --insecure --superlink "127.0.0.1:$nodes_at" --host 127.0.0.1 \
    --port "$(free_port)" --node-config "partition-id=$node num-partitions=$clients" \
    > "$home/supernode$node.log" 2>&1 &
done
flwr run . loopback --stream --run-config "num-clients=$clients audit-folder='$folder' ${2:-}" || {
  tail -n 30 "$home"/*.log
  exit 1
}
