"""Encoder and decoder together, on small random models of the real classes."""

import dataclasses
import gc
import math

import numpy as np
import pytest
import skimage.data
import torch
from checkpoints import local_preset

import bitstream
import colour_codec
import dataloaders
import text_codec
from bitstream import BitstreamError
from codec import DecodeError, Decoder, Encoder, EncoderConfig, preset_of
from metrics.networks import UnavailableError
from presets import PRESETS, PresetError

QUICK = {"annotator": "canny", "short_side": 192, "prompt_len": 4, "prompt_steps": 4, "candidates": 2}


@pytest.fixture(scope="module", params=["tiny", "sd21", "sd15"])
def row(request, tmp_path_factory):
    return local_preset(tmp_path_factory.mktemp(request.param), request.param, **QUICK)


@pytest.fixture(scope="module")
def encoder(row):
    return Encoder(row, EncoderConfig())


@pytest.fixture(scope="module")
def images():
    return [dataloaders.resize(photo, 192) for photo in (skimage.data.astronaut(), skimage.data.coffee())]


@pytest.fixture(scope="module")
def encoded(encoder, images):
    return encoder.encode_all(images, [(512, 512), (400, 600)])


def test_garbage_is_collected_once_models_are_loaded(row):
    Decoder(row)
    assert gc.isenabled()
    with pytest.raises(PresetError):
        Encoder(dataclasses.replace(row, clip=("/nowhere",)), EncoderConfig())
    assert gc.isenabled()


def test_the_budget_of_the_search_is_the_configurations(row):
    asked = EncoderConfig(sketch=False, prompt_steps=7, prompt_seconds=2.5, prompt_patience=3, prompt_restarts=2)
    search = Encoder(row, asked).search
    assert (search.steps, search.seconds, search.patience, search.restarts) == (7, 2.5, 3, 2)
    plain = Encoder(row, EncoderConfig(sketch=False)).search
    assert (plain.steps, plain.seconds, plain.patience, plain.restarts) == (row.prompt_steps, math.inf, math.inf, 1)


def test_stream_says_what_was_encoded(encoder, encoded, images):
    for one, image, source in zip(encoded, images, [(512, 512), (400, 600)], strict=True):
        stream = bitstream.unpack(one.data)
        assert (stream.height, stream.width) == image.shape[:2]
        assert (stream.source_height, stream.source_width) == source
        assert encoder.decoder.conditions(stream)[0] == one.prompt and len(one.prompt) == 4
        assert stream.seed == int(np.argmax(one.scores)) and len(one.scores) == 2
        assert stream.fingerprint >> 12 == encoder.preset.number
        assert sum(bitstream.layer_sizes(stream).values()) == len(one.data)


def test_a_new_decoder_draws_what_the_encoder_chose(row, encoder, encoded, images):
    decoder = Decoder(row)
    for one, image in zip(encoded, images, strict=True):
        decoded = decoder.decode(one.data)
        stream = decoded.stream
        conditions = decoder.conditions(stream)
        chosen = encoder.decoder.draw([conditions] * 2, [0, 1], *image.shape[:2])[stream.seed]
        assert np.abs(decoded.image.astype(int) - chosen.astype(int)).max() <= 1
        assert decoded.prompt == one.prompt
        assert decoded.sketch.shape == image.shape[:2] and decoded.image.shape == image.shape


def test_same_bytes_again_and_alone(row, encoded, images):
    again = Encoder(row, EncoderConfig()).encode(images, [(512, 512), (400, 600)])
    assert again == [one.data for one in encoded]
    assert Encoder(row, EncoderConfig()).encode(images[1:], [(400, 600)]) == again[1:]


def test_pic_has_no_sketch_and_needs_no_controlnet(row, images):
    without = dataclasses.replace(row, controlnet=("/nowhere",))
    encoder = Encoder(without, EncoderConfig(sketch=False, color_bytes=0))
    data = encoder.encode(images[:1])[0]
    decoded = Decoder(without).decode(data)
    assert decoded.sketch is None and decoded.stream.sketch is None and decoded.colour is None
    assert len(data) <= 11 + 2 * 4


def test_ms_ssim_chooses_the_most_similar(row, images):
    encoder = Encoder(row, EncoderConfig(loss="ms-ssim", candidates=3))
    one = encoder.encode_all(images[:1])[0]
    stream = bitstream.unpack(one.data)
    assert len(one.scores) == 3 and stream.seed == int(np.argmax(one.scores))


def test_one_candidate_is_not_drawn(row, images, monkeypatch):
    encoder = Encoder(row, EncoderConfig(candidates=1))
    monkeypatch.setattr(encoder.decoder, "draw", lambda *_: pytest.fail("drawn"))
    one = encoder.encode_all(images[:1])[0]
    assert one.scores == () and bitstream.unpack(one.data).seed == 0


