"""Any bytes end in conditions or in a documented error, whatever they ask for.

    python -m pytest tests/test_fuzz.py

The long runs are in tests/long/ and tests/fuzz/.
"""

import contextlib
import dataclasses
import os
import random
import signal
import tracemalloc

import numpy as np
import pytest
import torch
from fuzz.streams import (
    ERRORS,
    SIZES,
    TARGETS,
    WAYS,
    read,
    repaired,
    rings,
    spoiled,
    stream,
    well_formed,
)
from helpers.checkpoints import local_preset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import bitstream
import codec
import pics
import text_codec
from bitstream import MAX_CODED_SIDE, BitstreamError
from codec import DecodeError, Decoder
from common.arithmetic_coder import Writer
from models_ntc.entropy import SketchError
from text_codec.words import UNKNOWN, load_model

QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    torch.set_num_threads(1)
    return Decoder(local_preset(tmp_path_factory.mktemp("models"), "tiny"))


@pytest.fixture(scope="module")
def corpus(decoder):
    return well_formed(decoder)


@pytest.fixture(scope="module")
def sketch_codec(decoder):
    return decoder.sketch_codec


def flops(work):
    """Count torch's multiplications and additions, which time and memory follow."""
    with FlopCounterMode(display=False) as counter, contextlib.suppress(*ERRORS):
        work()
    return counter.get_total_flops()


def test_the_corpus_is_well_formed(decoder, corpus):
    assert {read(decoder, data) for data in corpus} == {"read"}
    assert len(set(corpus)) == len(corpus)


def test_every_kind_of_mutant_is_made(corpus):
    rng = random.Random(1)
    mutants = [spoiled(corpus, rng) for _ in range(300)]
    made = {(mutant.way, mutant.target) for mutant in mutants}
    assert made == {(way, target) for way in WAYS for target in TARGETS}
    whole = [mutant.data for mutant in mutants if mutant.target != "file" and len(mutant.data) > 2]
    assert all(repaired(data) == data for data in whole)


@QUICK
@given(seed=st.integers(0, 2**32))
def test_mutants_of_streams(decoder, corpus, seed):
    read(decoder, spoiled(corpus, random.Random(seed)).data)


def test_the_inner_layers_are_reached(decoder, corpus):
    rng, ends = random.Random(2), set()
    all_ends = {"read", *(error.__name__ for error in ERRORS)}
    while ends < all_ends:
        ends.add(read(decoder, spoiled(corpus, rng).data))


@QUICK
@given(
    data=st.binary(max_size=200),
    begin=st.sampled_from([b"", b"\xb1\x10", b"\xb1\x20", b"\xb1\x30", b"\xb1\x3f"]),
)
def test_any_bytes_as_a_file(decoder, data, begin):
    assert read(decoder, begin + data) != "read" or repaired(begin + data) == begin + data
    read(decoder, repaired(begin + data + b"\0\0"))


@QUICK
@given(data=st.binary(min_size=1, max_size=300))
def test_any_bytes_as_a_prompt(decoder, data):
    read(decoder, bitstream.pack(stream(decoder, (64, 64), data, None, 0)))


@QUICK
@given(data=st.binary(min_size=1, max_size=300))
def test_any_bytes_as_a_sketch(sketch_codec, data):
    try:
        sketch = sketch_codec.decode(data)
    except SketchError:
        return
    assert sketch.dtype == np.uint8 and sketch.ndim == 2


