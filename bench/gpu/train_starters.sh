#!/usr/bin/env bash
# Train the starter models on a CUDA device, each for MINUTES, and print their scores.
#
#   bench/gpu/train_starters.sh PICTURES MINUTES [OUT]
#
# PICTURES has one folder of high-resolution pictures per source, each with their licence in a file
# LICENCE; running this confirms that you may train on them. Bundles and scores.jsonl are written to OUT
# (default build/starters). Set TEST to a folder of high-resolution pictures to evaluate on.
set -euo pipefail
cd "$(dirname "$0")/../.."
pictures=${1:?give the folder of training folders} minutes=${2:?give the minutes for each model}
out=$(realpath -m "${3:-build/starters}")
export SHARPLINE_STATE="$out/state"
python=${PYTHON:-.venv/bin/python}
sharpline() { "$python" -c 'from sharpline.cli import main; main()' "$@"; }
field() { "$python" -c "import json, sys; print(json.loads(sys.stdin.read().splitlines()[-1])['$1'])"; }

also=()
for folder in "$pictures"/*/; do
    sharpline data add "$folder" --i-own-the-rights --licence "$(<"$folder/LICENCE")"
    also+=(--also "$(basename "$folder")")
done
for recipe in compact_x4 compact_x2 esrgan_small_x4 swinir_light_x4 srcnn_x4 vdsr_x4; do
    dataset=$(sharpline data build sample "${also[@]}" --scale "${recipe##*_x}" --degrade bicubic --json | field path)
    bundle=$(sharpline train "$recipe" --data "$dataset" --minutes "$minutes" --out "$out/runs" --json | field bundle)
    mkdir -p "$out/models" && cp -r "$bundle" "$out/models/"
    if [ -n "${TEST:-}" ]; then
        sharpline evaluate "$bundle" --on "$TEST" --channel y --json | tee -a "$out/scores.jsonl"
    fi
done
