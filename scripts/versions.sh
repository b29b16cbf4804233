#!/usr/bin/env bash
# Do other versions of Python and of the packages decode the same conditions, and are strangers' models still safe to
# load? Installs them beside the project's and runs the tests of agreement (recorded streams, sketches, colors, prompts,
# encoder and decoder) and those of weights and model folders.
#
#     bash scripts/versions.sh python3.10 lowest         # the lowest that requirements.txt allows of what reads models
#     bash scripts/versions.sh python3.13 torch==2.15.0 torchvision==0.30.0
#
# From Python 3.13 on CompressAI cannot be installed: there the tests that do without it run.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: bash scripts/versions.sh PYTHON [lowest | REQUIREMENT ...]" >&2; exit 2; }
cd "$(dirname "$0")/.."
folder=runs/versions/$(echo "$*" | tr -c 'a-zA-Z0-9.\n' _)
wanted=("${@:2}")
if [ "${2-}" = lowest ]; then
    readers='torch|torchvision|diffusers|transformers|accelerate|safetensors'
    wanted=($(sed -nE "s/^($readers)>=([0-9.]+).*/\1==\2/p" requirements.txt))
fi
[ -x "$folder/bin/python" ] || "$1" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${wanted[@]}" \
    -r requirements.txt -r requirements-train.txt -r requirements-demo.txt -r requirements-dev.txt
names="golden imports bitstream text_codec color_codec bundle model_folders presets"
if "$folder/bin/python" -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('compressai'))"; then
    names="$names sketch_agreement codec clones safe_weights"
fi
tests=()
for name in $names; do
    tests+=("tests/test_$name.py")
done
OMP_NUM_THREADS=1 "$folder/bin/python" -m pytest -n auto "${tests[@]}"
