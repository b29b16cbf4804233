#!/usr/bin/env bash
# Install, and fuzz everything that reading a file does before the drawing. Flags: tests/fuzz/harness.py --help.
#
#     bash scripts/fuzz.sh --seconds 120
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements-train.txt requirements-demo.txt requirements-fuzz.txt
OMP_NUM_THREADS=1 .venv/bin/python tests/fuzz/harness.py "$@"
