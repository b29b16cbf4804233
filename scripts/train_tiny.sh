#!/usr/bin/env bash
# Train every bundled model from photographs: edges, sketch codec, tokenizer and CLIP, text, decoder, UNet and ControlNet.
#
#     bash scripts/train_tiny.sh DATA
#
# DATA holds photographs (pictures or tar shards, with photos.jsonl where labels are known), bsds500/ and
# captions.txt.gz, as docs in tiny/README.md say. Every step resumes; seconds of each can be set by environment
# variables. Results go to annotator/, models_ntc/ and tiny/bundle/; working files to runs/tiny/.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bash scripts/train_tiny.sh DATA" >&2; exit 2; }
data=$(realpath -- "$1")
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

"$python" -m tiny.train_edges --data "$data/bsds500" --seconds "${EDGES:-840}"
[ -e runs/tiny/photos/index.json ] || "$python" -m tiny.data --source "$data"
"$python" -m tiny.train_clip --captions "$data/captions.txt.gz" --seconds "${CLIP:-1460}"
"$python" -m tiny.train_text --captions "$data/captions.txt.gz"
"$python" -m tiny.conditions sketches
"$python" -m tiny.conditions export --sketches runs/tiny/sketches
"$python" train_compressai.py -d runs/tiny/sketches --lambda_range 0.02 1 --dist_metric ms-ssim \
    -e 1000 --max_seconds "${SKETCH:-7200}" --out runs/tiny/sketch
cp runs/tiny/sketch/sketch_lmbda0.02-1.0.safetensors models_ntc/sketch.safetensors
"$python" -m tiny.conditions decoded
"$python" -m tiny.conditions prompts --steps 60
"$python" -m tiny.train_decoder --seconds "${DECODER:-2700}"
"$python" -m tiny.train_generator --seconds "${GENERATOR:-5300}"
