# Sourced by the scripts that measure: ends the daemon of NACRE_ROOT and waits for it.
# Expects the binary in $nacre.
stop_daemon() {
  local pid
  pid=$("$nacre" info --json | jq '.daemon.pid // empty')
  if [ -z "$pid" ]; then return; fi
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}
