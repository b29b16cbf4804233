#!/usr/bin/env bash
# From a bare machine to photographs drawn from a few hundred bytes: install, run PICS, say where to look.
#
#     bash scripts/demo.sh                      # sample photographs
#     bash scripts/demo.sh --data_root PHOTOS   # yours
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements-demo.txt
.venv/bin/python eval_PICS.py "$@"
echo "Look at $(ls -td recon_examples/PICS_*/index.html | head -1): photographs, sketches sent, drawn from the files." >&2
