"""Stream <-> bytes: the .pics file, version 1. Standard library only.

    python -c "import bitstream; print(bitstream.unpack(open('photo.pics', 'rb').read()))"

docs/bitstream.md explains the format.

    bytes        content
    1            high nibble: magic, 0xB; low nibble: version, 1
    1            high nibble: layers present, bit 0 text, bit 1 sketch, bit 2 color,
                 bit 3 base; low nibble: seed, or 15
    2            fingerprint, big-endian: 4 bits preset number, 12 bits hash of the models
    1 to 3       source width in pixels, varint
    1 to 3       source height in pixels, varint
    1 or 3       coded size: high nibble width / 64, low nibble height / 64;
                 0 if either is over 15: then varint width / 64, varint height / 64
    0 to 5       seed - 15, varint, only if the nibble says 15
    per layer    in the order of the bits: its length in bytes, varint (1 to 3), then its bytes;
                 the last layer has no length, it runs to the checksum
    2            checksum of all the bytes before it, big-endian: CRC-16, polynomial 0x1021,
                 start 0xFFFF

A varint is LEB128: seven bits a byte, lowest first, the top bit set on all but the last byte.
Every stream has one form only: pack(unpack(data)) == data, and a longer form is refused.
"""

from binascii import crc_hqx
from dataclasses import dataclass

MAGIC = 0xB
VERSION = 1
LAYERS = ("text", "sketch", "color", "base")  # in the order of their flag bits
MOST_LAYERS = 3  # in one stream: it has color or base, not both
NO_LAYER = f"no layer: a stream has at least one of {', '.join(LAYERS)}"
BOTH_COLORS = "a stream has a color or a base layer, not both"

MAX_SOURCE_SIDE = 65535  # pixels
CODED_MULTIPLE = 64
MAX_CODED_SIDE = 4096  # pixels
MAX_SEED = 2**31 - 1
MAX_LAYER_BYTES = 65535
CHECKSUM_BYTES = 2
MIN_FILE_BYTES = 2 + 2 + 1 + 1 + 1 + 1 + CHECKSUM_BYTES
MAX_FILE_BYTES = (
    2 + 2 + 3 + 3 + 3 + 5 + 3 * (MOST_LAYERS - 1) + MOST_LAYERS * MAX_LAYER_BYTES + CHECKSUM_BYTES
)
ESCAPE = 15  # a seed nibble of 15: the rest of the seed follows as a varint


class BitstreamError(ValueError):
    """Bytes that are not a valid stream, or a stream that cannot be written; one line says why."""


@dataclass(frozen=True)
class Stream:
    """Everything a decoder needs. A layer that is None is absent; at least one is present."""

    # 16 bits: the preset's number in the high 4, a hash of the conditions' models in the low 12
    fingerprint: int
    source_width: int  # pixels of the original, 1..65535
    source_height: int
    width: int  # pixels that are coded and generated: multiples of 64, 64..4096
    height: int
    seed: int  # of the candidate chosen, 0..2**31 - 1
    text: bytes | None = None  # 1..65535 bytes, `text_codec`
    sketch: bytes | None = None  # 1..65535 bytes, `models_ntc`
    color: bytes | None = None  # 1..65535 bytes, `color_codec`
    base: bytes | None = None  # 1..65535 bytes, `models_ntc`; only without color


def pack(stream: Stream) -> bytes:
    """Return the file of a stream, laid out as this module's docstring says.

    Raises BitstreamError for a field out of range.
    """
    _check(stream)
    layers = _present_layers(stream)
    *others, last = layers.values()
    data = bytearray()
    data.append(MAGIC << 4 | VERSION)
    data.append(_layer_flags(layers) << 4 | min(stream.seed, ESCAPE))
    data += stream.fingerprint.to_bytes(2, "big")
    data += _varint(stream.source_width)
    data += _varint(stream.source_height)
    data += _coded_size(stream.width, stream.height)
    if stream.seed >= ESCAPE:
        data += _varint(stream.seed - ESCAPE)
    for layer in others:
        data += _varint(len(layer)) + layer
    data += last
    return bytes(data + crc_hqx(data, 0xFFFF).to_bytes(CHECKSUM_BYTES, "big"))


def unpack(data: bytes) -> Stream:
    """Return the stream of a file; pack(unpack(data)) == data.

    Raises BitstreamError for all other bytes, TypeError for what is not bytes. The order of the
    checks is magic, version, size, checksum, then the fields from first to last.
    """
    if not isinstance(data, bytes):
        raise TypeError(f"a stream is bytes, not {type(data).__name__}")
    _check_envelope(data)
    reader = _Reader(data[2:-CHECKSUM_BYTES])
    names = _layer_names(data[1] >> 4)
    fingerprint = int.from_bytes(reader.take(2, "fingerprint"), "big")
    source_width = reader.varint("source width", 1, MAX_SOURCE_SIDE)
    source_height = reader.varint("source height", 1, MAX_SOURCE_SIDE)
    width, height = _read_coded_size(reader)
    seed = data[1] & 15
    if seed == ESCAPE:
        seed += reader.varint("seed", 0, MAX_SEED - ESCAPE)
    layers = {}
    for name in names[:-1]:
        length = reader.varint(f"length of the {name} layer", 1, MAX_LAYER_BYTES)
        layers[name] = reader.take(length, f"{name} layer")
    layers[names[-1]] = reader.rest()
    stream = Stream(fingerprint, source_width, source_height, width, height, seed, **layers)
    _check(stream)
    return stream


def bits_per_pixel(data: bytes, height: int, width: int) -> float:
    """Return the rate of a file: all of its bits over the coded pixels, height x width."""
    return 8 * len(data) / (height * width)


