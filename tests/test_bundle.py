"""The bundled models: whole, small, and drawing what they are told."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitstream
import dataloaders
from annotator import load_annotator
from codec import Conditions, Decoder, Encoder, EncoderConfig
from metrics import edge_f1, psnr
from presets import BUNDLE, get_preset

ROOT = Path(__file__).parent.parent
KODAK = ROOT.parent / "shared" / "data" / "kodak"
EXAMPLES = ROOT / "recon_examples" / "examples"


@pytest.fixture(scope="module")
def samples():
    return dataloaders.load_samples(None, None, 256)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(get_preset("tiny"), EncoderConfig(candidates=1, prompt_steps=30))


@pytest.fixture(scope="module")
def encoded(encoder, samples):
    chosen = [samples[samples.names.index(name)] for name in ("rocket", "coffee", "flower")]
    return encoder.encode_all([sample.image for sample in chosen])


@pytest.fixture(scope="module")
def decoded(encoder, encoded):
    return [encoder.decoder.decode(one.data) for one in encoded]


def test_weights_are_safetensors_and_fit():
    weights = [p for p in ROOT.rglob("*.safetensors") if not {".venv", "runs"} & set(p.relative_to(ROOT).parts)]
    assert sum(path.stat().st_size for path in weights) < 60e6
    assert not [p for p in BUNDLE.rglob("*.json") if '"_name_or_path": "/' in p.read_text(encoding="utf-8")]
    assert not [p for pattern in ("*.pt", "*.pth", "*.bin", "*.ckpt") for p in BUNDLE.rglob(pattern)]
    assert json.loads((BUNDLE / "generator" / "model_index.json").read_text())["unet"][1] == "UNet2DConditionModel"


def test_files_are_small_and_whole(encoded, encoder):
    for one in encoded:
        assert len(one.data) < 600
        assert bitstream.layer_sizes(bitstream.unpack(one.data))["text"] <= 23
        assert bitstream.layer_sizes(bitstream.unpack(one.data))["overhead"] <= 14


def test_the_sketch_sent_is_the_photograph_s(encoded, decoded):
    for one, other in zip(encoded, decoded, strict=True):
        assert edge_f1(other.sketch, one.sketch, tolerance_px=3).f1 > 0.6


def test_drawings_follow_their_sketch(decoded):
    annotator = load_annotator("hed-tiny")
    own = [edge_f1(annotator(d.image), d.sketch, tolerance_px=3).f1 for d in decoded]
    size = (256, 256)
    corners = [d.sketch[: size[0], : size[1]] for d in decoded]
    drawn = [annotator(d.image)[: size[0], : size[1]] for d in decoded]
    strange = [edge_f1(drawn[i - 1], corners[i], tolerance_px=3).f1 for i in range(len(drawn))]
    assert np.mean(own) > np.mean(strange) + 0.1


def test_colours_bring_drawings_nearer(encoder, decoded, samples):
    for name, one in zip(("rocket", "coffee", "flower"), decoded, strict=True):
        original, bare = samples[samples.names.index(name)].image, Conditions(one.prompt, one.sketch, None)
        without = encoder.decoder.draw([bare], [one.stream.seed], *one.sketch.shape)[0]
        assert psnr(original, one.image) > psnr(original, without) + 1
        assert psnr(original, one.image) > 17


def test_the_committed_run_is_of_these_models(encoder):
    files = sorted(EXAMPLES.glob("*/*.pics"))
    assert len(files) >= 7
    drawn = encoder.decoder.decode(files[0].read_bytes()).image
    saved = np.asarray(Image.open(files[0].with_name(f"{files[0].stem}_recon.png")))
    assert np.abs(drawn.astype(int) - saved).mean() < 0.5  # of 255 levels: threads and processors differ by some


def test_drawings_differ_with_the_prompt(encoder, decoded):
    clip, first = encoder.clip, decoded[0]
    prompts = [
        clip.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("blue sky above", "red red red")
    ]
    each = [Conditions(tuple(prompt), first.sketch, None) for prompt in prompts]
    blue, red = (picture.mean((0, 1)) for picture in encoder.decoder.draw(each, [0, 0], *first.sketch.shape))
    assert red[0] - red[2] > blue[0] - blue[2] + 10


def test_inverted_prompts_beat_random_words(encoder, encoded, samples):
    generator = np.random.default_rng(0)
    for one, name in zip(encoded, ("rocket", "coffee", "flower"), strict=True):
        image = encoder.clip.image_features([samples[samples.names.index(name)].image])
        words = encoder.clip.words.numpy()
        random = encoder.clip.text_features([generator.choice(words, 16).tolist() for _ in range(50)])
        assert one.cosine > (random @ image.T).max().item()


@pytest.mark.skipif(not KODAK.exists(), reason="the Kodak photographs are not at ../shared/data/kodak")
def test_kodak_photograph_round_trip():
    sample = dataloaders.load_samples(KODAK, None, 256)[22]
    encoder = Encoder(get_preset("tiny"), EncoderConfig(candidates=1, prompt_steps=30))
    data = encoder.encode([sample.image], [(sample.source_height, sample.source_width)])[0]
    again = Decoder(get_preset("tiny")).decode(data)
    assert (again.stream.source_width, again.stream.source_height) == (768, 512)
    assert np.abs(again.image.astype(int) - encoder.decoder.decode(data).image).max() <= 1
