"""Pictures for the fuzzers: small well-formed files of every format, and mutants of them.

    from fuzz.pictures import corpus, mutant, read      # in tests
    outcome = read(mutant(corpus(), random.Random(0)))

A mutant knows the structure of its format: chunks of a PNG and of a RIFF file (WebP) keep right
lengths and checksums, numbers in headers become extreme ones.
"""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from common.files import ImageError, load_gray, load_image

SIDE = 24  # pixels
SAVED = {  # format -> (modes, options of Image.save)
    "PNG": (("RGB", "RGBA", "L", "LA", "P", "1", "I;16"), {}),
    "JPEG": (("RGB", "L", "CMYK"), {}),
    "WEBP": (("RGB", "RGBA"), {}),
    "GIF": (("P", "L"), {}),
    "BMP": (("RGB", "L", "1", "P"), {}),
    "TIFF": (("RGB", "L", "F", "I;16", "CMYK"), {}),
    "PPM": (("RGB", "L", "1"), {}),
    "AVIF": (("RGB",), {"speed": 10}),
    "JPEG2000": (("RGB", "L"), {}),
}
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
WAYS = ("flipped", "number", "cut", "spliced", "chunk")


def corpus() -> list[bytes]:
    """Return well-formed files of every format and mode that this build of Pillow writes."""
    Image.init()
    files = []
    for kind, (modes, options) in SAVED.items():
        if kind not in Image.SAVE:
            continue
        for mode in modes:
            file = io.BytesIO()
            _picture(mode).save(file, kind, **options)
            files.append(file.getvalue())
    return files


def _picture(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(values[..., 0].astype(np.float32) / 255)
    return Image.fromarray(values).convert(mode)


def mutant(files: list[bytes], rng: random.Random) -> tuple[str, bytes]:
    """Return how a file was changed, one of WAYS, and the changed file."""
    data = rng.choice(files)
    way = rng.choice(WAYS)
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _changed(data, way, files, rng) or b"\0"
    return way, _repaired(data) if rng.random() < 0.8 else data


def _changed(data: bytes, way: str, files: list[bytes], rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    if way == "flipped":
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if way == "number":
        form = rng.choice((">I", "<I", ">H", "<H", "B"))
        number = rng.choice(EXTREMES) & (1 << 8 * struct.calcsize(form)) - 1
        # Headers are at the beginning.
        place = rng.randrange(min(len(data), 64)) if rng.random() < 0.7 else place
        return data[:place] + struct.pack(form, number) + data[place + struct.calcsize(form) :]
    if way == "cut":
        return (
            data[:place] if rng.random() < 0.5 else data[:place] + data[rng.randrange(len(data)) :]
        )
    if way == "spliced":
        other = rng.choice(files)
        return data[:place] + other[rng.randrange(len(other)) :]
    end = min(len(data), place + rng.randrange(1, 64))
    return data[:end] + data[place:end] * rng.choice((1, 2, 300)) + data[end:]


def _repaired(data: bytes) -> bytes:
    """Return a PNG or RIFF file with right lengths and checksums; others as they are."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _repaired_png(data)
    if data.startswith(b"RIFF") and len(data) > 12:
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data


def _repaired_png(data: bytes) -> bytes:
    repaired = bytearray(data[:8])
    place = 8
    while place + 12 <= len(data):
        length = min(int.from_bytes(data[place : place + 4], "big"), len(data) - place - 12)
        chunk = data[place + 4 : place + 8 + length]
        repaired += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return bytes(repaired)


def read(data: bytes) -> str:
    """Return "read" or "ImageError"; every other error passes through.

    Both loaders read the file; what is read must be an image.
    """
    outcomes = []
    for load, dimensions in ((load_image, 3), (load_gray, 2)):
        try:
            image = load(io.BytesIO(data))
        except ImageError as error:
            if "\n" in str(error):
                raise AssertionError("the message has several lines") from error
            outcomes.append("ImageError")
            continue
        if image.dtype != np.uint8 or image.ndim != dimensions:
            raise AssertionError(f"{image.dtype} {image.shape}")
        outcomes.append("read")
    return outcomes[0]
