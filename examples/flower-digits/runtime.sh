# What both scripts share: quiet variables, a home of our own, a free port, and a clean end.
folder=$(realpath -m "${1:?usage: $0 AUDIT_FOLDER [more --run-config settings]}")
home=$(mktemp -d -p /tmp) # short, since Ray keeps its sockets in it
export FLWR_HOME=$home FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 OMP_NUM_THREADS=1
export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
export RAY_ADDRESS=local RAY_TMPDIR=$home # a Ray of our own, whatever else runs here

free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

ours() { # processes that were started with our home, however far from this shell
  for environment in /proc/[0-9]*/environ; do
    if grep -qsaFz "FLWR_HOME=$home" "$environment"; then
      pid=${environment#/proc/}
      pid=${pid%/environ}
      [ "$pid" = $$ ] || [ "$pid" = "$BASHPID" ] || echo "$pid"
    fi
  done
}

end() {
  local pids
  for signal in TERM TERM KILL; do
    mapfile -t pids < <(ours)
    [ ${#pids[@]} -eq 0 ] && break
    kill -s "$signal" "${pids[@]}" 2> /dev/null || true
    for _ in $(seq 50); do
      [ -z "$(ours)" ] && break
      sleep 0.1
    done
  done
  rm -rf "$home" || true # somebody may still write there; the run is what counts
}
trap end EXIT
