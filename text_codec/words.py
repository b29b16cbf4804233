"""Any text <-> symbols of two n-gram models: words, and the letters of words that the first one does not know.

A text is cut into tokens, each with the space before it if there is one: runs of letters, and single other
characters. Everything above ASCII counts as a letter; no Unicode table is asked, for they differ between versions of
Python. Words are looked up in lower case and followed by how they are capitalised.
"""

import io
import re
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from . import ngrams
from .intervals import Reader, Writer
from .ngrams import NGrams

MODEL = Path(__file__).parent / "captions.bin"
MAX_CHARACTERS = 4096

TOKEN = re.compile(r" ?(?:[a-zA-Z\x80-\U0010ffff]+|.)", re.DOTALL)
OTHERS = [chr(code) for code in range(128) if not chr(code).isalpha()]  # single characters of ASCII
END, UNKNOWN, SPACE_UNKNOWN = 0, 1, 2
FIRST_WORDS = ["", "?word", " ?word", *OTHERS, *(" " + other for other in OTHERS)]  # symbols every model has

# Symbols of the model of letters: 0 the end, 1 to 26 a to z, 27 a byte of UTF-8 above 127, whose 7 bits follow.
BYTE = 27

# The ways to write a word that is known in lower case, and their shares of 1024 by what came before. Not trained, for
# the captions are all lower case: a lower-case text costs 0.3 bits for its first word and 0.03 for each other.
WAYS = LOWER, CAPITAL, UPPER, MIXED = range(4)
CAPITALS = {
    "start": (832, 176, 12, 4),
    "new sentence": (192, 816, 12, 4),  # in a text that began with a capital
    LOWER: (1000, 16, 4, 4),
    CAPITAL: (704, 296, 12, 12),
    UPPER: (256, 48, 704, 16),
    MIXED: (896, 96, 16, 16),
}


class TextError(ValueError):
    """Ids or a text that cannot be written, or bytes that hold none; one line says why."""


class Model(NamedTuple):
    """What `captions.bin` holds."""

    words: list[str]  # in lower case, with the space before; the first ones are FIRST_WORDS
    ngrams: NGrams  # of words
    letters: NGrams


@cache
def load_model() -> Model:
    """The model that ships with the project; it is part of the stream's version."""
    return model_from_bytes(MODEL.read_bytes())


@cache
def _symbols() -> dict[str, int]:
    return {word: symbol for symbol, word in enumerate(load_model().words)}


def model_to_bytes(model: Model) -> bytes:
    """The file of a model, deflated: its words but FIRST_WORDS, one a line, a zero byte, two blocks of n-grams."""
    words = "\n".join(model.words[len(FIRST_WORDS) :]).encode()
    return zlib.compress(words + b"\0" + ngrams.to_bytes(model.ngrams) + ngrams.to_bytes(model.letters), 9)


def model_from_bytes(data: bytes) -> Model:
    """The inverse of `model_to_bytes`."""
    words, _, blocks = zlib.decompress(data).partition(b"\0")
    file = io.BytesIO(blocks)
    return Model([*FIRST_WORDS, *words.decode().split("\n")], ngrams.read(file), ngrams.read(file))


def tokens(text: str) -> list[str]:
    """The tokens of a text; put together they are the text with a space before it, for no text none."""
    return TOKEN.findall(" " + text) if text else []


def put_text(text: str, writer: Writer) -> None:
    """Write a text, its end included."""
    model, history, capitals = load_model(), [], _Capitals()
    for token in tokens(text):
        word = _lower(token)
        symbol = _symbols().get(word, SPACE_UNKNOWN if word[0] == " " else UNKNOWN)
        writer.put(*model.ngrams.interval(history, symbol))
        history.append(symbol)
        if symbol in (UNKNOWN, SPACE_UNKNOWN):
            _put_letters(word.lstrip(" "), writer)
        if _has_case(word):
            way = next(way for way in WAYS if way == MIXED or _capitalise(word, way) == token)
            writer.put(*capitals.interval(way))
            capitals.after(way)
            if way == MIXED:
                for letter in filter(_has_case, token):
                    writer.put(int(letter != _lower(letter)), 1, 2)
        capitals.after_token(token)
    writer.put(*model.ngrams.interval(history, END))


