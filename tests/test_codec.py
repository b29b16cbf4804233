"""Encoder and decoder together, on small random models of the real classes."""

import dataclasses

import numpy as np
import pytest
import skimage.data
from checkpoints import local_preset

import bitstream
import dataloaders
import text_codec
from bitstream import BitstreamError
from codec import DecodeError, Decoder, Encoder, EncoderConfig, preset_of
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


def test_stream_says_what_was_encoded(encoder, encoded, images):
    for one, image, source in zip(encoded, images, [(512, 512), (400, 600)], strict=True):
        stream = bitstream.unpack(one.data)
        assert (stream.height, stream.width) == image.shape[:2]
        assert (stream.source_height, stream.source_width) == source
        assert tuple(text_codec.decode(stream.text, encoder.clip.vocabulary)) == one.prompt
        assert stream.seed == int(np.argmax(one.scores)) and len(one.scores) == 2
        assert stream.fingerprint >> 12 == encoder.preset.number
        assert sum(bitstream.layer_sizes(stream).values()) == len(one.data)


def test_a_new_decoder_draws_what_the_encoder_chose(row, encoder, encoded, images):
    decoder = Decoder(row)
    for one, image in zip(encoded, images, strict=True):
        decoded = decoder.decode(one.data)
        stream = decoded.stream
        chosen = encoder.decoder.draw(one.prompt, [0, 1], *image.shape[:2], decoded.sketch)[stream.seed]
        assert np.abs(decoded.image.astype(int) - chosen.astype(int)).max() <= 1
        assert decoded.prompt == one.prompt
        assert decoded.sketch.shape == image.shape[:2] and decoded.image.shape == image.shape


def test_same_bytes_again_and_alone(row, encoded, images):
    again = Encoder(row, EncoderConfig()).encode(images, [(512, 512), (400, 600)])
    assert again == [one.data for one in encoded]
    assert Encoder(row, EncoderConfig()).encode(images[1:], [(400, 600)]) == again[1:]


def test_pic_has_no_sketch_and_needs_no_controlnet(row, images):
    without = dataclasses.replace(row, controlnet=("/nowhere",))
    encoder = Encoder(without, EncoderConfig(sketch=False))
    data = encoder.encode(images[:1])[0]
    decoded = Decoder(without).decode(data)
    assert decoded.sketch is None and decoded.stream.sketch is None
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
    assert Decoder(dataclasses.replace(row, steps=row.steps + 1)).fingerprint(1.0) != encoder.fingerprint
    assert Decoder(row).fingerprint(1.0) != Decoder(row).fingerprint(None)


def test_sketch_of_another_size_is_refused(encoder, encoded):
    stream = bitstream.unpack(encoded[0].data)
    with pytest.raises(DecodeError, match="coded size is 256x192"):
        encoder.decoder.decode(bitstream.pack(dataclasses.replace(stream, width=256)))


def test_damaged_streams_are_named(encoder, encoded):
    data = encoded[0].data
    for broken in (data[:-1], data[:5], b"", bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(BitstreamError):
            encoder.decoder.decode(broken)


def test_models_that_do_not_fit_are_refused(row, tmp_path):
    from checkpoints import make_tokenizer

    other = local_preset(tmp_path / "other", row.name, **QUICK)
    make_tokenizer(tmp_path / "other" / "generator" / "tokenizer", vocabulary=580)
    with pytest.raises(PresetError, match="same tokenizer"):
        Encoder(dataclasses.replace(row, generator=other.generator), EncoderConfig())


def test_unknown_loss_is_refused(row):
    with pytest.raises(ValueError, match="unknown loss 'lpips'"):
        Encoder(row, EncoderConfig(loss="lpips"))


def test_every_number_names_one_preset():
    numbers = [row.number for row in PRESETS.values()]
    assert len(set(numbers)) == len(numbers) and 0 not in numbers
