"""Models are named by content: other weights have other names, the same weights one, wherever from.

python -m pytest tests/test_content.py
"""

import dataclasses
import shutil

import pytest
import torch
from helpers.checkpoints import local_preset
from safetensors.torch import load_file, save_file

import bitstream
from bitstream import Stream
from codec import DecodeError, Decoder
from diffusion import content, loading
from diffusion.generator import Generator
from models_ntc.bundled import StreamLayers
from text_codec import encode, vocabulary
from text_codec.prompt import PromptCodec

WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def row(tmp_path, monkeypatch):
    """Small models in folders that count as large."""
    monkeypatch.setattr(loading, "HASHED_BYTES", 0)
    return local_preset(tmp_path / "models", "sd21")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of the user's cache, empty."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(content, "cached_assets_path", lambda *_: folder)
    return folder


def changed(path, dtype=torch.float32):
    """Give weights other values, in a file of the same size and time."""
    before = path.stat()
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert path.stat().st_size == before.st_size


def into_hub(folder, row, monkeypatch):
    """Return the row with its models in the hub's cache instead, where no network is."""
    names = {}
    for field in ("generator", "controlnet"):
        place = folder / f"models--owner--{field}"
        shutil.copytree(getattr(row, field)[0], place / "snapshots" / ("1" * 40))
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("1" * 40)
        names[field] = (f"owner/{field}",)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("common.weights.why_unreachable", lambda address: "no network")
    return dataclasses.replace(row, **names)


def file_of(decoder, naming="written", words=True, payload=None):
    payload = payload or decoder.prompt_codec.encode_text("a barn")
    fingerprint = decoder.fingerprint(StreamLayers(), naming, words)
    return bitstream.unpack(bitstream.pack(Stream(fingerprint, 64, 64, 64, 64, 0, payload)))


def test_controlnets_of_equal_size_have_fingerprints_of_their_own(row, kept, tmp_path):
    stock = Decoder(row)
    other = shutil.copytree(row.controlnet[0], tmp_path / "tuned")
    changed(other / f"{WEIGHTS}.safetensors")
    tuned = Decoder(dataclasses.replace(row, controlnet=(str(other),)))
    assert stock.generator.identity(sketch=True, naming="earlier") == tuned.generator.identity(
        sketch=True, naming="earlier"
    )  # named by size
    assert stock.fingerprint(StreamLayers(2)) != tuned.fingerprint(StreamLayers(2))
    assert stock.fingerprint(StreamLayers()) == tuned.fingerprint(StreamLayers())


def test_a_folder_with_the_weights_of_the_hub_decodes_its_files(row, kept, tmp_path, monkeypatch):
    here = Decoder(row)
    hub = Decoder(into_hub(tmp_path / "hub", row, monkeypatch))
    for layers in (StreamLayers(), StreamLayers(2)):
        assert hub.fingerprint(layers) == here.fingerprint(layers)
    monkeypatch.setattr(loading, "HASHED_BYTES", 10**9)  # a small folder: its own files as before
    small = Decoder(row)
    assert small.fingerprint(StreamLayers()) != hub.fingerprint(StreamLayers())
    assert small.conditions(file_of(hub)).prompt.text == "a barn"


def test_a_folder_with_preset_json_is_named_by_content(row, kept, tmp_path, monkeypatch):
    """A small one too, for its card and settings may change; what it wrote before is decoded."""
    monkeypatch.setattr(loading, "HASHED_BYTES", 10**9)
    folder = shutil.copytree(row.generator[0], tmp_path / "published")
    published = dataclasses.replace(row, generator=(str(folder),))
    (folder / "preset.json").write_text('{"base": "sd21", "generator": "."}')
    decoder = Decoder(published)
    earlier = file_of(decoder, "by_size")
    (folder / "README.md").write_text("A card.")
    again = Decoder(published)
    assert again.fingerprint(StreamLayers()) == decoder.fingerprint(StreamLayers())
    assert earlier.fingerprint != decoder.fingerprint(StreamLayers())
    assert decoder.conditions(earlier).prompt.text == "a barn"
    with pytest.raises(DecodeError):
        again.conditions(earlier)  # by all files of the folder, of which one is new


def test_earlier_files_of_the_hub_are_decoded(row, kept, tmp_path, monkeypatch):
    hub = Decoder(into_hub(tmp_path / "hub", row, monkeypatch))
    assert hub.generator._names.earlier == "owner/generator"
    for words in (True, False):
        assert hub.conditions(file_of(hub, "earlier", words)).prompt.text == "a barn"
    with pytest.raises(DecodeError, match="other weights of preset sd21"):
        Decoder(row).conditions(file_of(hub, "earlier"))


