#!/usr/bin/env bash
# Make .venv in the project's folder and install requirements.txt into it, and the files named in addition.
#
#     bash scripts/install.sh
#     bash scripts/install.sh requirements-train.txt requirements-demo.txt
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
wanted=()
for file in requirements.txt "$@"; do
    [ .venv/$file.done -nt "$file" ] || wanted+=("$file")
done
if [ ${#wanted[@]} -gt 0 ]; then  # all together, so that none changes what another asks for
    # CompressAI's limits (NumPy below 2) come first: pip then finds a set that fits within seconds.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${@/#/--requirement=}" -r requirements.txt
    for file in requirements.txt "$@"; do
        touch ".venv/$file.done"
    done
fi
