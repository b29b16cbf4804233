"""Encoder and decoder together, on small random models of the real classes.

python -m pytest tests/test_codec.py
"""

import dataclasses
import gc
import math

import numpy as np
import pytest
import skimage.data
import torch
from helpers.checkpoints import local_preset, make_tokenizer

import bitstream
import color_codec
import dataloaders
import text_codec
from bitstream import BitstreamError
from codec import DecodeError, Decoder, Encoder, EncoderConfig
from common.weights import UnavailableError
from models_ntc import load_base_codec
from models_ntc.bundled import BASE_FROM, StreamLayers
from presets import PRESETS, PresetError, writer_of
from prompt_inversion.options import PromptOptions

QUICK = {
    "annotator": "canny",
    "short_side": 192,
    "prompt_len": 4,
    "prompt_steps": 4,
    "candidates": 2,
    "candidates_with_base": 2,
}


@pytest.fixture(scope="module", params=["tiny", "sd21", "sd15"])
def row(request, tmp_path_factory):
    return local_preset(tmp_path_factory.mktemp(request.param), request.param, **QUICK)


@pytest.fixture(scope="module")
def encoder(row):
    return Encoder(row, EncoderConfig())


@pytest.fixture(scope="module")
def images():
    originals = (skimage.data.astronaut(), skimage.data.coffee())
    return [dataloaders.resize(image, 192) for image in originals]


@pytest.fixture(scope="module")
def encoded(encoder, images):
    return encoder.encode_all(images, [(512, 512), (400, 600)])


def test_garbage_is_collected_once_models_are_loaded(row):
    Decoder(row)
    assert gc.isenabled()
    with pytest.raises(UnavailableError):
        Encoder(dataclasses.replace(row, clip=("/nowhere",)), EncoderConfig())
    assert gc.isenabled()


def test_the_budget_of_the_search_is_the_configurations(row):
    asked = EncoderConfig(sketch=False, prompt=PromptOptions(steps=7, seconds=2.5, seed=3))
    search = Encoder(row, asked).prompter.search
    assert (search.steps, search.seconds, search.seed) == (7, 2.5, 3)
    plain = Encoder(row, EncoderConfig(sketch=False)).prompter.search
    assert (plain.steps, plain.seconds, plain.seed) == (row.prompt_steps, math.inf, 0)


def test_stream_says_what_was_encoded(encoder, encoded, images):
    for one, image, source in zip(encoded, images, [(512, 512), (400, 600)], strict=True):
        stream = bitstream.unpack(one.data)
        assert (stream.height, stream.width) == image.shape[:2]
        assert (stream.source_height, stream.source_width) == source
        assert encoder.decoder.conditions(stream).prompt.ids == one.prompt
        assert len(one.prompt) == 4
        assert stream.seed == int(np.argmax(one.scores)) and len(one.scores) == 2
        assert stream.fingerprint >> 12 == encoder.preset.number
        assert sum(bitstream.layer_sizes(stream).values()) == len(one.data)


def test_a_new_decoder_generates_what_the_encoder_chose(row, encoder, encoded, images):
    decoder = Decoder(row)
    for one, image in zip(encoded, images, strict=True):
        decoded = decoder.decode(one.data)
        stream = decoded.stream
        conditions = decoder.conditions(stream)
        candidates = encoder.decoder.generate([conditions] * 2, [0, 1], *image.shape[:2])
        chosen = candidates[stream.seed]
        assert np.abs(decoded.image.astype(int) - chosen.astype(int)).max() <= 1
        assert decoded.image.shape == image.shape
        assert decoded.conditions.prompt.ids == one.prompt
        assert decoded.conditions.sketch.shape == image.shape[:2]


def test_same_bytes_again_and_alone(row, encoded, images):
    again = Encoder(row, EncoderConfig()).encode(images, [(512, 512), (400, 600)])
    assert again == [one.data for one in encoded]
    assert Encoder(row, EncoderConfig()).encode(images[1:], [(400, 600)]) == again[1:]


def test_pic_has_no_sketch_and_needs_no_controlnet(row, images):
    without = dataclasses.replace(row, controlnet=("/nowhere",))
    encoder = Encoder(without, EncoderConfig(sketch=False, color_bytes=0))
    data = encoder.encode(images[:1])[0]
    decoded = Decoder(without).decode(data)
    assert decoded.stream.sketch is None and decoded.stream.color is None
    assert decoded.conditions.sketch is None and decoded.conditions.color is None
    assert len(data) <= 11 + 2 * 4


def test_ms_ssim_chooses_the_most_similar(row, images):
    encoder = Encoder(row, EncoderConfig(loss="ms-ssim", candidates=3))
    one = encoder.encode_all(images[:1])[0]
    stream = bitstream.unpack(one.data)
    assert len(one.scores) == 3 and stream.seed == int(np.argmax(one.scores))


