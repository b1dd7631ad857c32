#!/usr/bin/env bash
# Train the starter models on a CUDA device, each for MINUTES: see bench/train_starters.sh.
#
#   bench/gpu/train_starters.sh PICTURES MINUTES [OUT]
set -euo pipefail
minutes=${2:?give the minutes for each model}
exec "$(dirname "$0")/../train_starters.sh" "${1:?give the folder of training folders}" "${3:-build/starters}" "$minutes"
