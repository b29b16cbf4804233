"""Text <-> symbols of two n-gram models: of words, and of letters for words not in the first one.

    python -c "from text_codec.words import tokens; print(tokens('A red barn, 2 dogs.'))"

A text is cut into the tokens of this model: runs of letters, and single other characters, each with
the space before it if there is one. Everything above ASCII counts as a letter, for Unicode tables
differ between versions of Python. A word is coded in lower case, followed by how it is capitalized.
"""

import io
import re
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from common.arithmetic_coder import Reader, Writer
from text_codec import ngrams
from text_codec.ngrams import NGrams

MODEL = Path(__file__).parent / "captions.bin"
MAX_CHARACTERS = 4096

TOKEN = re.compile(r" ?(?:[a-zA-Z\x80-\U0010ffff]+|.)", re.DOTALL)

# Symbols of the model of words; those of FIRST_WORDS are the same in every model.
END = 0
UNKNOWN = 1  # a word that is then spelled
SPACE_UNKNOWN = 2  # the same, with a space before it
OTHERS = [chr(code) for code in range(128) if not chr(code).isalpha()]  # single characters of ASCII
FIRST_WORDS = ["", "?word", " ?word", *OTHERS, *(" " + other for other in OTHERS)]

# Symbols of the model of letters: 0 is the end, 1 to 26 are a to z, 27 is a byte of UTF-8 above
# 127, whose low 7 bits follow.
BYTE = 27

# How a word that is coded in lower case is capitalized.
CASES = LOWER, CAPITAL, UPPER, MIXED = range(4)
START = "start"
NEW_SENTENCE = "new sentence"