@pytest.mark.parametrize(
    ("chosen", "scores"), [({}, 0), ({"candidates": 3}, 3), ({"loss": "ms-ssim"}, 2)]
)
def test_clip_does_not_choose_among_reconstructions_of_a_base(small, images, chosen, scores):
    row = dataclasses.replace(small, candidates=2, candidates_with_base=1)
    one = Encoder(row, EncoderConfig(color_bytes=300, **chosen)).encode_all(images[:1])[0]
    assert bitstream.unpack(one.data).base is not None
    assert len(one.scores) == scores


def with_generate(encoder, generate):
    """Let an encoder's candidates come from another function."""
    encoder.chooser = dataclasses.replace(encoder.chooser, generate=generate)


def test_one_candidate_is_not_generated(row, images):
    encoder = Encoder(row, EncoderConfig(candidates=1))
    with_generate(encoder, lambda *_: pytest.fail("generated"))
    one = encoder.encode_all(images[:1])[0]
    assert one.scores == () and bitstream.unpack(one.data).seed == 0


def test_other_models_are_refused_by_name(row, encoder, encoded):
    stream = bitstream.unpack(encoded[0].data)
    writer = writer_of(stream.fingerprint)
    foreign = bitstream.pack(dataclasses.replace(stream, fingerprint=stream.fingerprint ^ 1))
    with pytest.raises(DecodeError, match=f"other weights of preset {writer}"):
        encoder.decoder.decode(foreign)
    other_number = stream.fingerprint ^ 3 << 12
    elsewhere = bitstream.pack(dataclasses.replace(stream, fingerprint=other_number))
    with pytest.raises(DecodeError, match="--preset"):
        encoder.decoder.decode(elsewhere)
    forced = encoder.decoder.decode(elsewhere, force=True)
    assert forced.conditions.prompt.ids == encoded[0].prompt


def test_the_annotator_is_no_part_of_the_fingerprint(row, encoder):
    """A decoder never draws a sketch: sd21's files decode whichever HED made theirs."""
    other = Decoder(dataclasses.replace(row, annotator="hed"))
    network = encoder.decoder.sketch_codec.network
    colors = 0 < encoder.color_bytes < BASE_FROM, encoder.color_bytes >= BASE_FROM
    layers = StreamLayers(network, *colors)
    assert other.fingerprint(layers) == encoder.fingerprint


def test_changed_weights_change_the_fingerprint(row, encoder):
    changed = Decoder(dataclasses.replace(row, steps=row.steps + 1))
    assert changed.fingerprint(StreamLayers(2, True)) != Decoder(row).fingerprint(
        StreamLayers(2, True)
    )
    assert Decoder(row).fingerprint(StreamLayers(2)) != Decoder(row).fingerprint(StreamLayers())


