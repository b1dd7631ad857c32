#!/usr/bin/env bash
# Train the starter models on a CUDA device, each for MINUTES: see bench/train_starters.sh.
#
#   bench/gpu/train_starters.sh PICTURES MINUTES [OUT]
#
# OUT is build/starters in the repository unless given.
set -euo pipefail
minutes=${2:?give the minutes for each model}
exec "$(dirname "$0")/../train_starters.sh" "${1:?give the folder of training folders}" "${3:-$(dirname "$0")/../../build/starters}" "$minutes"
