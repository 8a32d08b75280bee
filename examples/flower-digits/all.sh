#!/usr/bin/env bash
# Run the app in every way that the README tells of, in both runtimes, and print its table.
# usage: ./all.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")"
folder=$(realpath -m "${1:?usage: ./all.sh FOLDER}")
local_dp="local-dp-epsilon=1.0" secagg="secure-aggregation=true"
mkdir -p "$folder"
run() { # script, name, settings
  echo "$1 $2"
  "./$1.sh" "$folder/$1/$2" "$3" > "$folder/$1-$2.log" 2>&1
}
for script in simulate deploy; do
  run $script plain ""
  run $script few-classes "classes-per-client=3"
  run $script server-clipping "server-clipping=true"
  run $script local-dp "$local_dp"
  CLIENTS=3 run $script secagg "$secagg"
  CLIENTS=3 run $script secagg-local-dp "$secagg $local_dp"
done
python table.py "$folder"
