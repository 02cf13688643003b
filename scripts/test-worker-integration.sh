#!/usr/bin/env bash
# One orchestrator and one worker as real processes, with both contracts: runs a job through them and checks the counts.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

for contract in extended base; do
  pids=()
  if [ "$contract" = base ]; then start_orchestrator --base; else start_orchestrator; fi
  start_worker "worker-$contract"
  [ "$(curl -fsS -o /dev/null -w '%{http_code}' "http://$worker_http/livez")" = 200 ] || fail "the worker does not live"

  submit "$work/job.json" --dataset builtin:iris --epochs 5 --set backend=cpu --set hidden_layers=16
  grep -q '"status":"COMPLETED"' "$work/job.json" || fail "the job did not complete: $(cat "$work/job.json")"
  grep -q '"completed_tasks":50' "$work/job.json" || fail "50 tasks were expected: $(cat "$work/job.json")"

  await_metric "$worker_http" worker_tasks_completed_total 50
  await_metric "$worker_http" worker_outbox_pending 0
  await_metric "$worker_http" worker_tasks_failed_total 0
  await_metric "$worker_http" worker_orchestrator_up 1

  kill -TERM "$worker_pid"
  wait "$worker_pid" || fail "the worker did not end well after SIGTERM"
  kill -TERM "${pids[0]}"
  wait "${pids[0]}" || fail "the orchestrator did not end well after SIGTERM"
  echo "$contract contract: 50 of 50 tasks, each counted once; the worker drained and ended with 0"
done
