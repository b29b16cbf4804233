#!/usr/bin/env bash
# The paper's PICS experiment on one data set. Run it again to go on; FLAGS are those of eval_PICS.py.
#
#     bash scripts/PICS.sh DATA CLIC2020            # DATA/CLIC2020/test, Stable Diffusion 2.1
#     bash scripts/PICS.sh DATA CLIC2021            # DATA/CLIC2021/test
#     bash scripts/PICS.sh DATA DIV2K               # DATA/DIV2K/val
#     bash scripts/PICS.sh DATA Kodak --preset tiny # DATA/Kodak, the bundled models
#
# The sketch's rate is the paper's, some .0151 bits per pixel in all: by the authors' codec for lambda 0.5, if
# models_ntc/ holds OneShot_Cheng2020AttentionFull_CLIC_HED_ms_ssim_lmbda0.5.pt (126 MB, Git LFS, in models_ntc/ of
# https://github.com/leieric/Text-Sketch); else by ours for lambda 0.09. Of its 32 rates that is the nearest: .0155
# with the sketches of hed-tiny and .0151 with those of Canny on 50 of BSDS500's test images, short side 512, with 44
# bytes of prompt and header. --lam_sketch names another rate; with --preset it is the preset's own.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash scripts/PICS.sh DATA CLIC2020|CLIC2021|DIV2K|Kodak [FLAGS]" >&2; exit 2; }
data=$(realpath -- "$1")
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
lam=0.09
for file in models_ntc/*Cheng2020AttentionFull_CLIC_HED_ms_ssim_lmbda0.5.pt; do
    [ ! -e "$file" ] || lam=$file
done
rate=(--lam_sketch "$lam")
for flag in "${@:3}"; do
    case $flag in --preset | --preset=*) rate=() ;; esac
done
"$python" eval_PICS.py --data_root "$data" --dataset "$2" --preset sd21 --N 4 --loss clip --metrics fast,lpips \
    ${rate[@]+"${rate[@]}"} "${@:3}"
