#!/usr/bin/env bash
# Make .venv in the project's folder and install a requirements file into it.
#
#     bash scripts/install.sh requirements.txt
set -euo pipefail
cd "$(dirname "$0")/.."
requirements=${1:-requirements.txt}
[ -x .venv/bin/python ] || python3 -m venv .venv
stamp=.venv/$(basename "$requirements").done
if [ ! -e "$stamp" ] || [ requirements.txt -nt "$stamp" ] || [ "$requirements" -nt "$stamp" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    touch "$stamp"
fi
