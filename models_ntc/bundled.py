"""The codec files that come with the project: where they are, and which lambdas they have.

python -c "from models_ntc.bundled import lambda_range; print(lambda_range())"
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent


def lambda_range(family: str = "sketch") -> tuple[float, float]:
    """Return the lowest and highest lambda of the bundled codec models_ntc/<family>.safetensors."""
    from safetensors import safe_open

    with safe_open(FOLDER / f"{family}.safetensors", "numpy") as file:
        config = json.loads(file.metadata()["config"])
    low, high = config["sizes"]["lambda_range"]
    return low, high
