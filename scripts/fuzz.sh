#!/usr/bin/env bash
# Install, and fuzz what reads files of strangers. Flags are those of tests/fuzz/harness.py.
#
#     bash scripts/fuzz.sh --seconds 60
#
# Streams: guided by coverage, for so many seconds. Then damaged pictures, run folders, presets and
# model folders, codec files and checkpoints: about a minute. SEED repeats a run of these.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements-train.txt requirements-demo.txt requirements-fuzz.txt
export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
.venv/bin/python tests/fuzz/harness.py "$@"
seed=${SEED:-$RANDOM}
echo "seed of the damaged files: $seed" >&2
.venv/bin/python tests/long/pictures.py --mutants 20000 --seed "$seed"
.venv/bin/python tests/long/run_folders.py --mutants 2000 --seed "$seed"
.venv/bin/python tests/long/presets.py --mutants 200 --seed "$seed"
.venv/bin/python tests/long/codec_files.py --mutants 400 --seed "$seed"
