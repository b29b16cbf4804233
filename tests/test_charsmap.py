"""Character maps of tokenizers: whole ones work, damaged ones are refused before the library.

python -m pytest tests/test_charsmap.py
"""

import base64
import json
import random

import numpy as np
import pytest
from helpers.family_checkpoints import family_preset
from tokenizers.normalizers import Precompiled

from diffusion import load_generator
from pretrained.charsmap import check_charsmap

TRIE_BYTES = 4 * 5 * 256


def whole_map(key="ﬁ", text="fi"):
    """A map of one character of three bytes: a block of 256 units for each byte, and a leaf."""
    units = np.zeros(TRIE_BYTES // 4, "<u4")
    units[0] = 256 << 10
    block = 256
    for position, byte in enumerate(key.encode()):
        place = block ^ byte
        block += 256
        ends = position == len(key.encode()) - 1
        units[place] = byte | ends << 8 | (place ^ block) << 10
    units[block] = 1 << 31 | 1
    return TRIE_BYTES.to_bytes(4, "little") + units.tobytes() + b"\0" + text.encode() + b"\0"


def encoded(data):
    return base64.b64encode(data).decode()


def with_unit(place, value):
    data = bytearray(whole_map())
    data[4 + 4 * place : 8 + 4 * place] = value.to_bytes(4, "little")
    return encoded(bytes(data))


def test_a_whole_map_is_what_the_library_reads():
    check_charsmap(encoded(whole_map()))
    assert Precompiled(whole_map()).normalize_str("of ﬁre") == "of fire"


FIRST = 256 ^ "ﬁ".encode()[0]
BROKEN = {
    "no text": 7,
    "no base64": "????",
    "no map": None,
    "empty": "",
    "cut in the trie": encoded(whole_map()[:1000]),
    "cut in the texts": encoded(whole_map()[:-1]),
    "a size that is no multiple of 4": encoded(b"\x03\0\0\0abc\0"),
    "texts that are not UTF-8": encoded(whole_map()[:-1] + b"\xff\0"),
    "a unit that leads outside": with_unit(FIRST, 0xEF | (1 << 20) << 10),
    "a unit that leads far outside": with_unit(FIRST, 0xEF | 1 << 9 | ((1 << 20) << 10)),
    "a string without a leaf": with_unit(1024, 5),
    "a text that is not there": with_unit(1024, 1 << 31 | 1000),
    "a text in the middle of a character": encoded(
        whole_map(text="é").replace((1 << 31 | 1).to_bytes(4, "little"), b"\x02\0\0\x80")
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_map_is_refused(case):
    with pytest.raises(ValueError):
        check_charsmap(BROKEN[case])


def test_what_passes_never_ends_the_process():
    """Random damage of whole maps: what is not refused, the library can follow."""
    draw = random.Random(0)
    passed = 0
    for _ in range(300):
        data = bytearray(whole_map())
        for _ in range(draw.randrange(1, 3)):
            data[draw.randrange(4, len(data))] = draw.randrange(256)
        try:
            check_charsmap(encoded(bytes(data)))
        except ValueError:
            continue
        passed += 1
        normalizer = Precompiled(bytes(data))
        for text in ("of ﬁre", "ﬁ", "\uffff", "".join(map(chr, range(32, 400)))):
            normalizer.normalize_str(text)
    assert passed > 20


def test_a_local_model_with_the_map_in_its_tokenizer_draws(tmp_path):
    row = family_preset(tmp_path, "flux")
    file = tmp_path / "generator" / "tokenizer_2" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = {
        "type": "Precompiled",
        "precompiled_charsmap": encoded(whole_map()),
    }
    file.write_text(json.dumps(content))
    (image,) = load_generator(row, "cpu").generate("a ﬁre", [0], 64, 64)
    assert image.std() > 0
