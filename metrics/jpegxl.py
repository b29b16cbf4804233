"""JPEG XL as a baseline, by pillow-jxl-plugin, which is optional: images <-> files.

codec = load_jpegxl()
codec.decode(codec.encode(image, 20))
"""

import numpy as np

from common.weights import UnavailableError
from metrics.formats import Codec

NAME = "jpegxl"
EFFORT = 9  # of 10; 7, the library's own choice, takes up to a fifth more bytes
RECIPE = "JPEG XL codestream (.jxl without a container), lossy, effort 9, quality 0 to 99"


def load_jpegxl() -> Codec:
    """Return JPEG XL as a codec. Raises UnavailableError if its package is not installed."""
    try:
        import pillow_jxl  # noqa: F401 - so that it is missed here, not at the first image
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{NAME}: the package {error.name} is not installed: pip install pillow-jxl-plugin"
        ) from error
    return Codec(NAME, range(100), _encode, _decode, RECIPE)


def _encode(image: np.ndarray, quality: int) -> bytes:
    from pillow_jxl import Encoder

    height, width = image.shape[:2]
    # Without threads of its own: runs share a machine's cores among processes.
    options = {"lossless": False, "quality": quality, "effort": EFFORT, "num_threads": 0}
    encoder = Encoder("RGB", **options)  # type: ignore # its stub is of an older release
    return encoder(image.tobytes(), width, height, jpeg_encode=False)


def _decode(data: bytes) -> np.ndarray:
    from pillow_jxl import Decoder

    _, header, pixels, *_ = Decoder(num_threads=0)(data)
    return np.frombuffer(pixels, np.uint8).reshape(header.height, header.width, 3)