@pytest.mark.parametrize("sketch", [True, False])
def test_the_color_layer_is_sent_and_generated_from(row, images, sketch):
    one, plain = (
        Encoder(row, EncoderConfig(sketch=sketch, color_bytes=count, candidates=1)).encode_all(
            images[:1]
        )[0]
        for count in (60, 0)
    )
    decoded, size = Decoder(row).decode(one.data), images[0].shape[:2]
    payload = decoded.stream.color
    assert 30 <= len(payload) <= 60 and bitstream.unpack(plain.data).color is None
    assert np.array_equal(decoded.conditions.color, color_codec.decode(payload, *size))
    assert decoded.conditions.color.shape == (size[0] // 8, size[1] // 8, 3)
    assert np.abs(decoded.image.astype(int) - Decoder(row).decode(plain.data).image).mean() > 0.1


def test_colors_can_be_dropped_beside_a_sketch(row, images):
    colored, plain = (
        Encoder(row, EncoderConfig(color_bytes=count, candidates=1)).encode(images[:1])[0]
        for count in (60, 0)
    )
    dropped = bitstream.pack(dataclasses.replace(bitstream.unpack(colored), color=None))
    assert dropped == plain
    assert Decoder(row).decode(dropped).conditions.color is None


@pytest.mark.parametrize("sketch", [True, False])
def test_a_base_is_sent_and_generated_from(row, images, sketch):
    config = EncoderConfig(sketch=sketch, color_bytes=300, candidates=1)
    encoder, size = Encoder(row, config), images[0].shape[:2]
    data = encoder.encode(images[:1])[0]
    decoder = Decoder(row)
    decoded = decoder.decode(data)
    payload = decoded.stream.base
    assert decoded.stream.color is None and 200 < len(payload) <= 300
    assert decoded.stream.fingerprint == encoder.fingerprint
    base = decoded.conditions.color
    assert base.shape == images[0].shape
    assert np.array_equal(base, load_base_codec().decode(payload, *size))
    conditions = decoded.conditions
    other = conditions._replace(color=np.ascontiguousarray(base[:, ::-1]))
    again, changed = decoder.generate([conditions, other], [decoded.stream.seed] * 2, *size)
    assert np.abs(again.astype(int) - decoded.image).max() <= 1
    assert np.abs(changed.astype(int) - decoded.image).mean() > 0.1


def test_a_base_can_be_dropped_beside_a_sketch(small, images):
    data = Encoder(small, EncoderConfig(color_bytes=300, candidates=1)).encode(images[:1])[0]
    stream = bitstream.unpack(data)
    decoded = Decoder(small).decode(bitstream.pack(dataclasses.replace(stream, base=None)))
    assert decoded.conditions.color is None and decoded.conditions.sketch is not None
    other = dataclasses.replace(stream, base=None, fingerprint=stream.fingerprint ^ 1)
    with pytest.raises(DecodeError, match="other weights"):
        Decoder(small).decode(bitstream.pack(other))


def test_a_map_is_sent_where_no_base_fits(small):
    squares = np.random.default_rng(0).integers(0, 256, (12, 64, 3), np.uint8)
    busy = squares.repeat(16, 0).repeat(16, 1)
    encoder = Encoder(small, EncoderConfig(color_bytes=BASE_FROM, candidates=1))
    stream = bitstream.unpack(encoder.encode([busy])[0])
    assert stream.base is None and len(stream.color) <= BASE_FROM
    assert encoder.decoder.conditions(stream).color.shape == (24, 128, 3)


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
def test_conditions_do_not_depend_on_the_dtype_of_the_generator(
    encoder, encoded, monkeypatch, dtype
):
    stream, decoder = bitstream.unpack(encoded[0].data), encoder.decoder
    prompt, sketch, _ = decoder.conditions(stream)
    monkeypatch.setattr(decoder.generator, "dtype", dtype)
    again = decoder.conditions(stream)
    assert again.prompt == prompt and np.array_equal(again.sketch, sketch)


def test_models_that_do_not_fit_are_refused(row, tmp_path):
    other = local_preset(tmp_path / "other", row.name, **QUICK)
    make_tokenizer(tmp_path / "other" / "generator" / "tokenizer", vocab_size=580)
    with pytest.raises(PresetError, match="same tokenizer"):
        Encoder(dataclasses.replace(row, generator=other.generator), EncoderConfig())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return local_preset(tmp_path_factory.mktemp("small"), "tiny", **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "afar"}, "unknown source of prompts 'afar': choose one of search, caption"),
        ({"bits": 12}, r"a subset of 2\^12 tokens: there are \d+ printable tokens"),
        ({"bits": 4}, r"no subset of 2\^4 tokens: choose 5 to 16 bits, or 0 for all"),
        ({"size": 1}, "a prompt of 1 bytes is too small for one token of"),
    ],
)
def test_bad_prompt_options_are_refused(small, options, message):
    with pytest.raises(ValueError, match=message):
        Encoder(small, EncoderConfig(sketch=False, prompt=PromptOptions(**options)))


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="unknown loss 'taste': choose one of clip, ms-ssim, lp"):
        EncoderConfig(loss="taste")
    with pytest.raises(ValueError, match="color_bytes is 1: it must be 0, or 8 to 2,000"):
        EncoderConfig(color_bytes=1)


def test_lpips_chooses_the_nearest(small, images, monkeypatch):
    distance = {0: 0.3, 1: 0.1, 2: 0.2}
    monkeypatch.setattr(
        "metrics.networks.load_lpips",
        lambda device: lambda image, picture: distance[picture[0, 0, 0]],
    )
    config = EncoderConfig(sketch=False, loss="lpips", candidates=3, prompt=PromptOptions(text="a"))
    encoder = Encoder(small, config)

    def generate(each, seeds, height, width):
        return [np.full((height, width, 3), seed) for seed in seeds]

    with_generate(encoder, generate)
    one = encoder.encode_all(images[:1])[0]
    assert one.scores == (-0.3, -0.1, -0.2) and bitstream.unpack(one.data).seed == 1


def test_lpips_without_its_weights_says_what_is_missing(small, monkeypatch):
    def missing(url):
        raise UnavailableError(f"{url} cannot be fetched")

    monkeypatch.setattr("metrics.networks.fetch_checkpoint", missing)
    with pytest.raises(UnavailableError, match=r"alexnet.* cannot be fetched") as caught:
        Encoder(small, EncoderConfig(loss="lpips"))
    assert "\n" not in str(caught.value)


def test_candidates_of_one_size_share_batches(small, images):
    config = EncoderConfig(candidates=3, together=6)
    encoder, sizes = Encoder(small, config), []

    def recorded(each, seeds, *rest):
        sizes.append(len(seeds))
        return encoder.decoder.generate(each, seeds, *rest)

    with_generate(encoder, recorded)
    square, wide = images[0], images[1]
    batch = [square, wide, square[::-1], square[:, ::-1]]
    together = encoder.encode_all(batch)
    assert sorted(sizes) == [3, 3, 6]
    alone = [encoder.encode_all([image])[0] for image in batch]
    assert [one.data for one in together] == [one.data for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-3)


