# Sourced by the scripts that measure. Expects the binary in $nacre.

# Ends the daemon of NACRE_ROOT and waits for it.
stop_daemon() {
  local pid
  pid=$("$nacre" info --json | jq '.daemon.pid // empty')
  if [ -z "$pid" ]; then return; fi
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}
# Empties the caches of pages, names and inodes.
drop_caches() { sync; echo 3 > /proc/sys/vm/drop_caches; }
# The median of numbers, a line each; of an even number the lower one.
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
# seconds_since TIME: TIME is what `date +%s.%N` printed.
seconds_since() { echo "$(date +%s.%N) - $1" | bc; }
