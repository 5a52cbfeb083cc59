#!/usr/bin/env bash
# Trains on this machine and goes on after an interruption.
#   launch/local.sh configs/demo.py runs/demo [--config.section.key=value ...]
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: launch/local.sh CONFIG WORKDIR [--config.section.key=value ...]" >&2
  exit 2
fi
config=$1
workdir=$2
shift 2
exec ccl-jax train --config "$config" --workdir "$workdir" "$@"
