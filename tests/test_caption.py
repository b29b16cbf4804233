"""The captioner, on a small random BLIP checkpoint in the layout of the published one.

python -m pytest tests/test_caption.py
"""

import dataclasses

import numpy as np
import pytest
import skimage.data
import torch
import transformers
from helpers.checkpoints import local_preset
from safetensors.torch import load_file, save_file

import bitstream
import dataloaders
import text_codec
from codec import Encoder, EncoderConfig
from common.weights import UnavailableError
from prompt_inversion.caption import MAX_TOKENS, Captioner, load_captioner
from prompt_inversion.options import PromptOptions

WORDPIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["a", "red", "barn", "dog", "under", "stormy", "sky", "the", "on", "in", "snow"],
    "##s",
]
LAYERS = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n")
    # As published: two ids beyond the tokenizer's words, the first of which starts a caption.
    ids = {"bos_token_id": len(WORDPIECES), "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    text = {
        **LAYERS,
        **ids,
        "vocab_size": len(WORDPIECES) + 2,
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    vision = {**LAYERS, "image_size": 32, "patch_size": 16}
    model = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config=vision)
    )
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    transformers.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images():
    return [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]


def test_captions_are_words_and_do_not_depend_on_the_batch(folder, images):
    captioner = load_captioner(folder, "cpu")
    captions = captioner.describe(images)
    assert captions == [captioner.describe([image])[0] for image in images]
    assert len(set(captions)) > 1
    for caption in captions:
        words = caption.split(" ")
        assert 1 <= len(words) <= MAX_TOKENS and not {"[PAD]", "[CLS]", "[SEP]"} & set(words)


def test_pictures_may_be_views(folder, images):
    captioner = load_captioner([folder], "cpu")
    assert captioner.describe([images[0][:, ::-1]]) == captioner.describe(
        [np.ascontiguousarray(images[0][:, ::-1])]
    )


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
