#!/usr/bin/env bash
# FID of PIC and PICS on one data set: against the originals' patches (HiFiC) and a reference folder (the paper).
#
#     bash scripts/FID.sh DATA CLIC2021 DATA/CLIC2021/train            # runs that are there are measured, not done again
#     bash scripts/FID.sh DATA Kodak DATA/CLIC2020/train --preset tiny
#
# REFERENCE: pictures, brought to the coded size as the paper's training set was. FLAGS as in the runs themselves.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash scripts/FID.sh DATA CLIC2020|CLIC2021|DIV2K|Kodak REFERENCE [FLAGS]" >&2; exit 2; }
here=$(dirname "$0") reference=$(realpath -- "$3") status=0
for method in PIC PICS; do
    bash "$here/$method.sh" "$1" "$2" "${@:4}" --metrics fast,lpips,fid_patches,fid_folder --reference "$reference" || status=$?
done
exit $status
