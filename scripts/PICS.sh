#!/usr/bin/env bash
# The paper's PICS experiment on one data set.
#
#     bash scripts/PICS.sh DATA CLIC2021            # DATA/CLIC2021/test, Stable Diffusion 2.1
#     bash scripts/PICS.sh DATA Kodak --preset tiny
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { echo "usage: bash scripts/PICS.sh DATA CLIC2020|CLIC2021|DIV2K|Kodak [FLAGS]" >&2; exit 2; }
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
"$python" eval_PICS.py --data_root "$1" --dataset "$2" --preset sd21 --N 4 --loss clip --lam_sketch 1.0 "${@:3}"
