"""Any bytes end in conditions or in a documented error, whatever they ask for. The long runs are in tests/long/."""

import contextlib
import dataclasses
import os
import random
import signal
import tracemalloc

import numpy as np
import pytest
import torch
from checkpoints import local_preset
from fuzz.streams import ERRORS, SIZES, TARGETS, WAYS, read, repaired, rings, spoiled, stream, well_formed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import bitstream
import codec
import pics
import text_codec
from bitstream import MAX_CODED_SIDE, BitstreamError
from codec import DecodeError, Decoder
from models_ntc.entropy import SketchError

QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


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
    """Multiplications and additions of torch's, which time and memory follow; whether it ends in an error or not."""
    with FlopCounterMode(display=False) as counter, contextlib.suppress(*ERRORS):
        work()
    return counter.get_total_flops()


def test_the_corpus_is_well_formed(decoder, corpus):
    assert {read(decoder, data) for data in corpus} == {"read"}
    assert len(set(corpus)) == len(corpus)


def test_every_kind_of_mutant_is_made(corpus):
    rng = random.Random(1)
    mutants = [spoiled(corpus, rng) for _ in range(300)]
    assert {(mutant.way, mutant.target) for mutant in mutants} == {(way, target) for way in WAYS for target in TARGETS}
    whole = [mutant.data for mutant in mutants if mutant.target != "file" and len(mutant.data) > 2]
    assert all(repaired(data) == data for data in whole)


@QUICK
@given(seed=st.integers(0, 2**32))
def test_mutants_of_streams(decoder, corpus, seed):
    read(decoder, spoiled(corpus, random.Random(seed)).data)


def test_the_inner_layers_are_reached(decoder, corpus):
    rng, ends = random.Random(2), set()
    while ends < {"read", "BitstreamError", "TextError", "SketchError", "ColourError", "DecodeError"}:
        ends.add(read(decoder, spoiled(corpus, rng).data))


@QUICK
@given(data=st.binary(max_size=200), begin=st.sampled_from([b"", b"\xb1\x10", b"\xb1\x20", b"\xb1\x30", b"\xb1\x3f"]))
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
        sketch = sketch_codec.decompress(data)
    except SketchError:
        return
    assert sketch.dtype == np.uint8 and sketch.ndim == 2


@QUICK
@given(seed=st.integers(0, 2**32), size=st.sampled_from(SIZES))
def test_a_mutant_read_has_the_promised_shape(decoder, corpus, seed, size):
    mutant = spoiled(corpus, random.Random(seed))
    if read(decoder, mutant.data) == "read":
        found = bitstream.unpack(mutant.data)
        ids, sketch, colour = decoder.conditions(found)
        assert sketch is None or sketch.shape == (found.height, found.width)
        assert colour is None or colour.shape == (found.height // 8, found.width // 8, 3)
        assert all(0 <= word < decoder.generator.vocabulary for word in ids)


@pytest.mark.parametrize("first", [0x00, 0x7F, 0x80, 0xFF])
def test_the_longest_prompts_end(first):
    data = bytes([first]) + random.Random(first).randbytes(bitstream.MAX_LAYER_BYTES - 1)
    with pytest.raises(text_codec.TextError):
        (text_codec.decode_text if first & 0x80 else lambda data: text_codec.decode(data, 49408))(data)


def test_words_without_letters_end(decoder):
    """The costliest prompt that is known: nothing but the sign for an unknown word, and no letters."""
    from text_codec.intervals import Writer
    from text_codec.words import UNKNOWN, load_model

    writer, model, history = Writer(), load_model(), []
    writer.put(1, 1, 2)
    while writer.bits < 8 * bitstream.MAX_LAYER_BYTES - 1000:
        writer.put(*model.ngrams.interval(history, UNKNOWN))
        writer.put(*model.letters.interval([], 0))
        history = [*history[-5:], UNKNOWN]
    assert read(decoder, bitstream.pack(stream(decoder, (64, 64), writer.bytes(), None, 0))) == "TextError"


def test_a_sketch_that_is_not_of_the_streams_size_costs_nothing(decoder, sketch_codec):
    large = sketch_codec.compress(rings(512, 512, 0))
    assert len(large) < 2000
    given = stream(decoder, (64, 64), None, large, 0)
    with pytest.raises((DecodeError, SketchError)):
        decoder.conditions(given)
    assert flops(lambda: decoder.conditions(given)) == 0


def test_a_small_stream_costs_little_whatever_its_sketch_holds(decoder, sketch_codec):
    honest = flops(lambda: sketch_codec.decompress(sketch_codec.compress(rings(64, 64, 0))))
    for seed in range(20):
        given = stream(decoder, (64, 64), None, random.Random(seed).randbytes(3000), 0)
        assert flops(lambda given=given: decoder.conditions(given)) <= honest


def test_a_coded_size_that_the_presets_encoder_never_writes_is_refused(decoder):
    for size in ((MAX_CODED_SIDE, MAX_CODED_SIDE), (2 * decoder.preset.short_side, MAX_CODED_SIDE)):
        with pytest.raises((BitstreamError, DecodeError), match=f"{size[1]}x{size[0]}"):
            decoder.conditions(stream(decoder, size, b"\0", None, 0))


def test_more_ids_than_are_drawn_are_refused(decoder):
    words, longest = decoder.generator.vocabulary, decoder.generator.longest_prompt
    fitting = stream(decoder, (64, 64), text_codec.encode([5] * longest, words), None, 0)
    assert len(decoder.conditions(fitting)[0]) == longest
    with pytest.raises(DecodeError, match=str(longest + 1)):
        decoder.conditions(dataclasses.replace(fitting, text=text_codec.encode([5] * (longest + 1), words)))


def test_a_folder_of_mutants(decoder, corpus, tmp_path, monkeypatch, capsys):
    """`pics.py decode` up to the drawing: every file is a picture or one line."""
    rng, folder = random.Random(4), tmp_path / "files"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.pics").write_bytes(spoiled(corpus, rng).data)
    for number, data in enumerate(corpus[:3]):
        (folder / f"whole{number}.pics").write_bytes(data)
    monkeypatch.setattr(pics, "Decoder", lambda *_: decoder)
    monkeypatch.setattr(pics, "writer", lambda stream: decoder.preset)
    drawn = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr(codec.Decoder, "draw", lambda *_: [drawn])
    assert pics.main(["decode", str(folder), str(tmp_path / "pictures")]) == 1
    lines = capsys.readouterr().err.splitlines()
    pictures = list((tmp_path / "pictures").iterdir())
    assert all(line.startswith("failed: ") for line in lines)
    assert len(lines) + len(pictures) == 43 and {"whole0.png", "whole1.png"} <= {path.name for path in pictures}


def test_a_large_file_is_not_read_to_its_end(tmp_path, capsys):
    with (tmp_path / "large.pics").open("wb") as file:
        file.truncate(2**25)
    tracemalloc.start()
    large = str(tmp_path / "large.pics")
    statuses = [pics.main(arguments) for arguments in (["info", large], ["decode", large, str(tmp_path / "out.png")])]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert statuses == [1, 1] and peak < 2**24 and "not a .pics file" in capsys.readouterr().err


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
