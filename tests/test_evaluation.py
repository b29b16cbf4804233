"""Pieces of the evaluation loop that need no models."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from dataloaders import Samples
from evaluation import Stopwatch, baseline_names, check_names, claim, compare_settings, metric_names, positive, rate
from report import png, write, write_report

CAPTION = """name: {name}
prompt: a barn
bytes: {{text: 22, sketch: {sketch}, overhead: 12, total: {total}}}
bpp: {{text: 0.1, sketch: 0.2, overhead: 0.1, total: 0.4}}
metrics: {{psnr: 12.5, ms_ssim: 0.25}}
"""


@pytest.fixture
def samples(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / f"{name}.png")
    paths = tuple(str(tmp_path / "photos" / f"{name}.png") for name in ("a", "b"))
    return Samples("photos", ("a", "b"), paths, 64)


def finish(folder, name, sketch):
    (folder / f"{name}_caption.yaml").write_text(CAPTION.format(name=name, sketch=sketch, total=34 + sketch))
    for ending in ("_original.png", "_recon.png"):
        write(folder / f"{name}{ending}", png(np.zeros((64, 64, 3), np.uint8)))


def test_report_of_a_half_done_run(samples, tmp_path):
    finish(tmp_path, "b", 100)
    summary = write_report(tmp_path, samples, "PICS", {"a": "broken"})
    assert summary["photographs"] == 1 and summary["failed"] == ["a"] and summary["mean"]["bytes"] == 134
    assert (tmp_path / "results.csv").read_text().splitlines()[1].startswith("b,a barn,0.4,134,22,100,12")
    finish(tmp_path, "a", 200)
    assert write_report(tmp_path, samples, "PICS", {})["mean"]["bytes_sketch"] == 150
    assert Image.open(tmp_path / "overview.jpg").width > 512


def test_report_of_nothing(samples, tmp_path):
    summary = write_report(tmp_path, samples, "PIC", {"a": "x", "b": "y"})
    assert summary["photographs"] == 0 and not (tmp_path / "results.csv").exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_claim_and_compare(tmp_path):
    folder = tmp_path / "run"
    compare_settings(folder, {"N": 4})
    assert not folder.exists()
    claim(folder, {"N": 4}, overwrite=False)
    for file in ("a_caption.yaml", "b_failed.txt", ".b.pics.17.tmp"):
        (folder / file).write_text("")
    claim(folder, {"N": 4}, overwrite=False)  # what failed is tried again, what a killed run left half done is gone
    assert sorted(path.name for path in folder.iterdir()) == ["a_caption.yaml", "settings.json"]
    compare_settings(folder, {"N": 4})
    with pytest.raises(ValueError, match="N 4 -> 5"):
        compare_settings(folder, {"N": 5})
    claim(folder, {"N": 5}, overwrite=True)
    assert not (folder / "a_caption.yaml").exists()
    compare_settings(folder, {"N": 5})


def test_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    write(tmp_path / "x", b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_parsers():
    assert rate("0.5") == 0.5 and rate("codec.safetensors") == "codec.safetensors"
    assert positive("3") == 3
    for text in ("0", "-1", "1.5", "x"):
        with pytest.raises(argparse.ArgumentTypeError):
            positive(text)


def test_names_whose_files_would_be_the_same():
    check_names(["x", "y_sketch", "x_sketchy", "_sketch"])
    with pytest.raises(ValueError, match="'X' and 'X_sketch' would both write"):
        check_names(["x", "X_sketch"])


def test_names_of_metrics_and_baselines():
    assert metric_names("psnr, colour") == ("psnr", "colour")
    assert baseline_names("avif, webp") == ("avif", "webp") and baseline_names("") == ()
    for parse in (metric_names, baseline_names):
        with pytest.raises(argparse.ArgumentTypeError, match="taste"):
            parse("taste")


def test_stopwatch_counts_a_stage_without_what_is_inside_it(monkeypatch):
    clock = iter([0, 1, 11, 14, 20, 25])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    with watch("coding"), watch("sketch"):
        pass
    with watch("coding"):
        pass
    assert watch.read() == {"coding": 4 + 5, "sketch": 10}
    assert watch.read() == {}


def test_costs_stand_apart_from_results(samples, tmp_path):
    finish(tmp_path, "a", 100)
    with (tmp_path / "a_caption.yaml").open("a") as file:
        file.write("seconds: {prompt: 2.5}\nmemory: {process: 1000}\n")
    summary = write_report(tmp_path, samples, "PICS", {})
    assert summary["cost"]["mean"] == {"seconds_prompt": 2.5, "memory_process": 1000}
    assert not [name for name in summary["mean"] if name.startswith(("seconds", "memory"))]
    assert (tmp_path / "results.csv").read_text().splitlines()[0].endswith("ms_ssim,seconds_prompt,memory_process")
    assert "prompt_seconds" not in (html := (tmp_path / "index.html").read_text()) and "1000" not in html
    assert json.loads((tmp_path / "results.jsonl").read_text())["seconds"] == {"prompt": 2.5}


def test_baselines_are_saved_and_averaged(samples, tmp_path):
    for name, baselines in {
        "a": "{avif: {bytes: 90, bpp: 0.3, scale: 0.5, quality: 3, psnr: 20}, jpeg: {why: larger}}",
        "b": "{avif: {why: too small}, jpeg: {why: larger}}",
    }.items():
        finish(tmp_path, name, 100)
        with (tmp_path / f"{name}_caption.yaml").open("a") as file:
            file.write(f"baselines: {baselines}\n")
    summary = write_report(tmp_path, samples, "PICS", {})
    assert summary["baselines"] == {
        "AVIF": {"photographs": 1, "mean": {"bytes": 90, "bpp": 0.3, "psnr": 20}, "intervals": {}}
    }
    lines = (tmp_path / "baselines.csv").read_text().splitlines()
    assert lines[0] == "name,baseline,bytes,bpp,scale,quality,psnr,why"
    assert lines[1:] == ["a,avif,90,0.3,0.5,3,20,", "a,jpeg,,,,,,larger", "b,avif,,,,,,too small", "b,jpeg,,,,,,larger"]
