"""Pieces of the evaluation loop that need no models: flags, settings, records, stopwatch.

python -m pytest tests/test_evaluation.py
"""

import argparse
import json
import os
import re
import threading
import time

import numpy as np
import pytest
from helpers.logs import report
from helpers.stub_run import StubDecoder, run, stub
from PIL import Image

from codec import EncoderConfig
from common.files import ROOT, png, write
from dataloaders import Samples
from diffusion.execution import Execution
from evaluation import processes
from evaluation.flags import (
    baseline_names,
    encoder_config,
    metric_names,
    natural,
    parser,
    positive,
    preset,
    rate,
    seconds,
)
from evaluation.folder import Taken, claim, compare_settings
from evaluation.loop import evaluate
from evaluation.setup import check_names, kid_subset_size, settings_of
from evaluation.timing import Stopwatch
from presets import PRESETS
from reporting.paper import FIGURES, beside_paper

NO_PROCESS = 99_999_999  # an id that no system gives
RECORD = """name: {name}
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


def finish(folder, name, sketch, more=""):
    """Write what a finished image has: its record, `more` added, and two pictures."""
    record = RECORD.format(name=name, sketch=sketch, total=34 + sketch)
    (folder / f"{name}_caption.yaml").write_text(record + more)
    for ending in ("_original.png", "_recon.png"):
        write(folder / f"{name}{ending}", png(np.zeros((64, 64, 3), np.uint8)))


# ---- results


def test_report_of_a_half_done_run(samples, tmp_path):
    finish(tmp_path, "b", 100)
    summary = report(tmp_path, samples, "PICS", {"a": "broken"})
    assert summary["images"] == 1
    assert summary["failed"] == ["a"]
    assert summary["mean"]["bytes"] == 134
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[1].startswith("b,a barn,0.4,134,22,100,12")
    finish(tmp_path, "a", 200)
    assert report(tmp_path, samples, "PICS", {})["mean"]["bytes_sketch"] == 150


def test_report_of_nothing(samples, tmp_path):
    summary = report(tmp_path, samples, "PIC", {"a": "x", "b": "y"})
    assert summary["images"] == 0 and not (tmp_path / "results.csv").exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_costs_stand_apart_from_results(samples, tmp_path):
    finish(tmp_path, "a", 100, "seconds: {prompt: 2.5}\nmemory: {process: 1000}\n")
    summary = report(tmp_path, samples, "PICS", {})
    assert summary["cost"]["mean"] == {"seconds_prompt": 2.5, "memory_process": 1000}
    assert not [name for name in summary["mean"] if name.startswith(("seconds", "memory"))]
    header = (tmp_path / "results.csv").read_text().splitlines()[0]
    assert header.endswith("ms_ssim,seconds_prompt,memory_process")
    html = (tmp_path / "index.html").read_text()
    assert "seconds_prompt" not in html and "seconds prompt" not in html and "1000" not in html
    assert json.loads((tmp_path / "results.jsonl").read_text())["seconds"] == {"prompt": 2.5}


def test_baselines_are_saved_and_averaged(samples, tmp_path):
    avif = "avif: {bytes: 90, bpp: 0.3, scale: 0.5, quality: 3, psnr: 20}"
    finish(tmp_path, "a", 100, f"baselines: {{{avif}, jpeg: {{why: larger}}}}\n")
    finish(tmp_path, "b", 100, "baselines: {avif: {why: too small}, jpeg: {why: larger}}\n")
    summary = report(tmp_path, samples, "PICS", {})
    assert summary["baselines"] == {
        "AVIF": {"images": 1, "mean": {"bytes": 90, "bpp": 0.3, "psnr": 20}, "intervals": {}}
    }
    lines = (tmp_path / "baselines.csv").read_text().splitlines()
    assert lines[0] == "name,baseline,bytes,bpp,scale,quality,psnr,why"
    assert lines[1:] == [
        "a,avif,90,0.3,0.5,3,20,",
        "a,jpeg,,,,,,larger",
        "b,avif,,,,,,too small",
        "b,jpeg,,,,,,larger",
    ]


# ---- the run's folder


def test_claim_and_compare(tmp_path):
    folder = tmp_path / "run"
    compare_settings(folder, {"N": 4})
    assert not folder.exists()
    folder.mkdir()
    claim(folder, {"N": 4}, ["a", "b"], Taken(), overwrite=False)
    alive = f".b.pics.{os.getppid()}.tmp"
    log = "results-1-0.jsonl"
    for file in ("b_failed.txt", f".b.pics.{NO_PROCESS}.tmp", alive, log):
        (folder / file).write_text("")
    # What failed is tried again; what a killed run left half done is gone.
    claim(folder, {"N": 4}, ["a", "b"], Taken(), overwrite=False)
    left = [alive, log, "settings.json"]
    assert sorted(path.name for path in folder.iterdir()) == left
    compare_settings(folder, {"N": 4})
    with pytest.raises(ValueError, match="N 4 -> 5"):
        compare_settings(folder, {"N": 5})
    claim(folder, {"N": 5}, ["a", "b"], Taken(), overwrite=True)
    assert not (folder / log).exists()
    compare_settings(folder, {"N": 5})


def test_names_whose_files_would_be_the_same():
    check_names(["x", "y_sketch", "x_sketchy", "_sketch"])
    with pytest.raises(ValueError, match="'X' and 'X_sketch' would both write"):
        check_names(["x", "X_sketch"])


def test_settings_hold_what_decides_the_results():
    flags = parser("")
    flags.add_argument("--lam_sketch")
    argv = ["--metrics", "psnr,fid_patches", "--prompt_bytes", "9", "--batch_size", "3"]
    settings = settings_of(flags.parse_args(argv), "PICS")
    assert settings["method"] == "PICS" and settings["preset"] == "tiny"
    assert settings["prompt_bytes"] == 9 and settings["lam_sketch"] is None
    assert settings["metrics"] == "psnr"  # metrics of sets may come later
    assert settings["prompt_search"] is None  # as before there was another
    assert (
        settings_of(flags.parse_args(["--prompt_search", "pez"]), "PIC")["prompt_search"] == "pez"
    )
    assert not {"batch_size", "output", "device", "prompt_patience"} & set(settings)
    assert "lam_sketch" not in settings_of(flags.parse_args([]), "PIC")


# ---- the paper


def test_a_run_of_the_papers_is_shown_beside_it():
    summary = {
        "mean": {"bpp": 0.0155, "clip": 0.75, "psnr": 12.5},
        "set": {"fid_folder": {"value": 250.25, "reconstructions": 60, "others": 60}},
    }
    lines = beside_paper("PICS", "CLIC2021", 512, summary)
    assert lines == [
        "PICS on CLIC2021              the paper   this run",
        "  bits per pixel              0.01509     0.0155",
        "  1 - CLIP cosine             0.212       0.25",
        "  LPIPS                       0.6233      not measured",
        "  FID                         266.83      250.25",
        "  KID                         0.03414     not measured",
    ]


def test_the_comparison_stands_at_the_end_of_a_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "CLIC2021" / "test").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "CLIC2021" / "test" / "a.png")
    stub(monkeypatch.setattr)
    more = ["--dataset", "CLIC2021", "--preset", "sd21", "--metrics", "psnr"]
    assert run(tmp_path, tmp_path / "out", *more) == 0
    output = capsys.readouterr()
    assert "PICS on CLIC2021              the paper   this run" in output.err.splitlines()
    assert json.loads(output.out)["images"] == 1


@pytest.mark.parametrize("parameters", [processes.SMALL, processes.SMALL + 1])
def test_a_large_model_on_a_cpu_says_how_long_an_image_takes(
    samples, tmp_path, monkeypatch, capsys, parameters
):
    stub(monkeypatch.setattr, pause_s=0.6)
    monkeypatch.setattr(StubDecoder.generator, "parameters", parameters)
    assert run(tmp_path / "photos", tmp_path / "out", "--batch_size", "1") == 0
    lines = capsys.readouterr().err.splitlines()
    before = [line for line in lines if "on a CPU: minutes an image" in line]
    measured = [line for line in lines if "minutes an image, measured on the first 1" in line]
    slow = parameters > processes.SMALL
    assert len(before) == len(measured) == slow
    for line in measured:
        assert float(line.split("CPU: ")[1].split()[0]) >= 0.01


@pytest.mark.parametrize(
    "other", [("PICS", "CLIC2021", 256), ("PICS", "Kodak", 512), ("PICS", "mine", 512)]
)
def test_other_runs_are_not_compared_with_the_paper(other):
    assert beside_paper(*other, {"mean": {"bpp": 0.0155}, "set": {}}) == []
    assert beside_paper("PICS", "CLIC2021", 512, {"images": 0}) == []


def test_the_papers_figures_are_those_of_the_results_page():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for (method, dataset), (bpp, clip, lpips, fid, kid) in FIGURES.items():
        (line,) = re.findall(rf"^\| {dataset}.*, {method} \| (.*)$", page, re.MULTILINE)
        cells = [float(cell) for cell in line.split(" | ")[:5]]
        assert cells == [bpp, round(fid, 1), round(kid, 4), clip, lpips]


# ---- flags


def test_parsers():
    assert rate("0.5") == 0.5 and rate("codec.safetensors") == "codec.safetensors"
    assert positive("3") == 3 and natural("0") == 0 and seconds("0.5") == 0.5
    wrong = {positive: ("0", "-1", "1.5", "x"), natural: ("-1", "1.5", "x")}
    wrong |= {seconds: ("0", "-1", "inf", "nan", "x"), preset: ("no_such_preset",)}
    for parse, texts in wrong.items():
        for text in texts:
            with pytest.raises(argparse.ArgumentTypeError):
                parse(text)


def test_names_of_metrics_and_baselines():
    assert metric_names("psnr, color") == ("psnr", "color")
    assert baseline_names("avif, webp") == ("avif", "webp") and baseline_names("") == ()
    for parse in (metric_names, baseline_names):
        with pytest.raises(argparse.ArgumentTypeError, match="taste"):
            parse("taste")


def test_flags_become_the_encoders_configuration():
    argv = ["--preset", "sd15", "--N", "2", "--loss", "ms-ssim", "--color_bytes", "0"]
    argv += ["--prompt_bytes", "14", "--prompt_bits", "7", "--prompt_ascending"]
    argv += ["--prompt_steps", "9", "--prompt_seconds", "1.5", "--seed", "3"]
    argv += ["--prompt_search", "pez"]
    args = parser("").parse_args(argv)
    assert args.preset == PRESETS["sd15"]
    config = encoder_config(args, sketch=False)
    assert (config.sketch, config.lam_sketch) == (False, None)
    assert (config.candidates, config.loss, config.color_bytes) == (2, "ms-ssim", 0)
    prompt = config.prompt
    assert (prompt.text, prompt.source, prompt.length) == (None, "search", None)
    assert prompt.search == "pez" and encoder_config(parser("").parse_args([]), True) == (
        EncoderConfig()
    )
    assert (prompt.size, prompt.bits, prompt.ascending) == (14, 7, True)
    assert (prompt.steps, prompt.seconds, prompt.seed) == (9, 1.5, 3)
    assert config.together == 8 and config.execution == Execution()
    argv = ["--together", "3", "--compile", "--attention", "xformers", "--memory", "low"]
    config = encoder_config(parser("").parse_args(argv), sketch=True)
    assert config.together == 3 and config.execution == Execution("inductor", "xformers", "low")


@pytest.mark.parametrize(
    "argv",
    [
        ["--prompt", "a barn", "--prompt_from", "caption"],
        ["--prompt_len", "4", "--prompt_bytes", "9"],
        ["--prompt_patience", "3"],
        ["--prompt_restarts", "2"],
    ],
)
def test_flags_that_exclude_each_other_or_are_gone(argv):
    with pytest.raises(SystemExit) as stopped:
        parser("").parse_args(argv)
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("argv", "size"),
    [
        ([], 50),
        (["--dataset", "CLIC2020"], 100),
        (["--dataset", "CLIC2021"], 50),
        (["--dataset", "Kodak"], 10),
        (["--dataset", "Kodak", "--kid_subset_size", "12"], 12),
    ],
)
def test_kid_has_the_papers_subset_sizes(argv, size):
    assert kid_subset_size(parser("").parse_args(argv)) == size


def test_kid_of_too_few_images_is_refused_before_the_first(tmp_path, capsys):
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
    argv = ["--data_root", str(tmp_path), "--reference", str(tmp_path), "--metrics", "kid_folder"]
    argv += ["--output", str(tmp_path / "out"), "--kid_subset_size", "4"]
    assert evaluate(parser("").parse_args(argv), "PICS") == 2
    line = "error: kid_folder compares subsets of 4, of 3 images and 3 of the reference: "
    assert capsys.readouterr().err == f"{line}name fewer with --kid_subset_size\n"
    assert not (tmp_path / "out").exists()


# ---- time


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


def test_stopwatch_adds_up_what_threads_do_at_once():
    watch, both = Stopwatch(), threading.Barrier(2, timeout=60)

    def coding():
        with watch("coding"):
            both.wait()
            time.sleep(0.05)

    other = threading.Thread(target=coding)
    with watch("prompt"):
        other.start()
        coding()
        other.join()
    seconds = watch.read()
    assert seconds["coding"] >= 0.1
    assert seconds["prompt"] >= 0  # without what this thread coded, and that alone