def test_a_text_is_sent_in_words_and_generated_from_its_ids(small, images):
    encoder = Encoder(small, EncoderConfig(prompt=PromptOptions(text="A red barn, snow")))
    one = encoder.encode_all(images[:1])[0]
    decoded = Decoder(small).decode(one.data)
    prompt = decoded.conditions.prompt
    assert text_codec.decode_text(decoded.stream.text) == prompt.text == "A red barn, snow"
    tokenizer = encoder.decoder.generator.tokenizer
    ids = tokenizer("A red barn, snow", add_special_tokens=False).input_ids
    assert prompt.ids == one.prompt == tuple(ids)
    conditions, seeds = [encoder.decoder.conditions(decoded.stream)], [decoded.stream.seed]
    again = encoder.decoder.generate(conditions, seeds, *images[0].shape[:2])[0]
    assert np.abs(decoded.image.astype(int) - again.astype(int)).max() <= 1
    assert -1 <= one.cosine <= 1


def test_a_text_too_long_is_cut_with_a_warning(small, images, caplog):
    prompt = PromptOptions(text="snow " * 60)
    encoder = Encoder(small, EncoderConfig(prompt=prompt, sketch=False, candidates=1))
    one = encoder.encode_all(images)[1]
    longest = encoder.decoder.generator.longest_prompt
    assert len(one.prompt) == longest == 30
    count = len(encoder.decoder.prompt_codec.tokenize("snow " * 60))
    warning = f"warning: a prompt of {count} tokens: only the first 30 are used"
    assert [record.getMessage() for record in caplog.records] == [warning]
    conditions = Decoder(small).conditions(bitstream.unpack(one.data))
    assert conditions.prompt.ids == one.prompt
    assert conditions.prompt.text == "snow " * 60


def test_a_text_is_sent_cleaned(small, images):
    """Curly quotes and broken encodings cost bytes and are no words of the tokenizer."""
    prompt = PromptOptions(text="a caf\u00c3\u00a9 \u201ccup\u201d")
    config = EncoderConfig(prompt=prompt, candidates=1, sketch=False)
    data = Encoder(small, config).encode(images[:1])[0]
    assert Decoder(small).decode(data).conditions.prompt.text == 'a caf\u00e9 "cup"'


def test_an_empty_text(small, images):
    config = EncoderConfig(prompt=PromptOptions(text=""), candidates=1, sketch=False)
    data = Encoder(small, config).encode(images[:1])[0]
    prompt = Decoder(small).decode(data).conditions.prompt
    assert prompt.ids == () and prompt.text == ""


def test_ids_that_read_as_words_are_sent_in_words(small):
    codec = Decoder(small).prompt_codec
    ids = codec.tokenize("two dogs play in the snow")
    payload = codec.encode_ids(ids)
    assert text_codec.coding(payload).text
    assert codec.decode(payload).ids == ids
    broken = codec.tokenize("barn")[::-1]  # letters that the tokenizer would put together
    payload = codec.encode_ids(broken)
    assert not text_codec.coding(payload).text
    assert codec.decode(payload).ids == broken


def test_a_prompt_within_bytes(small, images, monkeypatch):
    monkeypatch.setattr("prompt_inversion.rate.is_ranked", lambda tokenizer: True)
    prompt = PromptOptions(size=6, bits=7, ascending=True)
    config = EncoderConfig(sketch=False, candidates=1, prompt=prompt)
    one = Encoder(small, config).encode_all(images[:1])[0]
    stream = bitstream.unpack(one.data)
    assert len(one.prompt) == text_codec.most_ids(6, 128, ascending=True) >= 7
    assert list(one.prompt) == sorted(one.prompt) and len(stream.text) <= 6
    assert Decoder(small).conditions(stream).prompt.ids == one.prompt


def test_a_prompt_of_two_bytes_with_the_bundled_models(images):
    """Two bytes hold no token of all 2,048, but one of the most useful ones."""
    prompt = PromptOptions(size=2, steps=2)
    encoder = Encoder(PRESETS["tiny"], EncoderConfig(sketch=False, candidates=1, prompt=prompt))
    one = encoder.encode_all(images[:1])[0]
    stream = bitstream.unpack(one.data)
    assert len(one.prompt) == 1 and len(stream.text) <= 2
    assert encoder.decoder.conditions(stream).prompt.ids == one.prompt


def test_every_number_names_one_preset():
    numbers = [row.number for row in PRESETS.values()]
    assert len(set(numbers)) == len(numbers) and 0 not in numbers
