#!/usr/bin/env bash
# Do other versions of Python and PyTorch decode the same conditions? Installs them beside the project's and runs the
# tests of agreement: recorded streams, sketches, colors, prompts, encoder and decoder.
#
#     bash scripts/versions.sh python3.10 torch==2.6.0 torchvision==0.21.0    # the oldest that requirements.txt allows
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: bash scripts/versions.sh PYTHON [REQUIREMENT ...]" >&2; exit 2; }
cd "$(dirname "$0")/.."
folder=runs/versions/$(echo "$*" | tr -c 'a-zA-Z0-9.\n' _)
[ -x "$folder/bin/python" ] || "$1" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}" -r requirements-dev.txt
OMP_NUM_THREADS=1 "$folder/bin/python" -m pytest -n auto tests/test_{golden,bitstream,text_codec,color_codec,sketch_agreement,codec,bundle}.py
