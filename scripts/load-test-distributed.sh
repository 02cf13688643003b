#!/usr/bin/env bash
# One orchestrator and several workers as real processes: simulated tasks without a wait and a real job go through them
# at the same time; the counts of all workers must add up to those of the orchestrator.
# Usage: scripts/load-test-distributed.sh [--workers 5] [--epochs 100] [--slots 8]
set -euo pipefail
workers=5 epochs=100 slots=8
while [ $# -gt 0 ]; do
  case "$1" in
    --workers | --epochs | --slots)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "$1: \"${2:-}\" is not allowed; allowed: a whole number from 1" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    *)
      echo "unknown argument $1; allowed: --workers N, --epochs N, --slots N" >&2
      exit 2
      ;;
  esac
done
source "$(dirname "$0")/lib.sh"

start_orchestrator
https=() worker_pids=()
for n in $(seq "$workers"); do
  start_worker "worker-$n" MAX_CONCURRENT_TASKS="$slots" ANALYTIC_EPOCH_DELAY=0
  https+=("$worker_http")
  worker_pids+=("$worker_pid")
done

began=$(date +%s.%N)
submit "$work/simulated.json" --dataset builtin:digits --epochs "$epochs" --set backend=analytic &
simulated=$!
submit "$work/real.json" --dataset builtin:digits --epochs 3 --set backend=cpu
wait "$simulated" || fail "the simulated job did not complete: $(cat "$work/simulated.json")"
took=$(awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')

expected=$((epochs * 10 + 30)) total=0 taking_part=0
for http in "${https[@]}"; do
  await_metric "$http" worker_outbox_pending 0
  await_metric "$http" worker_tasks_failed_total 0
  completed=$(metric "$http" worker_tasks_completed_total)
  total=$((total + completed))
  [ "$completed" = 0 ] || taking_part=$((taking_part + 1))
  echo "worker on $http: $completed tasks"
done
[ "$total" = "$expected" ] || fail "the workers count $total tasks, $expected were expected"
[ "$taking_part" = "$workers" ] || fail "only $taking_part of $workers workers took part"
for pid in "${worker_pids[@]}"; do kill -TERM "$pid"; done
for pid in "${worker_pids[@]}"; do wait "$pid" || fail "a worker did not end well after SIGTERM"; done
echo "$total of $expected tasks in $took s by $workers workers, each counted once"
