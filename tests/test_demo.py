"""What the page of demo.py does, without a page (test_demo_page.py has that).

python -m pytest tests/test_demo.py
"""

import json
import re
from functools import partial

import numpy as np
import pytest
from helpers.checkpoints import local_preset
from helpers.pictures import photo_file
from test_hostile_pictures import KINDS

import bitstream
import demo
from codec import Edit
from common.files import ImageError, reason_of
from demonstration import LAYERS, Models, Workbench, layer_bar, painted
from demonstration.workbench import to_gray
from evaluation.conversion import FAILURES, SPEAKING
from presets import get_preset

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A workbench with small random models."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    row = local_preset(folder, "tiny")
    models = {name: list(getattr(row, name)) for name in ("generator", "controlnet", "clip")}
    settings = {"annotator": "canny", "short_side": 128, "steps": 1, "prompt_steps": 1}
    (folder / "preset.json").write_text(json.dumps({"base": "tiny", **models, **settings}))
    return Workbench(Models(get_preset(str(folder)), "cpu"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return photo_file(tmp_path_factory.mktemp("photos"), 192, 256)


@pytest.fixture(scope="module")
def shown(bench, photo):
    return bench.compress(photo, 200, LAYERS)


def test_a_photograph_in_so_many_bytes(shown):
    assert 150 < len(shown.data) <= 200
    assert sum(shown.sizes.values()) == len(shown.data)
    assert shown.image.shape == shown.original.shape == shown.webp.shape
    assert 0 < shown.webp_bytes <= len(shown.data)


@pytest.mark.parametrize("layers", [("text",), ("sketch",), ("color",), ("text", "sketch")])
def test_switches_of_layers(bench, photo, layers):
    stream = bitstream.unpack(bench.compress(photo, 200, layers).data)
    found = {"text": stream.text, "sketch": stream.sketch, "color": stream.color or stream.base}
    sent = {name for name, payload in found.items() if payload}
    assert sent and sent <= set(layers)


def test_a_saved_file_opens_to_the_same_picture(bench, shown, tmp_path):
    (tmp_path / "a.pics").write_bytes(shown.data)
    again = bench.open(tmp_path / "a.pics")
    assert again.data == shown.data and np.array_equal(again.image, shown.image)
    assert again.prompt == shown.prompt and again.original is None and again.webp is None


def test_an_edit_changes_what_was_changed(bench, photo):
    shown = bench.compress(photo, 200, ("text", "sketch"))
    new = bench.change(shown, Edit(prompt="a red barn", seed=7))
    before, after = bitstream.unpack(shown.data), bitstream.unpack(new.data)
    assert (new.prompt, new.seed) == ("a red barn", 7)
    assert after.sketch == before.sketch
    assert not np.array_equal(new.image, shown.image) and new.original is shown.original


def test_only_what_was_painted_is_an_edit():
    empty, stroke = np.zeros((2, 64, 64, 4), np.uint8)
    stroke[8:16] = (255, 0, 0, 255)
    composite = np.full((64, 64, 4), 255, np.uint8)
    assert painted(None) is None
    assert painted({"layers": [], "composite": None}) is None
    assert painted({"layers": [empty], "composite": composite}) is None
    picture = painted({"layers": [empty, stroke], "composite": composite})
    assert picture.shape == (64, 64, 3)
    assert to_gray(picture).shape == (64, 64) and to_gray(picture).min() == 255


def test_there_is_always_something_to_paint_on(bench, photo):
    words = bench.compress(photo, 200, ("text",))
    assert not words.drawable_sketch.any()
    assert words.paintable_color is words.image
    colors = bench.compress(photo, 200, ("color",))
    assert colors.paintable_color.shape == colors.image.shape
    sketch = bench.compress(photo, 200, ("sketch",))
    assert sketch.drawable_sketch is sketch.sketch


def test_no_layer_and_a_large_file_are_refused(bench, photo, tmp_path):
    with pytest.raises(ValueError, match="nothing would be sent: choose one of text, sketch"):
        bench.compress(photo, 200, ())
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(20_000_001)
    with pytest.raises(ImageError, match="larger than 20 MB"):
        bench.compress(tmp_path / "large.png", 200, LAYERS)


def refused(kind) -> bool:
    return isinstance(kind.make, bytes) and kind.end not in ("read", "passed over")


@pytest.mark.parametrize("kind", filter(refused, KINDS), ids=lambda kind: kind.what)
def test_hostile_uploads_end_in_one_line(bench, tmp_path, kind):
    path = tmp_path / "upload.png"
    path.write_bytes(kind.make)
    for work in (partial(bench.compress, budget=150, layers=LAYERS), bench.open):
        with pytest.raises(FAILURES) as caught:
            work(path)
        line = reason_of(caught.value, SPEAKING)
        assert line and len(line.splitlines()) == 1


def test_a_bar_has_a_part_for_each_layer(shown):
    html = layer_bar(shown.sizes)
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", html)]
    assert len(widths) == len(list(filter(None, shown.sizes.values()))) and sum(
        widths
    ) == pytest.approx(100, abs=0.1)
    assert f"{len(shown.data)} bytes" in html


@pytest.mark.parametrize("flags", [["--bytes", "23"], ["--bytes", "1001"], ["--preset", "none"]])
def test_wrong_usage(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(flags)
    assert stop.value.code == 2 and "error" in capsys.readouterr().err
