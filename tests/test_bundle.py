"""The bundled models: whole, small, and generating what they are told.

python -m pytest tests/test_bundle.py
"""

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
from prompt_inversion.options import PromptOptions
from text_codec.prompt import Prompt
from text_codec.tokenizer_file import FileTokenizer

ROOT = Path(__file__).parent.parent
KODAK = ROOT.parent / "shared" / "data" / "kodak"
EXAMPLES = ROOT / "recon_examples" / "examples"


@pytest.fixture(scope="module")
def samples():
    return dataloaders.load_samples(None, None, 256)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(get_preset("tiny"), EncoderConfig(candidates=1, prompt=PromptOptions(steps=30)))


@pytest.fixture(scope="module")
def encoded(encoder, samples):
    chosen = [samples[samples.names.index(name)] for name in ("rocket", "coffee", "flower")]
    return encoder.encode_all([sample.image for sample in chosen])


@pytest.fixture(scope="module")
def decoded(encoder, encoded):
    return [encoder.decoder.decode(one.data) for one in encoded]


def test_weights_are_safetensors_and_fit():
    weights = []
    for path in ROOT.rglob("*.safetensors"):
        if not {".venv", "runs"} & set(path.relative_to(ROOT).parts):
            weights.append(path)
    assert sum(path.stat().st_size for path in weights) < 60e6
    for path in BUNDLE.rglob("*.json"):
        assert '"_name_or_path": "/' not in path.read_text(encoding="utf-8")
    for pattern in ("*.pt", "*.pth", "*.bin", "*.ckpt"):
        assert not list(BUNDLE.rglob(pattern))
    index = json.loads((BUNDLE / "generator" / "model_index.json").read_text())
    assert index["unet"][1] == "UNet2DConditionModel"


def test_files_are_small_and_whole(encoded, encoder):
    for one in encoded:
        assert len(one.data) < 600
        assert bitstream.layer_sizes(bitstream.unpack(one.data))["text"] <= 23
        assert bitstream.layer_sizes(bitstream.unpack(one.data))["overhead"] <= 14


def test_the_sketch_sent_is_the_image_s(encoded, decoded):
    for one, other in zip(encoded, decoded, strict=True):
        assert edge_f1(other.conditions.sketch, one.sketch, tolerance_px=3).f1 > 0.6


def test_reconstructions_follow_their_sketch(decoded):
    annotator = load_annotator("hed-tiny")
    sketches = [one.conditions.sketch for one in decoded]
    found = [annotator(one.image) for one in decoded]
    own = [edge_f1(*pair, tolerance_px=3).f1 for pair in zip(found, sketches, strict=True)]
    strange = []
    for i, sketch in enumerate(sketches):
        strange.append(edge_f1(found[i - 1][:256, :256], sketch[:256, :256], tolerance_px=3).f1)
    assert np.mean(own) > np.mean(strange) + 0.1


def test_colors_bring_reconstructions_nearer(encoder, decoded, samples):
    for name, one in zip(("rocket", "coffee", "flower"), decoded, strict=True):
        original = samples[samples.names.index(name)].image
        bare = one.conditions._replace(color=None)
        without = encoder.decoder.generate([bare], [one.stream.seed], *bare.sketch.shape)[0]
        assert psnr(original, one.image) > psnr(original, without) + 1
        assert psnr(original, one.image) > 17


def test_the_committed_run_is_of_these_models(encoder):
    files = sorted(EXAMPLES.glob("*/*.pics"))
    assert len(files) >= 7
    again = encoder.decoder.decode(files[0].read_bytes()).image
    saved = np.asarray(Image.open(files[0].with_name(f"{files[0].stem}_recon.png")))
    # Of 255 levels: numbers of threads and processors differ by some.
    assert np.abs(again.astype(int) - saved).mean() < 0.5


def test_reconstructions_differ_with_the_prompt(encoder, decoded):
    sketch, codec = decoded[0].conditions.sketch, encoder.decoder.prompt_codec
    each = []
    for text in ("blue sky above", "red red red"):
        each.append(Conditions(Prompt(codec.tokenize(text), text, None), sketch, None))
    images = encoder.decoder.generate(each, [0, 0], *sketch.shape)
    blue, red = (image.mean((0, 1)) for image in images)
    assert red[0] - red[2] > blue[0] - blue[2] + 10


def test_inverted_prompts_beat_random_words(encoder, encoded, samples):
    generator = np.random.default_rng(0)
    for one, name in zip(encoded, ("rocket", "coffee", "flower"), strict=True):
        image = encoder.clip.image_features([samples[samples.names.index(name)].image])
        tokens = encoder.clip.printable.numpy()
        prompts = [generator.choice(tokens, 16).tolist() for _ in range(50)]
        random = encoder.clip.text_features(prompts)
        assert one.cosine > (random @ image.T).max().item()


@pytest.mark.skipif(not KODAK.exists(), reason="the Kodak images are not at ../shared/data/kodak")
def test_kodak_image_round_trip():
    sample = dataloaders.load_samples(KODAK, None, 256)[22]
    encoder = Encoder(
        get_preset("tiny"), EncoderConfig(candidates=1, prompt=PromptOptions(steps=30))
    )
    data = encoder.encode([sample.image], [(sample.source_height, sample.source_width)])[0]
    again = Decoder(get_preset("tiny")).decode(data)
    assert (again.stream.source_width, again.stream.source_height) == (768, 512)
    assert np.abs(again.image.astype(int) - encoder.decoder.decode(data).image).max() <= 1


def test_a_tokenizer_file_gives_the_texts_of_transformers():
    from transformers import CLIPTokenizer  # here: the other tests run as a decoder does

    folder = BUNDLE / "generator" / "tokenizer"
    stock = CLIPTokenizer.from_pretrained(folder)
    own = FileTokenizer(folder / "tokenizer.json")
    assert len(own) == len(stock) and own.get_vocab() == stock.get_vocab()
    assert sorted(own.all_special_ids) == sorted(stock.all_special_ids)
    ids = list(range(len(stock)))
    assert own.convert_ids_to_tokens(ids) == stock.convert_ids_to_tokens(ids)
    groups = [[one] for one in ids] + [ids[at : at + 16] for at in ids[::16]]
    expected = stock.batch_decode(groups, clean_up_tokenization_spaces=False)
    assert own.batch_decode(groups) == expected