def test_other_models_are_refused_by_name(row, encoder, encoded):
    stream = bitstream.unpack(encoded[0].data)
    foreign = bitstream.pack(dataclasses.replace(stream, fingerprint=stream.fingerprint ^ 1))
    with pytest.raises(DecodeError, match=f"other weights of preset {preset_of(stream)}"):
        encoder.decoder.decode(foreign)
    elsewhere = bitstream.pack(dataclasses.replace(stream, fingerprint=stream.fingerprint ^ 3 << 12))
    with pytest.raises(DecodeError, match="--preset"):
        encoder.decoder.decode(elsewhere)
    forced = encoder.decoder.decode(elsewhere, force=True)
    assert forced.prompt == encoded[0].prompt


def test_changed_weights_change_the_fingerprint(row, encoder):
    assert Decoder(dataclasses.replace(row, steps=row.steps + 1)).fingerprint(True, True) != encoder.fingerprint
    assert Decoder(row).fingerprint(True) != Decoder(row).fingerprint(False)


@pytest.mark.parametrize("sketch", [True, False])
def test_the_colour_layer_is_sent_and_drawn_from(row, images, sketch):
    encoder = Encoder(row, EncoderConfig(sketch=sketch, color_bytes=60, candidates=1))
    plain = Encoder(row, EncoderConfig(sketch=sketch, color_bytes=0, candidates=1)).encode_all(images[:1])[0]
    one = encoder.encode_all(images[:1])[0]
    decoded, size = Decoder(row).decode(one.data), images[0].shape[:2]
    payload = decoded.stream.colour
    assert 30 <= len(payload) <= 60 and bitstream.unpack(plain.data).colour is None
    assert np.array_equal(decoded.colour, colour_codec.decode(payload, *size))
    assert decoded.colour.shape == (size[0] // 8, size[1] // 8, 3)
    assert np.abs(decoded.image.astype(int) - Decoder(row).decode(plain.data).image).mean() > 0.1


def test_colours_can_be_dropped_beside_a_sketch(row, images):
    stream = bitstream.unpack(Encoder(row, EncoderConfig(color_bytes=60, candidates=1)).encode(images[:1])[0])
    dropped = bitstream.pack(dataclasses.replace(stream, colour=None))
    plain = Encoder(row, EncoderConfig(color_bytes=0, candidates=1)).encode(images[:1])[0]
    assert dropped == plain
    assert Decoder(row).decode(dropped).colour is None


def test_sketch_of_another_size_is_refused(encoder, encoded):
    stream = bitstream.unpack(encoded[0].data)
    with pytest.raises(DecodeError, match="coded size is 256x192"):
        encoder.decoder.decode(bitstream.pack(dataclasses.replace(stream, width=256)))


def test_damaged_streams_are_named(encoder, encoded):
    data = encoded[0].data
    for broken in (data[:-1], data[:5], b"", bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(BitstreamError):
            encoder.decoder.decode(broken)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_conditions_do_not_depend_on_the_dtype_that_draws(encoder, encoded, monkeypatch, dtype):
    stream, decoder = bitstream.unpack(encoded[0].data), encoder.decoder
    ids, sketch, _ = decoder.conditions(stream)
    monkeypatch.setattr(decoder.generator, "dtype", dtype)
    again = decoder.conditions(stream)
    assert again.prompt == ids and np.array_equal(again.sketch, sketch)


def test_models_that_do_not_fit_are_refused(row, tmp_path):
    from checkpoints import make_tokenizer

    other = local_preset(tmp_path / "other", row.name, **QUICK)
    make_tokenizer(tmp_path / "other" / "generator" / "tokenizer", vocabulary=580)
    with pytest.raises(PresetError, match="same tokenizer"):
        Encoder(dataclasses.replace(row, generator=other.generator), EncoderConfig())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return local_preset(tmp_path_factory.mktemp("small"), "tiny", **QUICK)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "taste"}, "unknown loss 'taste': choose one of clip, ms-ssim, lpips"),
        ({"prompt_from": "afar"}, "unknown source of prompts 'afar': choose one of search, caption"),
        ({"prompt_bits": 12}, "no sub-vocabulary of 12 bits in 600 words"),
        ({"prompt_bits": 4}, "no sub-vocabulary of 4 bits"),
        ({"prompt_bytes": 1}, "a prompt of 1 bytes holds no id of 600 words"),
    ],
)
def test_bad_configurations_are_refused(small, config, message):
    with pytest.raises(ValueError, match=message):
        Encoder(small, EncoderConfig(sketch=False, **config))


