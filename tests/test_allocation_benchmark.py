"""benchmarks/allocation.py: the best rows, a run that is resumed, wrong usage.

python -m pytest tests/test_allocation_benchmark.py
"""

import json

import numpy as np
import pytest
import skimage.data
from helpers.checkpoints import local_preset
from PIL import Image

from allocation.table import Allocation, read_table
from benchmarks import allocation as bench

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_row_is_the_least_mean_of_what_all_images_have():
    first = {(24, 0, None): 0.5, (24, 9, None): 0.4, (60, 0, None): 0.3, (60, 0, 0.1): 0.35}
    other = {(24, 0, None): 0.6, (24, 9, None): 0.8, (60, 0, None): 0.4, (60, 0, 0.1): 0.2}
    other[60, 9, 0.1] = 0.0  # the first image has no such file
    for each in (first, other):
        each[24, 0, 0.1] = each[24, 0, None]  # no better than without a sketch
    assert bench.best_rows([first, other], [24, 60]) == [
        {"bytes": 24, "prompt_bytes": 0, "lam_sketch": None},
        {"bytes": 60, "prompt_bytes": 0, "lam_sketch": 0.1},
    ]


def test_structure_is_zero_for_the_same_image_and_sees_what_differs():
    image = skimage.data.coffee()[:192, :256]
    assert bench.structure(image, image) == pytest.approx(0, abs=1e-6)
    darker = (image * 0.9).astype(np.uint8)
    gray = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert 0 < bench.structure(image, darker) < bench.structure(image, gray)
    assert bench.half(image).shape == (96, 128, 3)
    assert bench.half(image)[0, 0] == pytest.approx(image[:2, :2].mean(axis=(0, 1)))


def test_images_are_spread_over_the_folder():
    assert bench.spread([*range(10)], 4) == [0, 2, 5, 7]
    assert bench.spread([*range(3)], 9) == [0, 1, 2]


def test_a_run_writes_a_table_and_is_resumed(tmp_path, monkeypatch, capsys):
    quick = {"annotator": "canny", "short_side": 64, "steps": 1, "prompt_steps": 4}
    row = local_preset(tmp_path, "tiny", **quick)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, image in (("a", skimage.data.astronaut()), ("b", skimage.data.coffee())):
        Image.fromarray(image[::4, ::4]).save(photos / f"{name}.jpg")
    monkeypatch.setattr(bench, "preset", lambda name: row)
    table, points = tmp_path / "table.json", tmp_path / "points.jsonl"
    argv = ["--data_root", str(photos), "--points", str(points), "--output", str(table)]
    argv += ["--criterion", "clip", "--budgets", "24", "90", "--prompts", "0", "6"]
    argv += ["--lambdas", "none", "0.02"]
    assert bench.main([*argv, "--count", "1"]) == 0
    measured = []
    measure = bench.measure
    monkeypatch.setattr(bench, "measure", lambda *rest: measured.append(1) or measure(*rest))
    assert bench.main(argv) == 0 and measured == [1]
    rows = read_table(table)
    assert [each.bytes for each in rows] == [24, 90]
    grid = {Allocation(size, lam) for size in (0, 6) for lam in (None, 0.02)}
    assert {each.allocation for each in rows} <= grid
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["images"] == 2 and told["criterion"] == "clip"
    assert len(points.read_text().splitlines()) == 2


def test_no_images_and_no_least_budget_are_wrong_usage(tmp_path, capsys):
    assert bench.main(["--data_root", str(tmp_path)]) == 2
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    assert bench.main(["--data_root", str(tmp_path), "--budgets", "60"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