def layer_sizes(stream: Stream) -> dict[str, int]:
    """Return the bytes of each layer, 0 if absent, and of the rest, "overhead".

    They sum to the length of the file.
    """
    sizes = {name: len(getattr(stream, name) or b"") for name in LAYERS}
    return sizes | {"overhead": len(pack(stream)) - sum(sizes.values())}


def _present_layers(stream: Stream) -> dict[str, bytes]:
    """Return the layers that are not None by name, in the order of their flag bits."""
    layers = {}
    for name in LAYERS:
        layer = getattr(stream, name)
        if layer is not None:
            layers[name] = layer
    return layers


def _check(stream: Stream) -> None:
    """Raise BitstreamError unless every field is in its range."""
    _in_range("fingerprint", stream.fingerprint, 0, 0xFFFF)
    _in_range("source width", stream.source_width, 1, MAX_SOURCE_SIDE)
    _in_range("source height", stream.source_height, 1, MAX_SOURCE_SIDE)
    _in_range("seed", stream.seed, 0, MAX_SEED)
    for name, side in (("coded width", stream.width), ("coded height", stream.height)):
        _in_range(name, side, CODED_MULTIPLE, MAX_CODED_SIDE)
        if side % CODED_MULTIPLE:
            raise BitstreamError(f"{name} {side} is not a multiple of {CODED_MULTIPLE}")
    layers = _present_layers(stream)
    if not layers:
        raise BitstreamError(NO_LAYER)
    if "color" in layers and "base" in layers:
        raise BitstreamError(BOTH_COLORS)
    for name, layer in layers.items():
        _in_range(f"length of the {name} layer", len(layer), 1, MAX_LAYER_BYTES)


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BitstreamError(f"{name} {value} is outside {low} to {high}")


def _check_envelope(data: bytes) -> None:
    """Raise BitstreamError unless magic, version, size and checksum are right."""
    if len(data) < 2:
        raise BitstreamError(f"not a .pics file: {len(data)} bytes are too few")
    if data[0] >> 4 != MAGIC:
        raise BitstreamError(
            f"not a .pics file: it begins with 0x{data[0]:02X}, not 0x{MAGIC:X}{VERSION:X}"
        )
    if data[0] & 15 != VERSION:
        known = f"this reader knows version {VERSION}; use the release that wrote the file"
        raise BitstreamError(f"stream version {data[0] & 15}: {known}")
    if not MIN_FILE_BYTES <= len(data) <= MAX_FILE_BYTES:
        raise BitstreamError(
            f"{len(data)} bytes: a stream has {MIN_FILE_BYTES} to {MAX_FILE_BYTES}; cut off?"
        )
    stored = int.from_bytes(data[-CHECKSUM_BYTES:], "big")
    found = crc_hqx(data[:-CHECKSUM_BYTES], 0xFFFF)
    if stored != found:
        raise BitstreamError(
            f"damaged or cut off: checksum {found:04X}, the file says {stored:04X}"
        )


def _layer_flags(layers: dict[str, bytes]) -> int:
    """Return a number with the bit of each layer set."""
    flags = 0
    for bit, name in enumerate(LAYERS):
        if name in layers:
            flags |= 1 << bit
    return flags


def _layer_names(flags: int) -> list[str]:
    """Return the names of the layers that the flag bits announce, in the order of the bits."""
    names = [name for bit, name in enumerate(LAYERS) if flags >> bit & 1]
    if not names:
        raise BitstreamError(NO_LAYER)
    if "color" in names and "base" in names:
        raise BitstreamError(BOTH_COLORS)
    return names


def _coded_size(width: int, height: int) -> bytes:
    columns = width // CODED_MULTIPLE
    rows = height // CODED_MULTIPLE
    if max(columns, rows) <= 15:
        return bytes([columns << 4 | rows])
    return b"\0" + _varint(columns) + _varint(rows)


def _read_coded_size(reader: "_Reader") -> tuple[int, int]:
    """Return (width, height) in pixels."""
    packed = reader.take(1, "coded size")[0]
    columns = packed >> 4
    rows = packed & 15
    if packed == 0:
        columns = reader.varint("coded width / 64", 1, MAX_CODED_SIDE // CODED_MULTIPLE)
        rows = reader.varint("coded height / 64", 1, MAX_CODED_SIDE // CODED_MULTIPLE)
        if max(columns, rows) <= 15:
            raise BitstreamError(f"coded size {columns * 64}x{rows * 64} is written the long way")
    return columns * CODED_MULTIPLE, rows * CODED_MULTIPLE


def _varint(value: int) -> bytes:
    """Return the LEB128 form of a number of at least 0, in as few bytes as it takes."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


class _Reader:
    """Reads fields, one after another, from the bytes between the first two and the checksum."""

    def __init__(self, data: bytes):
        self.data = data
        self.position = 0

    def take(self, count: int, name: str) -> bytes:
        left = len(self.data) - self.position
        if count > left:
            raise BitstreamError(f"the {name} needs {count} bytes, {left} are left")
        self.position += count
        return self.data[self.position - count : self.position]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.position, "last layer")

    def varint(self, name: str, low: int, high: int) -> int:
        """Read a number from low to high; refuses more bytes than the number takes."""
        value = 0
        shift = 0
        byte = 128
        while byte & 128:
            byte = self.take(1, name)[0]
            value |= (byte & 127) << shift
            shift += 7
            if value > high:
                raise BitstreamError(f"{name} is over {high}")
            if byte == 0 and shift > 7:
                raise BitstreamError(f"{name} {value} is written with a byte too many")
            if shift > high.bit_length() + 6:
                raise BitstreamError(f"{name} is written with a byte too many")
        _in_range(name, value, low, high)
        return value
