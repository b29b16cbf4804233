"""`pics.py edit`: new files from old ones decode to what was asked.

python -m pytest tests/test_editing.py
"""

import dataclasses
import json
import random

import numpy as np
import pytest
from helpers.random_edits import check_edits, random_image, random_sketch
from helpers.record_golden import RECORD
from PIL import Image

import bitstream
import pics
from bitstream import BitstreamError, Stream
from codec import DecodeError, Decoder, Edit, edit
from codec.editing import fitted_base
from common.files import write
from models_ntc.bundled import layers_of
from presets import get_preset

pytestmark = pytest.mark.usefixtures("one_thread")
COUNT = 25  # tests/long/edits.py does a thousand and more


@pytest.fixture(scope="module")
def decoder():
    return Decoder(get_preset("tiny"))


@pytest.fixture(scope="module")
def data(decoder):
    """A file of words, sketch and base, 128x64."""
    return file_of(decoder)


def file_of(decoder, **changed):
    rng = random.Random(5)
    layers = {
        "text": decoder.prompt_codec.encode_text("a red barn"),
        "sketch": decoder.sketch_codec.encode(random_sketch(rng, 64, 128)),
        "base": decoder.base_codec.fit(random_image(rng, 64, 128), 200).payload,
    }
    stream = Stream(0, 300, 150, 128, 64, 1, **(layers | changed))
    stream = dataclasses.replace(stream, fingerprint=decoder.fingerprint(layers_of(stream)))
    return bitstream.pack(stream)


def test_random_edits(decoder):
    assert check_edits(decoder, COUNT) == []


def test_no_edit_gives_the_same_file(decoder, data):
    assert edit(decoder, data, Edit()) == data


def test_the_first_files_are_written_as_today(decoder):
    """Their prompts stay the same although their tokens were numbered differently."""
    for row in json.loads(RECORD.read_text(encoding="utf-8"))["streams"]:
        old = bytes.fromhex(row["file"])
        new = edit(decoder, old, Edit(seed=7), force=True)
        asked = decoder.conditions(bitstream.unpack(old), force=True)
        found = decoder.conditions(bitstream.unpack(new))
        assert found.prompt.ids == asked.prompt.ids
        for one, other in zip(found[1:], asked[1:], strict=True):
            assert (one is None and other is None) or np.array_equal(one, other)


def test_the_picture_changes_with_each_edit(decoder, data):
    rng = random.Random(3)
    edits = [Edit(), Edit(prompt="a blue dog"), Edit(seed=9), Edit(drop=("sketch",))]
    edits += [Edit(sketch=random_sketch(rng, 64, 128)), Edit(color=random_image(rng, 64, 128))]
    images = {decoder.decode(edit(decoder, data, asked)).image.tobytes() for asked in edits}
    assert len(images) == len(edits)


def test_a_new_sketch_has_the_rate_of_the_old_one(decoder, data):
    fine = decoder.sketch_codec.at(1.5)
    sketch = random_sketch(random.Random(1), 64, 128)
    old = file_of(decoder, sketch=fine.encode(np.zeros((64, 128), np.uint8)))
    assert bitstream.unpack(edit(decoder, old, Edit(sketch=sketch))).sketch == fine.encode(sketch)


def test_a_base_that_needs_more_bytes_gets_them(decoder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    assert decoder.base_codec.fit(noise, 2) is None
    payload = fitted_base(decoder, noise, 2)
    assert len(payload) > 2 and decoder.base_codec.decode(payload, 64, 128).shape == noise.shape


def test_what_cannot_be_edited(decoder, data):
    with pytest.raises(BitstreamError, match="has no color layer, only text, sketch, base"):
        edit(decoder, data, Edit(drop=("color",)))
    with pytest.raises(BitstreamError, match="no layer"):
        edit(decoder, data, Edit(drop=("text", "sketch", "base")))
    with pytest.raises(BitstreamError, match="seed"):
        edit(decoder, data, Edit(seed=-1))
    with pytest.raises(ValueError, match="the text layer is to be replaced and to be dropped"):
        Edit(prompt="a", drop=("text",))
    other = bitstream.pack(dataclasses.replace(bitstream.unpack(data), fingerprint=0x1001))
    with pytest.raises(DecodeError):
        edit(decoder, other, Edit(seed=1))


# ---- the command


@pytest.fixture
def file(data, tmp_path):
    write(tmp_path / "a.pics", data)
    return tmp_path / "a.pics"


def test_command(decoder, file, tmp_path, capsys):
    Image.fromarray(random_sketch(random.Random(2), 64, 128)).save(tmp_path / "sketch.png")
    Image.new("RGB", (64, 32), "red").save(tmp_path / "red.png")
    words = ["--prompt", "Frühling", "--sketch", str(tmp_path / "sketch.png"), "--seed", "20"]
    command = ["edit", str(file), str(tmp_path / "b.pics"), "--color", str(tmp_path / "red.png")]
    assert pics.main([*command, *words]) == 0
    new = (tmp_path / "b.pics").read_bytes()
    assert f"b.pics: {len(new)} bytes, {file.stat().st_size} before" in capsys.readouterr().out
    found = decoder.conditions(bitstream.unpack(new))
    red = found.color.reshape(-1, 3).mean(axis=0)
    assert found.prompt.text == "Frühling" and red[0] > 200 > 60 > red[1]


def test_dropped_layers(file, tmp_path):
    new = tmp_path / "b.pics"
    assert pics.main(["edit", str(file), str(new), "--drop", "sketch", "--drop", "text"]) == 0
    stream = bitstream.unpack(new.read_bytes())
    assert stream.text is None and stream.sketch is None and stream.base
    assert pics.main(["decode", str(new), str(tmp_path / "b.png")]) == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "nothing to change: name one of --prompt, --sketch, --color, --seed, --drop"),
        (["--seed", "-1"], 2, "must be an integer, 0 to 2147483647"),
        (["--prompt", "a", "--drop", "text"], 2, "the text layer is to be replaced"),
        (["--drop", "color"], 1, "has no color layer"),
        (["--sketch", "/nowhere.png"], 1, "/nowhere.png: no such file"),
        (["--prompt", "a" * 5000], 1, "at most 4096 can be written"),
    ],
)
def test_bad_usage_gets_one_line(file, tmp_path, capsys, words, status, said):
    try:
        got = pics.main(["edit", str(file), str(tmp_path / "b.pics"), *words])
    except SystemExit as stop:
        got = stop.code
    error = capsys.readouterr().err
    assert got == status and said in error and "Traceback" not in error
    assert len([line for line in error.splitlines() if "error" in line]) == 1
    assert not (tmp_path / "b.pics").exists()


def test_info_as_json(file, capsys):
    assert pics.main(["info", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == file.stat().st_size == sum(facts["layers"].values())
    assert facts["prompt"] == "a red barn" and facts["preset"] == "tiny" and facts["seed"] == 1
    assert (facts["source"], facts["coded"]) == ([300, 150], [128, 64])
    assert facts["bpp"] == 8 * facts["bytes"] / (128 * 64)


def test_info_as_json_of_a_prompt_that_cannot_be_read_here(decoder, tmp_path, capsys):
    ids = decoder.prompt_codec.encode_ids([1000, 20, 1400])
    write(tmp_path / "a.pics", bitstream.pack(Stream(0x9000, 64, 64, 64, 64, 0, ids)))
    assert pics.main(["info", str(tmp_path / "a.pics"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] is None
