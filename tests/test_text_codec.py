"""Token ids as one number: round trips, exact bytes, one form only, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_codec import TextError, decode, encode

CLIP = 49408
vocabularies = st.sampled_from([257, 2048, 8192, CLIP, 65536, 2**31 + 11]) | st.integers(257, 200_000)


@st.composite
def prompts(draw):
    vocabulary = draw(vocabularies)
    return draw(st.lists(st.integers(0, vocabulary - 1), max_size=90)), vocabulary


@given(prompts())
def test_round_trip(prompt):
    ids, vocabulary = prompt
    data = encode(ids, vocabulary)
    assert decode(data, vocabulary) == ids
    assert len(data) >= len(ids) * math.log2(vocabulary) / 8 - 1e-9
    assert not ids or len(data) - 1 < len(ids) * math.log2(vocabulary) / 8 + 1e-9


@given(st.binary(max_size=120), vocabularies)
def test_bytes_are_canonical_or_refused(data, vocabulary):
    try:
        ids = decode(data, vocabulary)
    except TextError as error:
        assert "\n" not in str(error)
    else:
        assert encode(ids, vocabulary) == data


@settings(max_examples=20)
@given(vocabularies)
def test_the_number_of_bytes_gives_the_number_of_ids(vocabulary):
    sizes = [len(encode([0] * count, vocabulary)) for count in range(60)]
    assert sizes == sorted(set(sizes))


def test_exact_bytes():
    assert encode([], CLIP) == b""
    assert encode([0], CLIP) == bytes(2)
    assert encode([1, 2], 1000) == (1002).to_bytes(3, "big")
    assert encode([320, 1125, 539], CLIP).hex() == "00b5e490271b"  # (320 * V + 1125) * V + 539
    assert encode([299] * 8, 300) == (300**8 - 1).to_bytes(9, "big")


def test_length_at_powers_of_two_is_exact():
    assert len(encode([65535] * 1024, 65536)) == 2048
    assert len(encode([65536] * 1024, 65537)) == 2049
    assert len(encode([4095] * 3, 4096)) == 5


def test_sixteen_ids():
    assert len(encode(list(range(16)), CLIP)) == 32
    assert len(encode([CLIP - 1] * 16, CLIP)) == 32
    assert len(encode(list(range(16)), 2048)) == 22


def test_numpy_ids_do_not_overflow():
    ids = np.arange(40_000, 40_016)
    assert decode(encode(ids, CLIP), CLIP) == ids.tolist()


def test_the_longest_prompt():
    ids = [(i * 7919) % CLIP for i in range(1024)]
    assert decode(encode(ids, CLIP), CLIP) == ids


@pytest.mark.parametrize(
    ("ids", "message"),
    [([CLIP], "id 49408 is outside"), ([0, -1], "id -1 is outside"), ([0] * 1025, "1025 ids: at most 1024")],
)
def test_encode_refuses(ids, message):
    with pytest.raises(TextError, match=message):
        encode(ids, CLIP)


@pytest.mark.parametrize(
    ("data", "vocabulary", "message"),
    [
        (b"\0", CLIP, "no number of ids .* takes 1 bytes"),
        (CLIP.to_bytes(2, "big"), CLIP, "these 2 bytes are no 1 ids"),
        (b"\xff" * 32, CLIP, "these 32 bytes are no 16 ids"),
        (bytes(65535), CLIP, "65535 bytes are more than 1024 ids"),
        (bytes(2050), CLIP, "2050 bytes are more than 1024 ids"),
    ],
)
def test_decode_refuses(data, vocabulary, message):
    with pytest.raises(TextError, match=message):
        decode(data, vocabulary)


@pytest.mark.parametrize("vocabulary", [256, 1, 0, -5])
def test_a_vocabulary_too_small_to_imply_the_count(vocabulary):
    with pytest.raises(ValueError, match="needs more than 256"):
        encode([0], vocabulary)
    with pytest.raises(ValueError, match="needs more than 256"):
        decode(b"", vocabulary)