# Frequencies of the cases, out of their sum, by what came before. They are not trained, for the
# captions are all lower case: a lower-case text costs 0.3 bits for its first word and 0.03 for each
# other.
CASE_FREQUENCIES = {
    START: (832, 176, 12, 4),
    NEW_SENTENCE: (192, 816, 12, 4),  # in a text that began with a capital
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
    letters: NGrams  # n-grams of letters


@cache
def load_model() -> Model:
    """Return the bundled model; it is part of the stream's version."""
    return model_from_bytes(MODEL.read_bytes())


@cache
def _symbols() -> dict[str, int]:
    return {word: symbol for symbol, word in enumerate(load_model().words)}


def model_to_bytes(model: Model) -> bytes:
    """Return the file of a model.

    Deflated: the words after FIRST_WORDS, one a line, a zero byte, two blocks of n-grams.
    """
    words = "\n".join(model.words[len(FIRST_WORDS) :]).encode()
    blocks = ngrams.to_bytes(model.ngrams) + ngrams.to_bytes(model.letters)
    return zlib.compress(words + b"\0" + blocks, 9)


def model_from_bytes(data: bytes) -> Model:
    """Return the model of a file that `model_to_bytes` made."""
    words, _, blocks = zlib.decompress(data).partition(b"\0")
    file = io.BytesIO(blocks)
    word_ngrams = ngrams.from_file(file)
    letter_ngrams = ngrams.from_file(file)
    return Model([*FIRST_WORDS, *words.decode().split("\n")], word_ngrams, letter_ngrams)


def tokens(text: str) -> list[str]:
    """Return the tokens of a text: joined they are a space and the text; an empty text has none."""
    if not text:
        return []
    return TOKEN.findall(" " + text)


def put_text(text: str, writer: Writer) -> None:
    """Write a text and its end."""
    model = load_model()
    history: list[int] = []
    capitals = _Capitals()
    for token in tokens(text):
        word = _lower(token)
        symbol = _symbol(word)
        writer.put(*model.ngrams.interval(history, symbol))
        history.append(symbol)
        if symbol in (UNKNOWN, SPACE_UNKNOWN):
            _put_letters(word.lstrip(" "), writer)
        if _has_case(word):
            _put_case(token, capitals, writer)
        capitals.after_token(token)
    writer.put(*model.ngrams.interval(history, END))


def read_text(reader: Reader) -> str:
    """Read a text and its end.

    Raises TextError for more than MAX_CHARACTERS, or for letters that are not UTF-8.
    """
    model = load_model()
    text = ""
    history: list[int] = []
    capitals = _Capitals()
    while True:
        symbol = model.ngrams.read(history, reader)
        if symbol == END:
            return text[1:]
        history.append(symbol)
        token = model.words[symbol]
        if symbol == UNKNOWN:
            token = _read_letters(reader)
        if symbol == SPACE_UNKNOWN:
            token = " " + _read_letters(reader)
        if _has_case(token):
            token = _read_case(token, capitals, reader)
        capitals.after_token(token)
        text += token
        if len(text) > MAX_CHARACTERS + 1:
            raise TextError(f"these bytes hold a text of more than {MAX_CHARACTERS} characters")


def _symbol(word: str) -> int:
    unknown = SPACE_UNKNOWN if word[0] == " " else UNKNOWN
    return _symbols().get(word, unknown)


class _Capitals:
    """What is known of the capitals in a text so far."""

    def __init__(self):
        self.before = START  # a key of CASE_FREQUENCIES
        self.sentences = False  # whether the text began with a capital

    def interval(self, case: int) -> tuple[int, int, int]:
        """Return (start, frequency, total) of a case of the next word."""
        frequencies = CASE_FREQUENCIES[self.before]
        return sum(frequencies[:case]), frequencies[case], sum(frequencies)

    def read(self, reader: Reader) -> int:
        """Read the case of the next word."""
        frequencies = CASE_FREQUENCIES[self.before]
        slot = reader.slot(sum(frequencies))
        case = LOWER
        while slot >= sum(frequencies[: case + 1]):
            case += 1
        reader.take(*self.interval(case))
        return case

    def after(self, case: int) -> None:
        """Note the case of a word."""
        if self.before == START:
            self.sentences = case == CAPITAL
        # A capital at the beginning of a sentence says nothing about the next word.
        begins = self.before in (START, NEW_SENTENCE)
        self.before = LOWER if begins and case == CAPITAL else case

    def after_token(self, token: str) -> None:
        """Note a token, which may end a sentence."""
        if self.sentences and token.strip() in (".", "!", "?"):
            self.before = NEW_SENTENCE


def _put_case(token: str, capitals: _Capitals, writer: Writer) -> None:
    """Write how a token is capitalized; of a mixed one, a bit for each letter of ASCII."""
    case = _case_of(token)
    writer.put(*capitals.interval(case))
    capitals.after(case)
    if case == MIXED:
        for letter in filter(_has_case, token):
            writer.put(int(letter != _lower(letter)), 1, 2)


def _read_case(word: str, capitals: _Capitals, reader: Reader) -> str:
    """Read how a lower-case word is capitalized, and return it so."""
    case = capitals.read(reader)
    capitals.after(case)
    if case == MIXED:
        return _read_mixed(word, reader)
    return _capitalize(word, case)


def _read_mixed(word: str, reader: Reader) -> str:
    letters = []
    for lower in word:
        letter = lower
        if _has_case(lower):
            upper = reader.slot(2)
            reader.take(upper, 1, 2)
            if upper:
                letter = _upper(lower)
        letters.append(letter)
    return "".join(letters)


def _case_of(token: str) -> int:
    word = _lower(token)
    for case in (LOWER, CAPITAL, UPPER):
        if _capitalize(word, case) == token:
            return case
    return MIXED


def _capitalize(word: str, case: int) -> str:
    """Return a lower-case word, perhaps with a space before it, in LOWER, CAPITAL or UPPER case."""
    if case == LOWER:
        return word
    if case == UPPER:
        return _upper(word)
    first_end = len(word) - len(word.lstrip(" ")) + 1
    return _upper(word[:first_end]) + word[first_end:]


# Bytes know the letters of ASCII only.
def _lower(text: str) -> str:
    return text.encode().lower().decode()


def _upper(text: str) -> str:
    return text.encode().upper().decode()


def _has_case(text: str) -> bool:
    return any(letter.isascii() and letter.isalpha() for letter in text)


def letter_symbols(word: str) -> list[int]:
    """Return the symbols of the model of letters for a lower-case word, without the end.

    They are 1 to 26 for a to z, and BYTE for each byte of UTF-8 above 127.
    """
    return [byte - 96 if byte < 128 else BYTE for byte in word.encode()]


def _put_letters(word: str, writer: Writer) -> None:
    letters = load_model().letters
    history: list[int] = []
    for symbol, byte in zip(letter_symbols(word), word.encode(), strict=True):
        writer.put(*letters.interval(history, symbol))
        history.append(symbol)
        if symbol == BYTE:
            writer.put(byte - 128, 1, 128)
    writer.put(*letters.interval(history, END))


def _read_letters(reader: Reader) -> str:
    """Read a lower-case word. Raises TextError if it is too long, or not UTF-8."""
    letters = load_model().letters
    history: list[int] = []
    word = bytearray()
    while True:
        symbol = letters.read(history, reader)
        if symbol == END:
            break
        history.append(symbol)
        word.append(_read_byte(symbol, reader))
        if len(word) > 4 * MAX_CHARACTERS:
            raise TextError(f"these bytes hold a word of more than {MAX_CHARACTERS} characters")
    try:
        return word.decode()
    except UnicodeDecodeError as error:
        raise TextError("these bytes hold a word that is no UTF-8") from error


def _read_byte(symbol: int, reader: Reader) -> int:
    if symbol != BYTE:
        return symbol + 96
    low_bits = reader.slot(128)
    reader.take(low_bits, 1, 128)
    return 128 + low_bits
