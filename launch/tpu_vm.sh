#!/usr/bin/env bash
# Trains on Cloud TPU VMs: asks for them in the queue, waits, installs, runs on all workers, and asks for new ones and
# goes on after a preemption. Leave it running, e.g. in tmux; started again, it takes up the VMs that are there.
#   NAME=demo PROJECT=p ZONE=us-west4-a ACCELERATOR_TYPE=v5litepod-16 RUNTIME_VERSION=v2-alpha-tpuv5-lite SPOT=1 \
#     SETUP='sudo mkdir -p /runs && sudo mount -o rw 10.0.0.2:/runs /runs' \
#     launch/tpu_vm.sh [--dry_run] configs/demo.py /runs/demo [--config.section.key=value ...]
# SETUP runs on every worker first: the workdir must be on a file system that all workers share (Filestore), unless the
# slice has one host. SLICES=N asks for N slices; train with --config.mesh.replica=N. RESTARTS limits the starts after
# failures (20). --dry_run prints the commands. The VMs are deleted when training has ended, and kept after an error.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=1
  shift
fi
for name in NAME PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION; do
  if [ -z "${!name:-}" ]; then
    echo "launch/tpu_vm.sh: $name is not set; the head of the script shows a call" >&2
    exit 2
  fi
done
if [ $# -lt 2 ]; then
  echo 'usage: launch/tpu_vm.sh [--dry_run] CONFIG WORKDIR [--config.section.key=value ...]' >&2
  exit 2
fi
slices=${SLICES:-1}
poll=${POLL_SECONDS:-30}
root=$(cd "$(dirname "$0")/.." && pwd)
where=(--project="$PROJECT" --zone="$ZONE")
if [ "$slices" -eq 1 ]; then
  nodes=("$NAME")
  ask=(--node-id="$NAME")
else
  # The queue numbers them from 0.
  nodes=()
  for ((slice = 0; slice < slices; slice++)); do nodes+=("$NAME-$slice"); done
  ask=(--node-count="$slices" --node-prefix="$NAME")
fi
if [ -n "${SPOT:-}" ]; then ask+=(--spot); fi

run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  echo >&2
  [ -n "$dry_run" ] || "$@"
}

# ACTIVE, SUSPENDED, ...; ABSENT where the queue does not have it. Another failure of gcloud ends the script.
state() {
  local found
  found=$(gcloud compute tpus queued-resources list "${where[@]}" --filter="name~/$NAME\$" --format='value(state.state)') || return
  echo "${found:-ABSENT}"
}

create() {
  run gcloud compute tpus queued-resources create "$NAME" "${where[@]}" "${ask[@]}" \
    --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION"
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

await_active() {
  if [ -n "$dry_run" ]; then
    create
    return
  fi
  local now
  while now=$(state); do
    case $now in
      ACTIVE) return ;;
      ABSENT) create ;;
      SUSPENDED | FAILED) delete ;;
    esac
    echo "queued resource $NAME: $now" >&2
    sleep "$poll"
  done
  return 1
}

# Runs a command on all workers of all slices at once; returns the exit code of one that failed.
on_workers() {
  local node pid pids=() code=0
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$1" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    wait "$pid" || code=$?
  done
  return "$code"
}

install() {
  local node
  # What a lost connection has left behind would keep its lock on the workdir.
  on_workers "pkill -KILL -x ccl-jax; ${SETUP:-true} && mkdir -p ccl_jax" || return
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm scp "${where[@]}" --worker=all --recurse \
      "$root/setup.py" "$root/README.md" "$root/ccl_jax" "$root/configs" "$node:ccl_jax" || return
  done
  on_workers "cd ccl_jax && python3 -m venv .venv && .venv/bin/pip install --quiet '.[tpu]'"
}

train=$(printf ' %q' ccl-jax train --config "$1" --workdir "$2" "${@:3}")
for ((start = 0; start <= ${RESTARTS:-20}; start++)); do
  await_active
  code=0
  # Workers of several slices join later than those of one.
  { install && on_workers "cd ccl_jax && PATH=\$PWD/.venv/bin:\$PATH CCL_JAX_JOIN_TIMEOUT=600$train"; } || code=$?
  case $code in
    0)
      delete
      exit 0
      ;;
    # A mistake in the config or the data, which no restart mends.
    2) exit 2 ;;
  esac
  echo "training ended with $code; it goes on when $NAME is active" >&2
  sleep "$poll"
done
echo "launch/tpu_vm.sh: gave up after ${RESTARTS:-20} restarts" >&2
exit 1
