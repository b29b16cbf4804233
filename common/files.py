"""Files that are written whole or not at all, and images as PNG files.

from common.files import png, write
write(Path("image.png"), png(image))
"""

import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent  # the project's folder


def write(path: Path, content: bytes) -> None:
    """Write a whole file or none: first under a temporary name, then renamed. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 (H, W) or (H, W, 3), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def read_json(path: Path, missing: dict | None = None) -> dict:
    """Read a JSON file; return `missing`, if it is given, for a file that does not exist.

    Raises OSError, or ValueError for a file that is not JSON.
    """
    if missing is not None and not path.exists():
        return missing
    return json.loads(path.read_text(encoding="utf-8"))
