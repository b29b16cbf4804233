"""The .pics file: round trips, exact bytes, the worked example of docs/bitstream.md, refusals.

python -m pytest tests/test_bitstream.py
"""

import json
import re
from binascii import crc_hqx
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import bitstream
from bitstream import BitstreamError, Stream, bits_per_pixel, layer_sizes, pack, unpack

PAGE = (Path(__file__).parent.parent / "docs" / "bitstream.md").read_text()
KODAK = Stream(0x1A2B, 768, 512, 768, 512, 3, bytes(range(32)), bytes(range(200)))

sides = st.integers(1, 65535)
coded = st.integers(1, 64).map(lambda n: 64 * n)
layer = st.none() | st.binary(min_size=1, max_size=300)


def with_one_color(stream: Stream) -> Stream:
    """A stream has a color or a base layer, not both."""
    return replace(stream, base=None) if stream.color else stream


streams = st.builds(
    Stream,
    st.integers(0, 0xFFFF),
    sides,
    sides,
    coded,
    coded,
    st.integers(0, 20) | st.integers(0, 2**31 - 1),
    layer,
    layer,
    layer,
    layer,
).filter(lambda stream: any(vars(stream)[name] for name in bitstream.LAYERS))
streams = streams.map(with_one_color)


def seal(body: str | bytes) -> bytes:
    """Add the right checksum to a handmade file."""
    body = bytes.fromhex(body) if isinstance(body, str) else body
    return body + crc_hqx(body, 0xFFFF).to_bytes(2, "big")


@given(streams)
def test_round_trip(stream):
    data = pack(stream)
    assert unpack(data) == stream
    sizes = layer_sizes(stream)
    assert sum(sizes.values()) == len(data)
    assert all(sizes[layer] == len(getattr(stream, layer) or b"") for layer in bitstream.LAYERS)


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_give_a_canonical_stream_or_the_error(body, begin_well):
    data = seal(b"\xb1" + body if begin_well else body)
    try:
        stream = unpack(data)
    except BitstreamError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert pack(stream) == data


@given(streams, st.data())
def test_damage_is_found(stream, data):
    good = pack(stream)
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    flipped = bytearray(good)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError):
        unpack(bytes(flipped))
    cut = data.draw(st.integers(0, len(good) - 1))
    # A message followed by its own checksum has the checksum 0.
    assume(crc_hqx(good[:cut], 0xFFFF) != 0)
    with pytest.raises(BitstreamError):
        unpack(good[:cut])


def test_exact_bytes():
    assert pack(Stream(0xFFFF, 1, 1, 64, 64, 0, text=b"T")) == seal("b110ffff01011154")
    assert pack(Stream(0, 127, 128, 960, 64, 14, sketch=b"S")) == seal("b12e00007f8001f153")
    assert pack(Stream(0, 65535, 1, 4096, 64, 15, sketch=b"S")) == seal(
        "b12f0000ffff0301004001 00 53"
    )
    assert pack(Stream(0, 1, 1, 64, 64, 0, b"T", base=b"B")) == seal("b19000000101110154 42")
    assert pack(Stream(0, 1, 1, 64, 1024, 2**31 - 1, b"T", b"S")) == seal(
        "b13f0000010100 0110 f0ffffff07 01 54 53"
    )


def test_checksum_is_the_documented_one():
    assert crc_hqx(b"123456789", 0xFFFF) == 0x29B1


def test_overhead_of_a_kodak_file_is_at_most_twelve_bytes():
    assert layer_sizes(KODAK) == {
        "text": 32,
        "sketch": 200,
        "color": 0,
        "base": 0,
        "overhead": 12,
    }
    upright = replace(KODAK, source_width=512, source_height=768, sketch=None)
    assert layer_sizes(upright)["overhead"] == 11


def test_rate_is_the_whole_file():
    assert bits_per_pixel(pack(KODAK), 512, 768) == 8 * 244 / (512 * 768)


def test_worked_example_of_the_page():
    fields = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    stream = Stream(**fields | {name: bytes.fromhex(fields[name]) for name in ("text", "sketch")})
    data = bytes.fromhex("".join(re.findall(r"^\| `([0-9a-f ]+)` \|", PAGE, re.MULTILINE)))
    assert len(data) == 24
    assert pack(stream) == data
    assert unpack(data) == stream


