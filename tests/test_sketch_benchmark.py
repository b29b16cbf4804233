"""benchmarks/sketch_codec.py: rates at equal quality, the classical formats, a run, wrong usage.

python -m pytest tests/test_sketch_benchmark.py
"""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import formats
from benchmarks import sketch_codec as bench
from benchmarks.formats import BILEVEL_FAMILIES, classical_settings, missing_programs
from benchmarks.rate_curves import bd_rate, frontier, rate_reaching, summary_of_rates
from models_ntc import lambda_range
from models_ntc.codec import new_network

ROOT = Path(__file__).parent.parent


def soft_lines(height=192, width=256, seed=0):
    y, x = np.mgrid[:height, :width].astype(np.float64)
    wave = np.sin(x / (9 + seed)) * 30 + height / 2 - y
    ring = np.hypot(x - width / 3, y - height / 2) - height / (4 + seed)
    return (255 * np.exp(-(np.minimum(abs(wave), abs(ring)) ** 2) / 6)).astype(np.uint8)


def test_the_hull_keeps_what_no_mixture_beats():
    points = [(4, 0.9), (1, 0.5), (2, 0.8), (2, 0.7), (3, 0.82), (5, 0.85), (1, 0.4)]
    assert frontier(points) == [(1, 0.5), (2, 0.8), (4, 0.9)]
    assert frontier([(1, 0.5), (2, 0.6), (3, 0.9)]) == [(1, 0.5), (3, 0.9)]


def test_lowest_rate_that_reaches_a_quality():
    hull = [(1, 0.5), (2, 0.8), (4, 0.9)]
    assert rate_reaching(hull, 0.85) == pytest.approx(3)
    assert rate_reaching(hull, 0.3) == 1
    assert rate_reaching(hull, 0.91) is None


def test_half_the_rate_at_every_quality_is_minus_fifty_per_cent():
    anchor = [(0.02, 0.80), (0.03, 0.88), (0.05, 0.93), (0.09, 0.96)]
    half = [(rate / 2, quality) for rate, quality in anchor]
    result = bd_rate(anchor, half)
    assert result["percent"] == pytest.approx(-50) and result["ms_ssim_range"] == [0.80, 0.96]
    assert bd_rate(half, anchor)["percent"] == pytest.approx(100)
    assert bd_rate(anchor, [(0.01, 0.5), (0.015, 0.7)]) is None
    assert bd_rate(anchor, half[:1]) is None


def row(family, setting, bpp, ms_ssim, edge_f1=0.9):
    found = {"family": family, "setting": setting, "bpp": bpp}
    return found | {"ms_ssim": ms_ssim, "edge_f1": edge_f1}


def test_a_rate_above_a_classical_one_is_told():
    classical = [
        row("AVIF", "1", 0.02, 0.8),
        row("AVIF", "2", 0.04, 0.9),
        row("WebP", "1", 0.05, 0.88),
    ]
    ours = [row("ours", "a", 0.01, 0.85), row("ours", "b", 0.02, 0.95)]
    low = summary_of_rates([*ours, *classical])
    assert low["no_point_above_classical"] is True
    rates = [point["classical_bpp"] for point in low["at_equal_ms_ssim"]]
    assert rates == [pytest.approx(0.03), None]
    assert low["bd_rate"]["best classical"]["percent"] < 0
    ours = [row("ours", "a", 0.01, 0.85), row("ours", "b", 0.041, 0.9)]
    high = summary_of_rates([*ours, *classical])
    assert high["no_point_above_classical"] is False


@pytest.mark.parametrize("setting", classical_settings(), ids=lambda s: f"{s.family} {s.label}")
def test_files_are_whole_and_give_the_sketch_back(setting):
    sketch = soft_lines()
    data = setting.encode(sketch)
    decoded = setting.decode(data)
    assert decoded.shape == sketch.shape and decoded.dtype == np.uint8
    # Of so small a sketch, made smaller still, some files hold little but a header.
    if setting.label.startswith(("1/1", "1/2")):
        assert np.corrcoef(decoded.ravel(), sketch.ravel())[0, 1] > 0.5
    if setting.family != "JBIG2":
        Image.open(io.BytesIO(data)).load()


def test_bilevel_files_hold_the_map_cut_at_a_half():
    sketch = soft_lines()
    exact = []
    for setting in classical_settings():
        if setting.family in BILEVEL_FAMILIES and setting.label == "1/1":
            exact.append(setting)
    assert len(exact) >= 2
    cut = np.where(sketch >= 128, 255, 0)
    for setting in exact:
        assert np.array_equal(setting.decode(setting.encode(sketch)), cut)


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    torch.manual_seed(0)
    net = new_network("cheng2020-attn", {"N": 8})
    with torch.no_grad():
        net.g_a[7].weight.mul_(60)
    path = tmp_path_factory.mktemp("paper") / "paper.pt"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketches")
    for seed in range(2):
        Image.fromarray(soft_lines(200, 192, seed)).save(folder / f"{seed}.png")
    return folder


def test_a_run_and_a_second_one_that_finds_it_done(paper, folder, tmp_path, capsys, monkeypatch):
    lambdas = [str(lam) for lam in lambda_range()]
    arguments = ["--sketches", str(folder), "--lambdas", *lambdas, "--paper", str(paper)]
    arguments += ["--repeats", "1", "--timing_sketches", "1", "--threads", "1"]
    arguments += ["--out", str(tmp_path)]
    before = torch.get_num_threads()
    assert bench.main(arguments) == 0
    torch.set_num_threads(before)
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    results = json.loads((tmp_path / "sketch_codec.json").read_text())
    assert summary == results["summary"] and summary["sketches"] == 2
    settings = len(classical_settings()) + 3
    assert len(results["settings"]) == settings and len(results["rows"]) == 2 * settings
    for found in results["rows"]:
        assert found["bpp"] == pytest.approx(8 * found["bytes"] / (192 * 192))
    assert summary["speed"]["share_of_equal_symbols"] > 0.999
    assert summary["speed"]["share_of_symbols_not_0"] > 0.01
    assert {"ours", "paper", "AVIF"} <= {found["family"] for found in results["settings"]}
    assert all(word in captured.err for word in ("ours", "CCITT group 4", "MS-SSIM"))
    assert Image.open(tmp_path / "sketch_codec.png").width > 1000

    monkeypatch.setattr(bench, "start_worker", None)  # nothing is left to measure
    assert bench.main([*arguments, "--repeats", "0"]) == 0
    assert json.loads((tmp_path / "sketch_codec.json").read_text())["rows"] == results["rows"]


def test_without_its_programs_jbig2_is_reported_and_left_out(monkeypatch):
    monkeypatch.setattr(formats, "which", lambda program: None)
    assert missing_programs() == ["jbig2", "jbig2dec"]
    assert "JBIG2" not in {setting.family for setting in classical_settings()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lambdas", "no/such.file"], "no/such.file"),
        (["--sketches", "/nowhere"], "/nowhere"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_wrong_usage(arguments, words, capsys):
    try:
        status = bench.main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and words in capsys.readouterr().err


def test_small_sketches_are_refused(tmp_path, capsys):
    Image.fromarray(soft_lines(128, 192)).save(tmp_path / "small.png")
    assert bench.main(["--sketches", str(tmp_path)]) == 2
    assert "192x128" in capsys.readouterr().err


def test_help_does_not_load_the_models():
    probe = "import sys, runpy; sys.argv = ['benchmarks/sketch_codec.py', '--help']\n"
    probe += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    probe += "except SystemExit as stop: assert stop.code == 0\n"
    probe += "assert not {'torch', 'compressai', 'matplotlib', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
