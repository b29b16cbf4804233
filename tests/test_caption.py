"""The captioner, on a small random BLIP checkpoint in the layout of the published one.

python -m pytest tests/test_caption.py
"""

import dataclasses
import json

import numpy as np
import pytest
import skimage.data
from helpers.checkpoints import local_preset, make_blip, make_florence
from safetensors.torch import load_file, save_file

import bitstream
import dataloaders
import text_codec
from codec import Encoder, EncoderConfig
from common.weights import UnavailableError
from prompt_inversion.caption import MAX_TOKENS, Captioner, load_captioner
from prompt_inversion.options import PromptOptions

MAKERS = {"blip": make_blip, "florence": make_florence}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def images():
    return [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]


@pytest.mark.parametrize("kind", MAKERS)
def test_captions_are_words_and_do_not_depend_on_the_batch(kind, images, tmp_path):
    captioner = load_captioner(MAKERS[kind](tmp_path), "cpu")
    captions = captioner.describe(images)
    assert captions == [captioner.describe([image])[0] for image in images]
    assert len(set(captions)) > 1
    for caption in captions:
        words = caption.split(" ")
        assert 1 <= len(words) <= MAX_TOKENS
        assert not {"[PAD]", "[CLS]", "[SEP]", "<s>", "</s>", "<image>"} & set(words)


def test_pictures_may_be_views(folder, images):
    captioner = load_captioner([folder], "cpu")
    assert captioner.describe([images[0][:, ::-1]]) == captioner.describe(
        [np.ascontiguousarray(images[0][:, ::-1])]
    )


def test_florence_is_asked_for_one_sentence(images, tmp_path):
    captioner = load_captioner(make_florence(tmp_path), "cpu")
    text = captioner.tokenizer.decode(captioner.inputs(images[0])["input_ids"][0])
    assert text.endswith("<s>What does the image describe?</s>")
    assert text.count("<image>") == captioner.inputs.func.num_image_tokens


def test_a_model_of_another_kind_is_refused_in_one_line(tmp_path):
    folder = make_florence(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "git"}))
    with pytest.raises(UnavailableError, match="is a 'git', not one of blip, florence2"):
        load_captioner(folder, "cpu")


def test_what_cannot_be_had_is_said(folder, tmp_path):
    with pytest.raises(UnavailableError, match="captioner could not be loaded"):
        load_captioner(tmp_path / "nowhere", "cpu")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights.pop("vision_model.post_layernorm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = r"lacks 1 weights .* vision_model.post_layernorm.weight"
    with pytest.raises(UnavailableError, match=message):
        load_captioner(tmp_path, "cpu")


def test_captions_are_sent(folder, images, tmp_path):
    quick = {"annotator": "canny", "short_side": 192, "candidates": 1}
    row = dataclasses.replace(local_preset(tmp_path, "tiny", **quick), captioner=(str(folder),))
    encoder = Encoder(row, EncoderConfig(sketch=False, prompt=PromptOptions(source="caption")))
    photos = [dataloaders.resize(image, 192) for image in images[:2]]
    streams = [bitstream.unpack(data) for data in encoder.encode(photos)]
    sent = [text_codec.decode_text(stream.text) for stream in streams]
    assert sent == encoder.prompter.captioner.describe(photos)


def test_texts_are_cleaned_before_they_are_coded(folder, images, tmp_path, monkeypatch):
    quick = {"annotator": "canny", "short_side": 192, "candidates": 1}
    row = dataclasses.replace(local_preset(tmp_path, "tiny", **quick), captioner=(str(folder),))
    image = dataloaders.resize(images[0], 192)
    broken = "a cafÃ©\u2019s \u201cbarn\u201d"
    for prompt in (PromptOptions(text=broken), PromptOptions(source="caption")):
        encoder = Encoder(row, EncoderConfig(sketch=False, prompt=prompt))
        monkeypatch.setattr(Captioner, "describe", lambda self, images: [broken for _ in images])
        stream = bitstream.unpack(encoder.encode([image])[0])
        assert text_codec.decode_text(stream.text) == 'a café\'s "barn"'
