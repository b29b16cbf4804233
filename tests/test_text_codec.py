"""Prompts as bytes: round trips, exact bytes, one form only, and what is refused.

python -m pytest tests/test_text_codec.py
"""

import math
import random
import re
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from text_codec import Coding, TextError, coding, decode, decode_text, encode, encode_text, most_ids
from text_codec.ids import BITS, MODES, Mode, mode_of
from text_codec.words import load_model, model_from_bytes, model_to_bytes

CLIP = 49408
CAPTIONS = (
    "a red barn under a stormy sky",
    "two dogs play in the snow",
    "a man in a blue shirt is riding a bicycle down a busy street.",
    "people sitting at a table in front of a large window",
    "a close up of a plate of food with broccoli",
    "a lighthouse on a rocky coast at sunset",
)
vocabularies = st.sampled_from([257, 2048, 8192, CLIP, 65536, 2**31 + 11]) | st.integers(2, 200_000)


@st.composite
def prompts(draw):
    vocabulary = draw(vocabularies)
    ids = draw(st.lists(st.integers(0, vocabulary - 1), max_size=90))
    return sorted(ids) if draw(st.booleans()) else ids, vocabulary


@st.composite
def prompts_of_a_subset(draw):
    bits = draw(st.sampled_from([5, 6, 9]))
    subset = random.Random(draw(st.integers(0, 99))).sample(range(CLIP), 1 << bits)
    ids = draw(st.lists(st.sampled_from(subset) | st.integers(0, CLIP - 1), max_size=40))
    return sorted(ids) if draw(st.booleans()) else ids, subset


@given(prompts())
def test_ids_round_trip(prompt):
    ids, vocabulary = prompt
    data = encode(ids, vocabulary)
    assert decode(data, vocabulary) == ids
    assert not coding(data).text
    assert len(data) <= (len(ids) * math.log2(vocabulary) + math.log2(MODES) + 1 + 1) / 8 + 1


@settings(max_examples=50)
@given(prompts_of_a_subset())
def test_ids_of_a_subset_round_trip(prompt):
    ids, subset = prompt
    data = encode(ids, CLIP, subset)
    assert decode(data, CLIP, subset) == ids
    assert encode(ids, CLIP, subset[::-1]) == data
    assert len(data) <= len(encode(ids, CLIP))
    if len(ids) > 1 and set(ids) <= set(subset):
        assert coding(data).bits == len(subset).bit_length() - 1


@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=60), vocabularies, st.sampled_from([None, 5, 8]))
def test_bytes_are_canonical_or_refused(data, vocabulary, bits):
    subset = range(1 << bits) if bits else None
    try:
        how = coding(data)
        prompt = decode_text(data) if how.text else decode(data, vocabulary, subset)
    except TextError as error:
        assert "\n" not in str(error)
    else:
        if how.text:
            assert encode_text(prompt) == data
        else:
            assert encode(prompt, vocabulary, subset if how.bits else None) == data


