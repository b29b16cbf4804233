"""Image formats for sketches, with settings that lie on or near their rate-distortion curves.

    for setting in classical_settings():
        data = setting.encode(sketch)
        decoded = setting.decode(data)

WebP, AVIF and JPEG 2000, also of the sketch made smaller; and PNG, CCITT group 4 and JBIG2 of the
binary sketch (threshold 0.5), also made smaller. JBIG2 needs the programs `jbig2` (jbig2enc) and
`jbig2dec`. All files are complete.
"""

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which

import numpy as np

from metrics.formats import FORMATS, decode_image, encode_image

# Family: {divisor of both sides: qualities}, in Pillow's numbers; for JPEG 2000 the compression
# ratio. They are on or near the family's curve, from MS-SSIM 0.6 to 0.98 of Kodak's sketches at
# short side 512.
QUALITIES = {
    "WebP": {1: (0,), 2: (0, 5, 10, 20), 4: (0, 10, 20), 8: (20,)},
    "AVIF": {1: (1, 8), 2: (1, 10, 20, 30), 4: (1, 5, 12, 20, 30), 8: (5, 20)},
    "JPEG 2000": {1: (60,), 2: (50, 30, 18), 4: (25, 15, 9, 5), 8: (12, 7)},
}
BILEVEL_FAMILIES = ("PNG of 1 bit", "CCITT group 4", "JBIG2")
DIVISORS = (1, 2, 4, 8)
THRESHOLD = 128  # of bi-level sketches, of 255


@dataclass(frozen=True)
class Setting:
    """One way to code a sketch, uint8 (H, W), 255 = edge: a point of a family's curve."""

    family: str
    label: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def classical_settings() -> list[Setting]:
    """Return all settings of the image formats; those of JBIG2 if its programs are installed."""
    settings = []
    for family, scales in QUALITIES.items():
        for divisor, qualities in scales.items():
            for quality in qualities:
                label = f"1/{divisor} q{quality}"
                options = save_options(family, quality)
                settings.append(pillow_setting(family, label, divisor, options))
    for divisor in DIVISORS:
        label = f"1/{divisor}"
        for family in ("PNG of 1 bit", "CCITT group 4"):
            options = save_options(family)
            settings.append(pillow_setting(family, label, divisor, options, bilevel=True))
        if not missing_programs():
            encode = partial(jbig2_encode, divisor=divisor)
            decode = partial(jbig2_decode, divisor=divisor)
            settings.append(Setting("JBIG2", label, encode, decode))
    return settings


def missing_programs() -> list[str]:
    """Return the programs of JBIG2 that are not installed."""
    return [program for program in ("jbig2", "jbig2dec") if not which(program)]


def save_options(family: str, quality: int | None = None) -> dict:
    """Return Pillow's options for the smallest complete file of a family."""
    if family == "WebP":
        return FORMATS["webp"].options(quality)
    if family == "AVIF":
        # On three sketches, speed 6 costs 11% more bytes than 3; speed 0 or tune=ssim save 2%.
        gray = {"subsampling": "4:0:0", "speed": 3, "autotiling": False}
        return FORMATS["avif"].options(quality) | gray
    if family == "JPEG 2000":
        return FORMATS["jpeg2000"].options(quality)
    if family == "PNG of 1 bit":
        return FORMATS["png"].options(None)
    return FORMATS["group4"].options(None)


# ---- formats of Pillow


def pillow_setting(
    family: str, label: str, divisor: int, options: dict, bilevel: bool = False
) -> Setting:
    """Return the setting of a format that Pillow writes with these options."""
    encode = partial(pillow_encode, divisor=divisor, bilevel=bilevel, options=options)
    return Setting(family, label, encode, partial(pillow_decode, divisor=divisor))


def pillow_encode(sketch: np.ndarray, divisor: int, bilevel: bool, options: dict) -> bytes:
    """Return the file of a sketch made smaller and, if bilevel, binary."""
    small = smaller(sketch, divisor)
    if bilevel:
        small = small >= THRESHOLD
    return encode_image(small, options)


def pillow_decode(data: bytes, divisor: int) -> np.ndarray:
    """Return the sketch of a file at the size of the original: uint8 (H, W)."""
    return larger(np.array(decode_image(data, "L")), divisor)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image, uint8 (H, W), at another size by Pillow's Lanczos filter."""
    from PIL import Image

    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def smaller(sketch: np.ndarray, divisor: int) -> np.ndarray:
    """Return a sketch with both sides divided."""
    if divisor == 1:
        return sketch
    return resized(sketch, sketch.shape[0] // divisor, sketch.shape[1] // divisor)


def larger(image: np.ndarray, divisor: int) -> np.ndarray:
    """Return an image with both sides multiplied: the inverse of `smaller`."""
    if divisor == 1:
        return image
    return resized(image, image.shape[0] * divisor, image.shape[1] * divisor)


# ---- JBIG2


def jbig2_encode(sketch: np.ndarray, divisor: int) -> bytes:
    """Return the JBIG2 file, one lossless generic region, of a sketch made smaller and binary."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sketch.pbm")
        Image.fromarray(smaller(sketch, divisor) >= THRESHOLD).save(path)
        return subprocess.run(["jbig2", "-d", path], check=True, stdout=subprocess.PIPE).stdout


def jbig2_decode(data: bytes, divisor: int) -> np.ndarray:
    """Return the sketch of a JBIG2 file at the size of the original: uint8 (H, W)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sketch.jb2")
        image = Path(folder, "sketch.pbm")
        file.write_bytes(data)
        subprocess.run(["jbig2dec", "-t", "pbm", "-o", image, file], check=True)
        return pillow_decode(image.read_bytes(), divisor)
