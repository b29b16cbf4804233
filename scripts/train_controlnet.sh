#!/usr/bin/env bash
# Train a ControlNet on decoded sketches of your photographs; run it again to go on.
#
#     bash scripts/train_controlnet.sh PHOTOGRAPHS OUTPUT [FLAGS]
#
# FLAGS are those of train_controlnet.py. The settings are those of the branch of the paper's repository that
# fine-tunes: learning rate 1e-5, batches of 4 to 32, short side 512 (docs/control_training.md). PYTHON names the
# interpreter (default: .venv's, with what training needs installed); PROCESSES the number of GPUs (default: 1).
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash scripts/train_controlnet.sh PHOTOGRAPHS OUTPUT [FLAGS]" >&2; exit 2; }
images=$(realpath -- "$1") output=$(realpath -m -- "$2")
cd "$(dirname "$0")/.."
[ -n "${PYTHON-}" ] || bash scripts/install.sh requirements-train.txt
python=${PYTHON:-.venv/bin/python}
launch=()
[ "${PROCESSES:-1}" = 1 ] || launch=(-m torch.distributed.run --nproc_per_node "$PROCESSES")
"$python" "${launch[@]}" train_controlnet.py --preset sd21 --data_root "$images" --output "$output" \
    --learning_rate 1e-5 --batch_size 32 --micro_batch 4 --readers 4 --gradient_checkpointing \
    "${@:3}"
