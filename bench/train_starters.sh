#!/usr/bin/env bash
# Train the starter models one after another and print their scores.
#
#   bench/train_starters.sh PICTURES OUT [MINUTES]
#
# PICTURES has one folder of high-resolution pictures per source, each with their licence in a file
# LICENCE; running this confirms that you may train on them. Each model trains its recipe's full stage,
# or for MINUTES. Ended and started again with the same OUT, it resumes the model that was in training,
# without MINUTES bit-identically on the same CPU. OUT/models has the bundles, OUT/scores their scores on
# TEST, if that is set to a folder of high-resolution pictures. RECIPES trains others, and
# SHARPLINE_THREADS is the number of cores.
set -euo pipefail
pictures=$(realpath "${1:?give the folder of training folders}")
out=$(realpath -m "${2:?give the output folder}") minutes=${3:-}
cd "$(dirname "$0")/.."
recipes=${RECIPES:-span_fast_x4 span_x4 span_real_x4 esrgan_small_x4 swinir_light_x4 span_x2 compact_x4 srcnn_x4}
export SHARPLINE_STATE="$out/state"
python=${PYTHON:-.venv/bin/python}
sharpline() { "$python" -c 'from sharpline.cli import main; main()' "$@"; }
field() { "$python" -c "import json, sys; print(json.loads(sys.stdin.read().splitlines()[-1])['$1'])"; }

also=()
for folder in "$pictures"/*/; do
    name=$(basename "$folder")
    licence=$(<"$folder/LICENCE")
    [ -d "$SHARPLINE_STATE/sources/$name" ] ||
        sharpline data add "$folder" --i-own-the-rights --licence "$licence"
    also+=(--also "$name")
done
train() {
    local recipe=$1 scale=${1##*_x} dataset bundle options
    [[ $scale =~ ^[0-9]$ ]] || scale=1
    dataset=$(sharpline data build sample "${also[@]}" --scale "$scale" --degrade bicubic --json | field path)
    options=(--data "$dataset" --out "$out/runs" --resume --json)
    [ -z "$minutes" ] || options+=(--minutes "$minutes")
    case $recipe in
        span_real_x4) options+=(--init "$out/models/span_x4") ;;
        compact_real_x4) options+=(--init "$out/models/compact_x4") ;;
    esac
    bundle=$(sharpline train "$recipe" "${options[@]}" | field bundle)
    rm -rf "$out/models/.$recipe"
    cp -r "$bundle" "$out/models/.$recipe"
    mv "$out/models/.$recipe" "$out/models/$recipe"
}

mkdir -p "$out/models" "$out/scores"
for recipe in $recipes; do
    [ -d "$out/models/$recipe" ] || train "$recipe"
    score=$out/scores/$recipe.json
    if [ -n "${TEST:-}" ] && [ ! -s "$score" ]; then
        sharpline evaluate "$out/models/$recipe" --on "$TEST" --channel y --json > "$score.part"
        mv "$score.part" "$score"
    fi
    [ ! -s "$score" ] || cat "$score"
done