def read_text(reader: Reader) -> str:
    """The inverse of `put_text`. Raises TextError for more than MAX_CHARACTERS, or letters that are no UTF-8."""
    model, text, history, capitals = load_model(), "", [], _Capitals()
    while (symbol := model.ngrams.read(history, reader)) != END:
        history.append(symbol)
        token = model.words[symbol]
        if symbol in (UNKNOWN, SPACE_UNKNOWN):
            token = " " * (symbol == SPACE_UNKNOWN) + _read_letters(reader)
        if _has_case(token):
            way = capitals.read(reader)
            capitals.after(way)
            token = _read_mixed(token, reader) if way == MIXED else _capitalise(token, way)
        capitals.after_token(token)
        text += token
        if len(text) > MAX_CHARACTERS + 1:
            raise TextError(f"these bytes hold a text of more than {MAX_CHARACTERS} characters")
    return text[1:]


class _Capitals:
    """What is known of the capitals in a text so far."""

    def __init__(self):
        self.before, self.sentences = "start", False  # a key of CAPITALS; whether the text began with a capital

    def interval(self, way: int) -> tuple[int, int, int]:
        shares = CAPITALS[self.before]
        return sum(shares[:way]), shares[way], sum(shares)

    def read(self, reader: Reader) -> int:
        slot = reader.slot(sum(CAPITALS[self.before]))
        way = next(way for way in WAYS if slot < sum(CAPITALS[self.before][: way + 1]))
        reader.take(*self.interval(way))
        return way

    def after(self, way: int) -> None:
        if self.before == "start":
            self.sentences = way == CAPITAL
        begins = self.before in ("start", "new sentence")
        self.before = LOWER if begins and way == CAPITAL else way

    def after_token(self, token: str) -> None:
        if self.sentences and token.strip() in (".", "!", "?"):
            self.before = "new sentence"


def _lower(text: str) -> str:
    return text.encode().lower().decode()  # bytes know the letters of ASCII only


def _has_case(text: str) -> bool:
    return any(letter.isascii() and letter.isalpha() for letter in text)


def _capitalise(word: str, way: int) -> str:
    """A lower-case word, perhaps with a space before it, in one of the ways LOWER, CAPITAL and UPPER."""
    letters = len(word) if way == UPPER else len(word) - len(word.lstrip(" ")) + (way == CAPITAL)
    return word[:letters].encode().upper().decode() + word[letters:]


def _read_mixed(word: str, reader: Reader) -> str:
    def letter(lower: str) -> str:
        if not _has_case(lower):
            return lower
        upper = reader.slot(2)
        reader.take(upper, 1, 2)
        return _capitalise(lower, UPPER) if upper else lower

    return "".join(map(letter, word))


def letter_symbols(word: str) -> list[int]:
    """The symbols of the model of letters for a lower-case word: 1 to 26, BYTE for each byte above 127."""
    return [byte - 96 if byte < 128 else BYTE for byte in word.encode()]


def _put_letters(word: str, writer: Writer) -> None:
    letters, history = load_model().letters, []
    for symbol, byte in zip(letter_symbols(word), word.encode(), strict=True):
        writer.put(*letters.interval(history, symbol))
        history.append(symbol)
        if symbol == BYTE:
            writer.put(byte - 128, 1, 128)
    writer.put(*letters.interval(history, END))


def _read_letters(reader: Reader) -> str:
    letters, symbols, word = load_model().letters, [], bytearray()
    while (symbol := letters.read(symbols, reader)) != END:
        symbols.append(symbol)
        byte = symbol + 96
        if symbol == BYTE:
            byte = 128 + reader.slot(128)
            reader.take(byte - 128, 1, 128)
        word.append(byte)
        if len(word) > 4 * MAX_CHARACTERS:
            raise TextError(f"these bytes hold a word of more than {MAX_CHARACTERS} characters")
    try:
        return word.decode()
    except UnicodeDecodeError as error:
        raise TextError("these bytes hold a word that is no UTF-8") from error
