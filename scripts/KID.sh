#!/usr/bin/env bash
# KID of PIC and PICS on one data set: against the originals' patches (HiFiC) and a reference folder (the paper).
#
#     bash scripts/KID.sh DATA CLIC2021 DATA/CLIC2021/train            # runs that are there are measured, not done again
#     bash scripts/KID.sh DATA Kodak DATA/CLIC2020/train --preset tiny
#
# REFERENCE: pictures, brought to the coded size as the paper's training set was. FLAGS as in the runs themselves.
# kid_folder takes the paper's subset sizes: 100 images for CLIC2020, 10 for Kodak, else 50 (--kid_subset_size N).
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash scripts/KID.sh DATA CLIC2020|CLIC2021|DIV2K|Kodak REFERENCE [FLAGS]" >&2; exit 2; }
here=$(dirname "$0") reference=$(realpath -- "$3") status=0
for method in PIC PICS; do
    bash "$here/$method.sh" "$1" "$2" "${@:4}" --metrics fast,lpips,kid_patches,kid_folder --reference "$reference" || status=$?
done
exit $status