@given(st.sampled_from([5, 8]), st.integers(0, 2**40), st.booleans())
def test_short_payloads_of_a_subset_are_canonical_or_refused(bits, value, ascending):
    number = value * MODES + Mode(bits, ascending).number
    data = number.to_bytes(number.bit_length() // 8 + 1, "big")
    try:
        ids = decode(data, CLIP, range(100, 100 + (1 << bits)))
    except TextError as error:
        assert "never written" in str(error)
    else:
        assert encode(ids, CLIP, range(100, 100 + (1 << bits))) == data


def test_every_mode_has_its_number():
    modes = [Mode(bits, ascending) for bits in (None, *BITS) for ascending in (False, True)]
    assert [mode.number for mode in modes] == list(range(MODES))
    assert [mode_of(mode.number) for mode in modes] == modes


def test_exact_bytes_of_ids():
    assert encode([], CLIP) == b"\0"
    assert encode([0], CLIP) == bytes([MODES])
    number = (1 + CLIP + CLIP**2 + (320 * CLIP + 1125) * CLIP + 539) * MODES
    assert encode([320, 1125, 539], CLIP) == number.to_bytes(6, "big")
    # {1, 1, 3}: behind the 1 + 300 + 300 * 301 / 2 shorter multisets, of rank C(1, 1) + C(2, 2) +
    # C(5, 3)
    assert encode([1, 1, 3], 300) == ((1 + 300 + 45150 + 12) * MODES + 1).to_bytes(3, "big")


def test_sixteen_ids():
    worst = [CLIP - 1] * 15 + [CLIP - 2]
    assert len(encode(worst, CLIP)) == 32
    assert len(encode(sorted(worst), CLIP)) == 27
    assert len(encode([2047] * 15 + [0], 2048)) == 23
    assert len(encode([1023] * 15 + [0], CLIP, range(1024))) == 21
    assert len(encode(list(range(1008, 1024)), CLIP, range(1024))) == 16


@pytest.mark.parametrize(("size", "words"), [(32, CLIP), (22, 1024), (1, 32), (2, 2048), (0, 32)])
@pytest.mark.parametrize("ascending", [False, True])
def test_most_ids(size, words, ascending):
    """As many of the costliest ids as fit, and one more does not."""
    most = most_ids(size, words, ascending)
    vocabulary = max(words, 2048)
    subset = range(words) if words < vocabulary else None

    def size_of(count):
        last = words - 1 if ascending else words - 2
        return len(encode([words - 1] * (count - 1) + [last], vocabulary, subset))

    assert not most or size_of(most) <= size
    assert size_of(most + 1) > size


def test_numpy_ids_do_not_overflow():
    ids = np.arange(40_000, 40_016)[::-1]
    assert decode(encode(ids, CLIP), CLIP) == ids.tolist()
    subset = np.arange(32768, 49152)
    assert decode(encode(ids, CLIP, subset), CLIP, subset) == ids.tolist()


@pytest.mark.parametrize(
    "ids", [[(i * 7919) % CLIP for i in range(256)], sorted((i * 7919) % CLIP for i in range(256))]
)
def test_the_longest_prompt(ids):
    assert decode(encode(ids, CLIP), CLIP) == ids


@pytest.mark.parametrize(
    ("ids", "subset", "message"),
    [
        ([CLIP], None, "id 49408 is outside"),
        ([0, -1], None, "id -1 is outside"),
        ([0] * 257, None, "257 ids: at most 256"),
        ([0], range(33), "subset of 33 different tokens"),
        ([0], [0] * 32, "subset of 1 different tokens"),
        ([0], range(CLIP - 16, CLIP + 16), "has ids from 49392 to 49423"),
    ],
)
def test_encode_refuses(ids, subset, message):
    with pytest.raises(TextError, match=message):
        encode(ids, CLIP, subset)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes: a prompt takes 1 to"),
        (bytes(65536), "65536 bytes: a prompt takes"),
        (b"\0\0", "in a form that is never written"),
        (b"\x01", "in a form that is never written"),
        ((MODES << 4700).to_bytes(600, "big"), "more than 256 ids"),
        (encode([1023, 0], CLIP, range(1024)), "subset of 1024 tokens; none is given"),
        (encode_text("a dog"), "hold a text, not ids"),
    ],
)
def test_decode_refuses(data, message):
    with pytest.raises(TextError, match=message):
        decode(data, CLIP)


def test_a_subset_of_another_size_is_refused():
    with pytest.raises(TextError, match=r"1024 tokens; one of 512 is given"):
        decode(encode([1023, 0], CLIP, range(1024)), CLIP, range(512))


def test_codings_are_named():
    assert str(coding(encode_text("x"))) == "a text in words"
    assert str(coding(encode([5, 3], CLIP))) == "ids"
    assert coding(encode([300, 500], CLIP)) == Coding(False, None, True)
    name = str(coding(encode([300, 500], CLIP, range(512))))
    assert name == "ids of the 512 most useful tokens, ascending"


@settings(max_examples=200)
@given(st.text(max_size=60) | st.text(st.characters(codec="ascii"), max_size=60))
@example("")
@example(" ")
@example("  two  spaces ")
@example("A red barn.  A BLUE iPhone, McDonald's\n\t\0")
@example("caf\u00e9 \u96ea\u5730 \U0001f415 \U0010ffff")
@example("x" * 300)
def test_any_text_round_trips(text):
    data = encode_text(text)
    assert decode_text(data) == text and coding(data).text


def test_the_longest_text():
    letters = "".join(chr(0x4E00 + i * 17 % 20000) for i in range(4096))
    assert decode_text(encode_text(letters)) == letters
    assert decode_text(encode_text("." * 4096)) == "." * 4096


