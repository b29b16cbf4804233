#!/usr/bin/env bash
# Train the bundled models from images, or a bundle of your own.
#
#     bash scripts/train_tiny.sh DATA             # all models; replaces those of this repository
#     bash scripts/train_tiny.sh DATA BUNDLE      # a folder for --preset BUNDLE
#
# DATA holds images (files or tar shards, with photos.jsonl if labels are known), bsds500/ and
# captions.txt.gz, see tiny/README.md. Every step can be resumed. Environment variables set the
# seconds of each step: EDGES, SKETCH, BASE, SKETCH2, CLIP, DECODER, GENERATOR, REFINER. Working files are in runs/tiny/. A
# GPU is used if there is one. BUNDLE gets CLIP, decoder, UNet and ControlNet; the edge network, the
# sketch codec, the color tables and the language model stay as they are, because files depend on
# them.
set -euo pipefail
[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: bash scripts/train_tiny.sh DATA [BUNDLE]" >&2; exit 2; }
data=$(realpath -- "$1") bundle=$(realpath -m -- "${2:-$(dirname "$0")/../tiny/bundle}")
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$bundle"

[ -e runs/tiny/photos/index.json ] || "$python" -m tiny.data --source "$data"
[ $# -eq 2 ] || "$python" -m tiny.train_edges --data "$data/bsds500" --seconds "${EDGES:-840}"
[ -e runs/tiny/conditions/sketch.bin ] || "$python" -m tiny.conditions sketches
if [ $# -eq 1 ]; then
    "$python" -m tiny.train_text --captions "$data/captions.txt.gz"
    "$python" -m tiny.conditions export --sketches runs/tiny/sketches
    "$python" train_compressai.py -d runs/tiny/sketches --lambda_range 0.02 1 --dist_metric ms-ssim \
        -e 1000 --max_seconds "${SKETCH:-7200}" --out runs/tiny/sketch
    cp runs/tiny/sketch/sketch_lmbda0.02-1.0.safetensors models_ntc/sketch.safetensors
    "$python" -m tiny.train_color
    "$python" -m tiny.train_layers base --seconds "${BASE:-15000}" --out models_ntc/base.safetensors
    "$python" -m tiny.train_layers sketch2 --sketches runs/tiny/sketches --seconds "${SKETCH2:-13700}" \
        --out models_ntc/sketch2.safetensors
fi
[ -e runs/tiny/conditions/decoded.bin ] || "$python" -m tiny.conditions decoded
[ -e runs/tiny/conditions/color.bin ] || "$python" -m tiny.conditions colors
"$python" -m tiny.train_clip --captions "$data/captions.txt.gz" --seconds "${CLIP:-1900}" --out "$bundle/clip"
mkdir -p runs/tiny/ranking && cp "$data"/bsds500/train/*.jpg runs/tiny/ranking/
"$python" -m prompt_inversion.useful_words --data_root runs/tiny/ranking --clip "$bundle/clip" --words runs/tiny/clip/words.txt
"$python" -m tiny.conditions prompts --clip "$bundle/clip" --steps 60
"$python" -m tiny.train_decoder --bundle "$bundle" --seconds "${DECODER:-9600}"
"$python" -m tiny.train_generator --bundle "$bundle" --seconds "${GENERATOR:-12000}"
if [ $# -eq 1 ]; then
    "$python" -m tiny.refiner_data
    "$python" -m tiny.train_refiner --seconds "${REFINER:-7200}"
fi
