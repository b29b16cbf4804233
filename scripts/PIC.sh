#!/usr/bin/env bash
# The paper's PIC experiment on one data set. Run it again to go on; FLAGS are those of eval_PIC.py.
#
#     bash scripts/PIC.sh DATA CLIC2020             # DATA/CLIC2020/test, Stable Diffusion 2.1
#     bash scripts/PIC.sh DATA CLIC2021             # DATA/CLIC2021/test
#     bash scripts/PIC.sh DATA DIV2K                # DATA/DIV2K/val
#     bash scripts/PIC.sh DATA Kodak --preset tiny  # DATA/Kodak, the bundled models
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash scripts/PIC.sh DATA CLIC2020|CLIC2021|DIV2K|Kodak [FLAGS]" >&2; exit 2; }
data=$(realpath -- "$1")
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
"$python" eval_PIC.py --data_root "$data" --dataset "$2" --preset sd21 --N 4 --loss clip --metrics fast,lpips \
    "${@:3}"
