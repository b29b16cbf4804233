#!/usr/bin/env bash
# Install, lint, test. Arguments go to pytest: `bash scripts/test.sh -m slow` runs the slow tests.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements-train.txt requirements-demo.txt requirements-notebook.txt requirements-dev.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto "$@"  # a process for each core, each with one thread