def test_texts_that_are_refused():
    with pytest.raises(TextError, match="4097 characters: at most 4096"):
        encode_text("a" * 4097)
    with pytest.raises(TextError, match="character 3 of the text is half a surrogate pair"):
        encode_text("ab\ud800")
    with pytest.raises(TextError, match="hold ids, not a text"):
        decode_text(encode([1, 2], CLIP))


@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=40))
def test_any_bytes_are_a_text_or_refused(data):
    data = bytes([data[0] | 128]) + data[1:]
    try:
        text = decode_text(data)
    except TextError as error:
        assert "\n" not in str(error)
    else:
        assert encode_text(text) == data


@pytest.mark.parametrize(
    "data", [b"\xff" * 65535, b"\x80" + bytes(65534), bytes(range(128, 256)) * 500]
)
def test_long_nonsense_is_refused(data):
    with pytest.raises(TextError):
        decode_text(data)


def test_exact_bytes_of_texts():
    """Fails if the model or its arithmetic changes: old files would then mean other texts."""
    assert encode_text("a red barn under a stormy sky").hex() == "9ed8f268b83e0e50"
    assert encode_text("A Dog.").hex() == "c4c25e"
    assert encode_text("caf\u00e9").hex() == "800a098baa820d26"


def test_examples_of_the_format_page():
    page = (Path(__file__).parent.parent / "docs" / "bitstream.md").read_text(encoding="utf-8")
    for data, prompt in (
        (encode([320, 1125, 539], CLIP), "ids 320, 1125, 539 of 49,408"),
        (encode_text("a red barn under a stormy sky"), "the text `a red barn under a stormy sky`"),
    ):
        assert re.search(rf"^\| {re.escape(prompt)}.* \| `{data.hex(' ')}` \|$", page, re.MULTILINE)
    assert f"value * {MODES} + mode" in page


def test_captions_take_a_third_of_raw_deflate():
    for caption in CAPTIONS:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        deflated = len(deflate.compress(caption.encode()) + deflate.flush())
        assert len(encode_text(caption)) <= deflated / 3


def test_a_capital_and_a_full_stop_cost_a_byte():
    for caption in CAPTIONS:
        assert len(encode_text(caption.capitalize())) <= len(encode_text(caption)) + 1
    upper, lower = (encode_text(text) for text in (CAPTIONS[1].upper(), CAPTIONS[1]))
    assert len(upper) <= len(lower) + 3


def test_model_survives_its_file():
    model = load_model()
    again = model_from_bytes(model_to_bytes(model))
    assert again.words == model.words
    assert again.ngrams.levels == model.ngrams.levels
    assert again.letters.levels == model.letters.levels


def test_intervals_of_symbols_cover_the_total():
    """After any history every symbol has an interval, and totals stay below the coder's limit."""
    model = load_model()
    symbols = {word: symbol for symbol, word in enumerate(model.words)}
    histories = [
        [],
        [symbols[" a"]],
        [symbols[" a"], symbols[" red"]],
        [symbols[" in"], symbols[" front"]],
        [1, 2, 1],
    ]
    cases = [(model.ngrams, history) for history in histories]
    cases += [(model.letters, history) for history in ([], [1], [27] * 9)]
    for ngrams, history in cases:
        intervals = [ngrams.interval(history, symbol) for symbol in range(ngrams.symbols)]
        assert intervals[0][0] == 0 and sum(intervals[-1][:2]) == intervals[0][2] < 2**100
        assert all(a[0] + a[1] == b[0] and a[1] > 0 for a, b in pairwise(intervals))


def test_probable_words_have_larger_intervals():
    model = load_model()
    symbols = {word: symbol for symbol, word in enumerate(model.words)}
    history = [symbols[" in"], symbols[" front"]]
    of, the, dog = (
        model.ngrams.interval(history, symbols[word])[1] for word in (" of", " the", " dog")
    )
    assert of > 20 * the > 20 * dog


def test_nothing_is_loaded_for_ids(monkeypatch):
    monkeypatch.setattr("text_codec.words.load_model", lambda: pytest.fail("loaded"))
    assert decode(encode([5, 3], CLIP), CLIP) == [5, 3]