def test_ids_of_the_first_files_keep_their_meaning(row, kept, monkeypatch):
    """Their subsets of CLIP's vocabulary were without the words of clip_words.txt."""
    decoder = Decoder(row)
    tokenizer = decoder.generator.tokenizer
    rarest = [word for word in tokenizer.get_vocab() if word.endswith("</w>")][-20:]
    monkeypatch.setattr(vocabulary, "CLIP_VOCABULARY", vocabulary.name_of(tokenizer))
    monkeypatch.setattr(vocabulary, "clip_words", lambda: [word[:-4] for word in rarest])
    first = PromptCodec(tokenizer, 20, words=False)
    ids = first.subset(5)[:3]
    payload = encode(ids, len(tokenizer), first.subset(5))
    stream = file_of(decoder, "earlier", words=False, payload=payload)
    assert stream.fingerprint != decoder.fingerprint(StreamLayers(), "earlier")
    assert decoder.conditions(stream).prompt.ids == ids
    assert decoder.prompt_codec.decode(payload).ids != ids


def test_other_weights_of_the_hub_are_refused(row, kept, tmp_path, monkeypatch):
    stream = file_of(Decoder(row))
    changed(tmp_path / "models" / "generator" / "unet" / f"{WEIGHTS}.safetensors")
    with pytest.raises(DecodeError, match="other weights of preset sd21"):
        Decoder(into_hub(tmp_path / "hub", row, monkeypatch)).conditions(stream)


@pytest.mark.parametrize("form", ["float16", "bin", "saved again"])
def test_the_form_of_the_files_does_not_count(row, kept, tmp_path, form):
    generator = Generator(row, "cpu")
    before = generator._controlnet[0].content
    model = generator._controlnet[1]
    other = tmp_path / "other"
    if form == "float16":
        model = model.to(torch.float16)
    model.save_pretrained(other, safe_serialization=form != "bin")
    own = dataclasses.replace(row, controlnet=(str(other),))
    assert Generator(own, "cpu")._controlnet[0].content == before


def test_the_float16_files_of_the_hub_have_the_same_name(row, kept, tmp_path, monkeypatch):
    before = Generator(row, "cpu")._names.content
    halves = into_hub(tmp_path / "hub", row, monkeypatch)
    snapshot = tmp_path / "hub" / "models--owner--generator" / "snapshots" / ("1" * 40)
    for stem in loading.STEMS:
        file = snapshot / f"{stem}.safetensors"
        tensors = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(tensors, snapshot / f"{stem}.{loading.HALF}.safetensors", {"format": "pt"})
        file.unlink()
    read = loading.load_pipeline
    monkeypatch.setattr(
        "diffusion.generator.load_pipeline", lambda *where: read(*where[:3], True, where[4])
    )
    assert Generator(halves, "cpu")._names.content == before


def test_an_old_file_of_a_controlnet_is_read_without_a_word(row, kept, tmp_path, capfd):
    model = Generator(row, "cpu")._controlnet[1]
    model.save_pretrained(tmp_path / "old", safe_serialization=False)
    generator = Generator(dataclasses.replace(row, controlnet=(str(tmp_path / "old"),)), "cpu")
    capfd.readouterr()
    assert generator._controlnet[1] is not None
    assert capfd.readouterr() == ("", "")


def test_settings_count(row, kept, tmp_path):
    generator = Generator(row, "cpu")
    before = generator._names.content
    scheduler = tmp_path / "models" / "generator" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    assert Generator(row, "cpu")._names.content != before


# ---- what is kept between runs


def test_the_hash_is_kept_by_path_size_and_time(row, kept, monkeypatch):
    first = Generator(row, "cpu")._names.content
    (file,) = kept.iterdir()
    monkeypatch.setattr(content, "_weights", lambda _: pytest.fail("hashed again"))
    assert Generator(row, "cpu")._names.content == first
    monkeypatch.undo()
    assert len(file.read_bytes()) == 64


@pytest.mark.parametrize(
    "junk", [b"", b"0" * 63, b"G" * 64, b"0" * 65, b"\xff" * 64, b"0" * 63 + b"\n"]
)
def test_what_was_spoiled_is_made_again(row, kept, junk):
    first = Generator(row, "cpu")._names.content
    (file,) = kept.iterdir()
    good = file.read_bytes()
    file.write_bytes(junk)
    assert Generator(row, "cpu")._names.content == first and file.read_bytes() == good


def test_a_cache_that_cannot_be_written_does_no_harm(row, kept, monkeypatch):
    first = Generator(row, "cpu")._names.content

    def refuse(*_):
        raise OSError("read-only")

    monkeypatch.setattr(content, "write", refuse)
    monkeypatch.setattr(content, "VERSION", "other")
    assert Generator(row, "cpu")._names.content == first
    monkeypatch.setattr(content, "cached_assets_path", refuse)
    assert Generator(row, "cpu")._names.content == first
