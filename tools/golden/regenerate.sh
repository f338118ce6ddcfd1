#!/bin/sh
# Makes every golden preset anew (seed 1) under DATA and packs it into tests/golden.
#   regenerate.sh DATA          PYTHON needs torch, transformers, safetensors, numpy
set -e
data=$1
here=$(cd "$(dirname "$0")" && pwd)
for preset in v2_lite v2 v3 v3_fp8 moonlight kimi tied; do
  rm -rf "$data/$preset"
  mkdir -p "$data/$preset"
  "${PYTHON:-python3}" "$here/make_checkpoint.py" "$preset" --seed 1 --out "$data/$preset/checkpoint"
  "${PYTHON:-python3}" "$here/make_golden.py" "$data/$preset/checkpoint" --out "$data/$preset/golden"
done
"$here/pack.sh" "$data" "$here/../../tests/golden"
