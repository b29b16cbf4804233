"""The useful tokens of CLIP's own vocabulary: part of the file format, the same at both ends.

python -m pytest tests/test_useful_words.py
"""

import gzip
import hashlib

import pytest
from helpers.checkpoints import local_preset, make_tokenizer
from transformers import CLIPTokenizer

from codec import DecodeError, Decoder, Encoder, EncoderConfig
from common.files import ROOT
from dataloaders import resize
from prompt_inversion import useful_words
from prompt_inversion.options import PromptOptions
from prompt_inversion.useful_words import ranking_of_words
from text_codec import coding
from text_codec.prompt import PromptCodec
from text_codec.vocabulary import (
    CLIP_VOCABULARY,
    clip_words,
    is_ranked,
    is_searched,
    name_of,
    token_subset,
)

TRUE_VOCABULARY = ROOT.parent / "shared" / "hub"  # CLIP's tokenizer, not in this repository
WORDS = [f"{first}{second}" for first in "edcba" for second in "aeioubcd"]  # of make_tokenizer's


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def ranked(folder, monkeypatch):
    """A tokenizer in CLIP's layout whose words are ranked as those of CLIP's vocabulary are."""
    return rank(monkeypatch, folder, WORDS)


def rank(monkeypatch, folder, words):
    """A tokenizer of its own, whose order is not remembered, and the list of its useful words."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    monkeypatch.setattr("text_codec.vocabulary.CLIP_VOCABULARY", name_of(tokenizer))
    monkeypatch.setattr("text_codec.vocabulary.clip_words", lambda: words)
    return tokenizer


def ids_of(tokenizer, words):
    return tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words])


# ---- the format


def test_the_words_come_first_in_their_order(ranked):
    assert is_ranked(ranked) and not is_searched(ranked)
    assert token_subset(ranked, 5) == sorted(ids_of(ranked, WORDS[:32]))
    assert set(ids_of(ranked, WORDS)) < set(token_subset(ranked, 6))


def test_exact_bytes_of_useful_words(ranked):
    """Fails if the mapping of ids to indices changes: old files would then mean other words."""
    codec = PromptCodec(ranked, max_tokens=75)
    ids = ids_of(ranked, ["da", "ea", "bd", "ea"])
    payload = codec.encode_ids(ids)
    assert payload.hex() == "00e7448c"
    assert codec.decode(payload).ids == tuple(ids)
    assert coding(payload).bits == 5
    digest = "3be9b72a87fcdcd59786aa77c8c6a4739c64702b932a3ffdca2a85f6e3bf2fa4"
    assert codec.digest.hex() == digest


def test_the_digest_names_the_list(ranked, folder, monkeypatch):
    """So a decoder with another list, or with none, refuses the file instead of misreading it."""
    digests = [PromptCodec(ranked, 75).digest]
    monkeypatch.undo()
    digests.append(PromptCodec(CLIPTokenizer.from_pretrained(folder), 75).digest)
    other = rank(monkeypatch, folder, [*WORDS[:31], "ah", *WORDS[31:]])
    digests.append(PromptCodec(other, 75).digest)
    assert len(set(digests)) == 3


def test_files_with_useful_words_need_the_same_list(tmp_path, monkeypatch, photo):
    row = local_preset(tmp_path, "sd21", short_side=64, prompt_len=4, prompt_steps=4, candidates=1)
    words = rank(monkeypatch, tmp_path / "clip", WORDS)
    asked = EncoderConfig(sketch=False, prompt=PromptOptions(bits=5))
    (data,) = Encoder(row, asked).encode([photo])
    decoder = Decoder(row)
    assert set(decoder.decode(data).conditions.prompt.ids) <= set(token_subset(words, 5))
    assert decoder.decode(data).conditions.prompt.coding.bits == 5
    rank(monkeypatch, tmp_path / "clip", WORDS[::-1])
    with pytest.raises(DecodeError, match="other weights of preset sd21"):
        Decoder(row).decode(data)


@pytest.fixture
def photo():
    import skimage.data

    return resize(skimage.data.astronaut(), 64)


def test_the_flag_is_refused_until_a_ranking_fits(tmp_path):
    row = local_preset(tmp_path, "sd21", prompt_len=4, prompt_steps=4)
    message = "--prompt_bits 5: which of this CLIP's 600 tokens are useful is not known; rank them"
    with pytest.raises(ValueError, match=message) as caught:
        Encoder(row, EncoderConfig(sketch=False, prompt=PromptOptions(bits=5)))
    assert "\n" not in str(caught.value)
    Encoder(row, EncoderConfig(sketch=False, prompt=PromptOptions(bits=0)))


# ---- CLIP's own


def test_the_list_never_changes():
    """Files depend on it: their fingerprint, and the ids of 2^K useful tokens."""
    words = clip_words()
    assert len(words) == len(set(words)) == 4096
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert words[:6] == ["brown", "man", "gray", "two", "being", "woman"]
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()
    assert digest == "b587ab93cc5b547e0fae48fc2dedc80e99ccb3d073484e7d5ded08109123ded5"


@pytest.mark.skipif(not TRUE_VOCABULARY.exists(), reason="CLIP's tokenizer is not on this machine")
def test_the_list_is_of_clips_vocabulary():
    tokenizer = CLIPTokenizer.from_pretrained(TRUE_VOCABULARY)
    assert name_of(tokenizer) == CLIP_VOCABULARY
    subset = token_subset(tokenizer, 8)
    assert sorted(subset) == sorted(ids_of(tokenizer, clip_words()[:256]))
    digest = hashlib.sha256(repr(subset).encode()).hexdigest()
    assert digest == "51bf81c82c6a7cf727e9630a73490a0e4fbaed8936de78296e37ee9e680b7d5c"
    ids = ids_of(tokenizer, ["brown", "dog", "grass"])
    assert PromptCodec(tokenizer, 75).decode(PromptCodec(tokenizer, 75).encode_ids(ids)).ids == (
        tuple(ids)
    )


# ---- how it is made


def test_words_are_taken_in_turn_from_searches_and_captions():
    captions = ["A dog and a cat", "the dog on grass", "a dog in grass", "a cat x"]
    vocabulary = {f"{word}</w>" for word in ("dog", "cat", "grass", "red", "a", "x", "and")}
    words = ranking_of_words(captions, ["grass", "emu", "red"], vocabulary)
    assert words == ["grass", "dog", "cat", "red"]


def captions_file(path, *captions):
    path.write_bytes(gzip.compress("\n".join(captions).encode()))
    return str(path)


def test_a_list_is_written_once(folder, tmp_path, monkeypatch, capsys):
    name = name_of(CLIPTokenizer.from_pretrained(folder))
    monkeypatch.setattr(useful_words, "CLIP_VOCABULARY", name)
    monkeypatch.setattr(useful_words, "CLIP_WORDS", tmp_path / "words.txt")
    argv = ["--captions", captions_file(tmp_path / "captions.gz", "ea da", "ea")]
    argv += ["--clip", str(folder)]
    assert useful_words.main(argv) == 0
    assert (tmp_path / "words.txt").read_text() == "ea\nda\n"
    captions_file(tmp_path / "captions.gz", "da")
    assert useful_words.main(argv) == 0
    assert (tmp_path / "words.txt").read_text() == "ea\nda\n"
    assert "it stays" in capsys.readouterr().err


def test_a_list_is_of_no_other_vocabulary(folder, tmp_path, capsys):
    captions = captions_file(tmp_path / "captions.gz", "ea")
    assert useful_words.main(["--captions", captions, "--clip", str(folder)]) == 1
    assert capsys.readouterr().err == (f"error: {folder} has another vocabulary than CLIP's own\n")