def test_lpips_chooses_the_nearest(small, images, monkeypatch):
    distance = {0: 0.3, 1: 0.1, 2: 0.2}
    monkeypatch.setattr("metrics.networks.load_lpips", lambda device: lambda image, picture: distance[picture[0, 0, 0]])
    encoder = Encoder(small, EncoderConfig(sketch=False, loss="lpips", candidates=3, prompt="a"))
    draw = lambda each, seeds, height, width: [np.full((height, width, 3), seed) for seed in seeds]  # noqa: E731
    monkeypatch.setattr(encoder.decoder, "draw", draw)
    one = encoder.encode_all(images[:1])[0]
    assert one.scores == (-0.3, -0.1, -0.2) and bitstream.unpack(one.data).seed == 1


def test_lpips_without_its_weights_says_what_is_missing(small, monkeypatch):
    def missing(url):
        raise UnavailableError(f"{url} cannot be fetched")

    monkeypatch.setattr("metrics.networks.fetch_checkpoint", missing)
    with pytest.raises(PresetError, match=r"the loss lpips cannot be had: .*alexnet.* cannot be fetched") as caught:
        Encoder(small, EncoderConfig(loss="lpips"))
    assert "\n" not in str(caught.value)


def test_candidates_of_one_size_share_batches(small, images, monkeypatch):
    config = EncoderConfig(candidates=3, together=6)
    encoder, sizes = Encoder(small, config), []
    draw = encoder.decoder.draw

    def recorded(each, seeds, *rest):
        sizes.append(len(seeds))
        return draw(each, seeds, *rest)

    monkeypatch.setattr(encoder.decoder, "draw", recorded)
    square, wide = images[0], images[1]
    batch = [square, wide, square[::-1], square[:, ::-1]]
    together = encoder.encode_all(batch)
    assert sorted(sizes) == [3, 3, 6]
    alone = [encoder.encode_all([image])[0] for image in batch]
    assert [one.data for one in together] == [one.data for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-3)


def test_a_text_is_sent_in_words_and_drawn_from_its_ids(small, images):
    encoder = Encoder(small, EncoderConfig(prompt="A red barn, snow"))
    one = encoder.encode_all(images[:1])[0]
    decoded = Decoder(small).decode(one.data)
    assert text_codec.decode_text(decoded.stream.text) == decoded.text == "A red barn, snow"
    ids = encoder.decoder.generator.tokenizer("A red barn, snow", add_special_tokens=False).input_ids
    assert decoded.prompt == one.prompt == tuple(ids)
    conditions = encoder.decoder.conditions(decoded.stream)
    drawn = encoder.decoder.draw([conditions], [decoded.stream.seed], *images[0].shape[:2])[0]
    assert np.abs(decoded.image.astype(int) - drawn.astype(int)).max() <= 1
    assert -1 <= one.cosine <= 1


def test_a_text_too_long_is_cut_with_a_warning(small, images, caplog):
    encoder = Encoder(small, EncoderConfig(prompt="snow " * 60, sketch=False, candidates=1))
    one = encoder.encode_all(images)[1]
    longest = encoder.decoder.generator.longest_prompt
    assert len(one.prompt) == longest == 30
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: a prompt of {len(encoder.decoder.tokenize('snow ' * 60))} tokens: the first 30 are drawn, "
        "the rest is only sent"
    ]
    assert Decoder(small).conditions(bitstream.unpack(one.data))[0] == one.prompt


def test_an_empty_text(small, images):
    data = Encoder(small, EncoderConfig(prompt="", candidates=1, sketch=False)).encode(images[:1])[0]
    decoded = Decoder(small).decode(data)
    assert decoded.prompt == () and decoded.text == ""


def test_ids_that_read_as_words_are_sent_in_words(small):
    encoder = Encoder(small, EncoderConfig(sketch=False))
    decoder, words = encoder.decoder, "two dogs play in the snow"
    ids = decoder.tokenize(words)
    assert text_codec.coding(encoder._shortest(ids)).text
    assert decoder._ids(encoder._shortest(ids)) == ids
    broken = tuple(reversed(decoder.tokenize("barn")))  # letters that the tokenizer would put together
    payload = encoder._shortest(broken)
    assert not text_codec.coding(payload).text and decoder._ids(payload) == broken


def test_a_prompt_within_bytes(small, images):
    config = EncoderConfig(sketch=False, candidates=1, prompt_bytes=6, prompt_bits=7, prompt_ascending=True)
    one = Encoder(small, config).encode_all(images[:1])[0]
    stream = bitstream.unpack(one.data)
    assert len(one.prompt) == text_codec.most_ids(6, 128, ascending=True) >= 7
    assert list(one.prompt) == sorted(one.prompt) and len(stream.text) <= 6
    assert Decoder(small).conditions(stream)[0] == one.prompt


def test_every_number_names_one_preset():
    numbers = [row.number for row in PRESETS.values()]
    assert len(set(numbers)) == len(numbers) and 0 not in numbers
