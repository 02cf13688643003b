# Sourced by the scripts that start real processes: builds the program, starts and stops it, asks it.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
pids=()

# Ends all processes that were started, and keeps the logs only when something failed.
finish() {
  local status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ "$status" = 0 ]; then
    rm -rf "$work"
  else
    for log in "$work"/*.log; do
      echo "--- last lines of $log" >&2
      tail -n 20 "$log" >&2
    done
    echo "failed; all logs are in $work" >&2
  fi
  exit "$status"
}
trap finish EXIT

fail() {
  echo "error: $*" >&2
  exit 1
}

# The program: TENSORFLEET_WORKER, or a fresh build of this checkout.
program=${TENSORFLEET_WORKER:-}
if [ -z "$program" ]; then
  cargo build --locked --quiet --manifest-path "$root/Cargo.toml" --bin tensorfleet-worker
  program=${CARGO_TARGET_DIR:-$root/target}/debug/tensorfleet-worker
fi
[ -x "$program" ] || fail "TENSORFLEET_WORKER: \"$program\" is not a program"

# Waits until a log has a line that matches, and prints it. `tail` ends as soon as grep has it.
await() { # log file, pattern
  timeout 60 grep -m1 -E -- "$2" <(timeout 60 tail -n +1 -F "$1" 2>/dev/null) ||
    fail "$1 has no line that matches '$2' after a minute"
}

# The value of a text field in a line of JSON.
field() { # name
  sed -E "s/.*\"$1\":\"([^\"]*)\".*/\1/"
}

orchestrators=0

start_orchestrator() { # further arguments; sets orchestrator
  # A log for each: in that of an earlier one, the address of a dead one may be read before it is emptied.
  orchestrators=$((orchestrators + 1))
  local log="$work/orchestrator-$orchestrators.log"
  LOG_FORMAT=json "$program" orchestrator --listen 127.0.0.1:0 "$@" >"$log" 2>&1 &
  pids+=("$!")
  orchestrator=$(await "$log" 'listens on ' | sed -E 's/.*listens on ([^ ]+).*/\1/')
}

start_worker() { # name, then NAME=VALUE settings; sets worker_http
  local name=$1 log="$work/$1.log"
  shift
  env ORCHESTRATOR_ADDRESS="$orchestrator" WORKER_ID="$name" WORKER_PORT=0 METRICS_PORT=0 \
    STATE_DIR="$work/$name" LOG_FORMAT=json LOG_LEVEL=info "$@" "$program" run >/dev/null 2>"$log" &
  pids+=("$!")
  worker_pid=$!
  worker_http=127.0.0.1:$(await "$log" '"message":"listening"' | field http | sed 's/.*://')
}

# The sum of all series of a metric at an address; 0 where there is none.
metric() { # host:port, name
  local text
  text=$(curl -fsS "http://$1/metrics") || fail "no metrics at $1"
  awk -v name="$2" '$1 == name || index($1, name "{") == 1 { sum += $2 } END { print sum + 0 }' <<<"$text"
}

# Waits until a metric has a value: some follow a moment after what they tell of.
await_metric() { # host:port, name, value
  local value
  for _ in $(seq 100); do
    value=$(metric "$1" "$2")
    [ "$value" = "$3" ] && return
    sleep 0.1
  done
  fail "$2 at $1 is $value, $3 was expected"
}

# Sends a job and waits for its end, at most five minutes.
submit() { # output file, further arguments
  local output=$1
  shift
  timeout 300 "$program" submit --orchestrator "$orchestrator" --model-type neural_network "$@" --wait --json >"$output" ||
    fail "the job did not complete: $(cat "$output")"
}
