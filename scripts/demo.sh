#!/usr/bin/env bash
# From a bare machine to images from a few hundred bytes: install, run PICS, say where the page is.
#
#     bash scripts/demo.sh                      # sample images
#     bash scripts/demo.sh --data_root PHOTOS   # yours
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh requirements-demo.txt
.venv/bin/python eval_PICS.py "$@"
echo "Look at $(ls -td recon_examples/PICS_*/index.html | head -1): originals, sketches sent, reconstructions." >&2