@QUICK
@given(seed=st.integers(0, 2**32), size=st.sampled_from(SIZES))
def test_a_mutant_read_has_the_promised_shape(decoder, corpus, seed, size):
    mutant = spoiled(corpus, random.Random(seed))
    if read(decoder, mutant.data) == "read":
        found = bitstream.unpack(mutant.data)
        prompt, sketch, color = decoder.conditions(found)
        assert sketch is None or sketch.shape == (found.height, found.width)
        scale = 8 if found.base is None else 1
        assert color is None or color.shape == (found.height // scale, found.width // scale, 3)
        assert all(0 <= token_id < len(decoder.generator.tokenizer) for token_id in prompt.ids)


@pytest.mark.parametrize("first", [0x00, 0x7F, 0x80, 0xFF])
def test_the_longest_prompts_end(first):
    data = bytes([first]) + random.Random(first).randbytes(bitstream.MAX_LAYER_BYTES - 1)
    with pytest.raises(text_codec.TextError):
        if text_codec.coding(data).text:
            text_codec.decode_text(data)
        else:
            text_codec.decode(data, 49408)


def test_words_without_letters_end(decoder):
    """The costliest prompt that is known: nothing but unknown words, which have no letters."""
    writer, model, history = Writer(), load_model(), []
    writer.put(1, 1, 2)
    while writer.bits < 8 * bitstream.MAX_LAYER_BYTES - 1000:
        writer.put(*model.ngrams.interval(history, UNKNOWN))
        writer.put(*model.letters.interval([], 0))
        history = [*history[-5:], UNKNOWN]
    data = bitstream.pack(stream(decoder, (64, 64), writer.bytes(), None, 0))
    assert read(decoder, data) == "TextError"


def test_a_sketch_that_is_not_of_the_streams_size_costs_nothing(decoder, sketch_codec):
    large = sketch_codec.encode(rings(512, 512, 0))
    assert len(large) < 2000
    given = stream(decoder, (64, 64), None, large, 0)
    with pytest.raises((DecodeError, SketchError)):
        decoder.conditions(given)
    assert flops(lambda: decoder.conditions(given)) == 0


def test_a_small_stream_costs_little_whatever_its_sketch_holds(decoder, sketch_codec):
    honest = flops(lambda: sketch_codec.decode(sketch_codec.encode(rings(64, 64, 0))))
    for seed in range(20):
        given = stream(decoder, (64, 64), None, random.Random(seed).randbytes(3000), 0)
        assert flops(lambda given=given: decoder.conditions(given)) <= honest


def test_a_coded_size_that_the_presets_encoder_never_writes_is_refused(decoder):
    for size in ((MAX_CODED_SIDE, MAX_CODED_SIDE), (2 * decoder.preset.short_side, MAX_CODED_SIDE)):
        with pytest.raises((BitstreamError, DecodeError), match=f"{size[1]}x{size[0]}"):
            decoder.conditions(stream(decoder, size, b"\0", None, 0))


def test_more_ids_than_the_generator_takes_are_refused(decoder):
    words, longest = len(decoder.generator.tokenizer), decoder.generator.longest_prompt
    fitting = stream(decoder, (64, 64), text_codec.encode([5] * longest, words), None, 0)
    assert len(decoder.conditions(fitting).prompt.ids) == longest
    text = text_codec.encode([5] * (longest + 1), words)
    with pytest.raises(DecodeError, match=str(longest + 1)):
        decoder.conditions(dataclasses.replace(fitting, text=text))


def test_a_folder_of_mutants(decoder, corpus, tmp_path, monkeypatch, capsys):
    """`pics.py decode` with a stub of a generator: every file gives an image or one line."""
    rng, folder = random.Random(4), tmp_path / "files"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.pics").write_bytes(spoiled(corpus, rng).data)
    for number, data in enumerate(corpus[:3]):
        (folder / f"whole{number}.pics").write_bytes(data)
    monkeypatch.setattr(codec, "Decoder", lambda *_: decoder)
    monkeypatch.setattr(pics, "writer", lambda stream: decoder.preset)
    image = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr(decoder, "generate", lambda *_: [image])
    argv = ["decode", str(folder), str(tmp_path / "pictures"), "--device", "cpu"]
    assert pics.main(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    pictures = list((tmp_path / "pictures").glob("*.png"))
    assert all(line.startswith("failed: ") for line in lines)
    assert len(lines) + len(pictures) == 43
    assert {"whole0.png", "whole1.png"} <= {path.name for path in pictures}


def test_a_large_file_is_not_read_to_its_end(tmp_path, capsys):
    with (tmp_path / "large.pics").open("wb") as file:
        file.truncate(2**25)
    tracemalloc.start()
    large = str(tmp_path / "large.pics")
    assert pics.main(["info", large]) == 1
    assert pics.main(["decode", large, str(tmp_path / "out.png")]) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    assert capsys.readouterr().err.count("not a .pics file") == 2


class WaitedError(Exception):
    """Reading did not end."""


def test_a_pipe_does_not_hang(tmp_path, capsys):
    def give_up(*_):
        raise WaitedError

    os.mkfifo(tmp_path / "pipe.pics")
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        assert pics.main(["decode", str(tmp_path), str(tmp_path / "out")]) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert "pipe.pics: not a file" in capsys.readouterr().err
