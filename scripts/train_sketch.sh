#!/usr/bin/env bash
# Train a sketch codec from a folder of images; run it again to go on from its checkpoint.
#
#     bash scripts/train_sketch.sh PHOTOGRAPHS [LAMBDA [EPOCHS]]
#
# PYTHON names the interpreter (default: .venv's, with what training needs installed); OUT the folder of the results.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: bash scripts/train_sketch.sh PHOTOGRAPHS [LAMBDA [EPOCHS]]" >&2; exit 2; }
images=$(realpath -- "$1") lambda=${2:-1.0} epochs=${3:-50}
cd "$(dirname "$0")/.."
[ -n "${PYTHON-}" ] || bash scripts/install.sh requirements-train.txt
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/sketch_lmbda$lambda} sketches=${OUT:-runs}/sketches_$(basename -- "$images")

"$python" generate_sketches.py --data_root "$images" --out "$sketches" --sketch_type "${SKETCH_TYPE:-hed-tiny}"
resume=()
[ ! -f "$out/checkpoint.pth.tar" ] || resume=(--checkpoint "$out/checkpoint.pth.tar")
"$python" train_compressai.py -d "$sketches" -e "$epochs" --lambda "$lambda" --dist_metric ms-ssim \
    --out "$out" "${resume[@]}"