def test_page_and_module_have_the_same_byte_table():
    table = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1]
    assert table in bitstream.__doc__


def test_page_names_the_limits():
    for limit in (bitstream.MAX_SOURCE_SIDE, bitstream.MAX_CODED_SIDE, bitstream.MAX_SEED):
        assert f"| {limit} |" in PAGE
    assert f"| {bitstream.MIN_FILE_BYTES} | {bitstream.MAX_FILE_BYTES} |" in PAGE


def test_the_smallest_and_the_largest_file_are_read():
    smallest = pack(Stream(0, 1, 1, 64, 64, 0, text=b"T"))
    assert len(smallest) == bitstream.MIN_FILE_BYTES
    full = bytes(65535)
    largest = Stream(0xFFFF, 65535, 65535, 4096, 4096, 2**31 - 1, full, full, full)
    assert len(pack(largest)) == bitstream.MAX_FILE_BYTES
    assert unpack(pack(largest)) == largest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": 65536}, "fingerprint 65536"),
        ({"source_width": 0}, "source width 0"),
        ({"source_height": 65536}, "source height 65536"),
        ({"width": 100}, "coded width 100 is not a multiple of 64"),
        ({"height": 4160}, "coded height 4160"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**31}, "seed 2147483648"),
        ({"text": b""}, "length of the text layer 0"),
        ({"sketch": bytes(65536)}, "length of the sketch layer 65536"),
        ({"text": None, "sketch": None}, "no layer"),
        ({"color": b"C", "base": b"B"}, "a color or a base layer, not both"),
    ],
)
def test_pack_refuses(change, message):
    with pytest.raises(BitstreamError, match=message):
        pack(replace(KODAK, **change))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"\xb1", "1 bytes are too few"),
        (b"\x89PNG\r\n\x1a\n0000", "begins with 0x89"),
        (b"\xb2rest", "stream version 2: this reader knows version 1"),
        (b"\xb0" + bytes(20), "stream version 0: this reader knows version 1"),
        (b"\xb1" + bytes(8), "9 bytes: a stream has 10 to"),
        (b"\xb1" + bytes(196631), "196632 bytes: a stream has"),
        (pack(KODAK)[:-5], "damaged or cut off"),
        (seal("b1c0000001011111 54 53"), "a color or a base layer, not both"),
        (seal("b1000000 01011154"), "no layer"),
        (seal("b1100000 00 01 11 54 54"), "source width 0"),
        (seal("b1100000 8100 01 11 54"), "source width 1 is written with a byte too many"),
        (seal("b1100000 808000 01 11 54"), "source width 0 is written with a byte too many"),
        (seal("b1100000 80808080 01 11 54"), "source width is written with a byte too many"),
        (seal("b1100000 808004 01 11 54"), "source width is over 65535"),
        (seal("b1100000 01 808080"), "source height needs 1 bytes, 0 are left"),
        (seal("b1100000 01 01 10 54"), "coded height 0"),
        (seal("b1100000 01 01 01 54"), "coded width 0"),
        (seal("b1100000 01 01 00 0f0f 54"), "coded size 960x960 is written the long way"),
        (seal("b1100000 01 01 00 4101 54"), "coded width / 64 is over 64"),
        (seal("b11f0000 01 01 11 f1ffffff07 54"), "seed is over"),
        (seal("b1300000 01 01 11 05 5454"), "text layer needs 5 bytes, 2 are left"),
        (seal("b1300000 01 01 11 00 5454"), "length of the text layer 0"),
        (seal("b1300000 01 01 11 ffff04 54"), "length of the text layer is over 65535"),
        (seal("b1300000 01 01 11 02 5454"), "length of the sketch layer 0"),
        (seal("b1100000 808001 01 11"), "length of the text layer 0"),
    ],
)
def test_unpack_refuses_in_one_line(data, message):
    with pytest.raises(BitstreamError, match=message) as caught:
        unpack(data)
    assert "\n" not in str(caught.value)


def test_importing_it_takes_the_standard_library_only():
    source = Path(bitstream.__file__).read_text()
    imported = re.findall(r"^(?:from|import) (\S+)", source, re.MULTILINE)
    assert imported == ["binascii", "dataclasses"]
