"""BD-rates: of any metric, and of the runs that report.py compares.

python -m pytest tests/test_bd_rate.py
"""

import json
import sys

import pytest

import report
from common.weights import UnavailableError
from metrics.bd_rate import bd_rate, rising
from reporting.bd_rates import bd_lines, bd_rates
from reporting.tables import csv_file

CURVES = {
    "psnr": [(60, 19.0), (120, 20.5), (240, 21.5), (430, 22.25)],
    "ms_ssim": [(60, 0.5), (120, 0.62), (240, 0.72), (430, 0.79)],
    "lpips_squeeze": [(60, 0.9), (120, 0.8), (240, 0.7), (430, 0.55)],
}


def scaled(points, factor):
    return [(rate * factor, value) for rate, value in points]


@pytest.mark.parametrize("metric", CURVES)
def test_half_the_rate_is_minus_fifty_percent(metric):
    points = CURVES[metric]
    assert bd_rate(points, scaled(points, 0.5), metric) == pytest.approx(-50)
    assert bd_rate(points, scaled(points, 3), metric) == pytest.approx(200)
    assert bd_rate(points, points[::-1], metric) == pytest.approx(0)  # in any order


def test_a_straight_curve_in_closed_form():
    """PSNR is linear in the logarithm of the rate, the test's is half a decade higher."""
    anchor = [(10, 20.0), (100, 21.0), (1000, 22.0), (10_000, 23.0)]
    test = [(10, 20.5), (100, 21.5), (1000, 22.5)]
    assert bd_rate(anchor, test, "psnr") == pytest.approx(100 * (10**-0.5 - 1))


def test_points_that_give_no_more_do_not_count():
    points = CURVES["psnr"]
    assert rising([*points, (300, 21.5), (240, 20.0)]) == points
    with_worse = [*points, (500, 20.0)]
    assert bd_rate(points, with_worse, "psnr") == pytest.approx(0)


def test_what_cannot_be_compared():
    points = CURVES["psnr"]
    assert bd_rate(points, [(9, 30.0), (20, 31.0)], "psnr") is None  # no common range
    assert bd_rate(points, [(9, 20.0)], "psnr") is None
    assert bd_rate(CURVES["ms_ssim"], [(9, 1.0), (20, 1.0)], "ms_ssim") is None  # infinite


def points_of(series: str, metric: str, factor: float, count: int = 4) -> list[dict]:
    chosen = scaled(CURVES[metric], factor)[:count]
    return [{"series": series, "metric": metric, "bpp": rate, "mean": v} for rate, v in chosen]


def test_series_of_four_points_are_compared_once():
    points = points_of("WebP", "psnr", 1) + points_of("PICS", "psnr", 0.5)
    points += points_of("AVIF", "psnr", 1, count=3) + points_of("PICS", "lpips_squeeze", 1)
    # Unknown which way is better; and no quality.
    points += [dict(point, metric=name) for point in points for name in ("niqe", "pattern")]
    (row,) = bd_rates(points)
    assert row.pop("percent") == pytest.approx(100)
    assert row == {"series": "WebP", "anchor": "PICS", "metric": "psnr"}


def test_four_runs_of_one_rate_are_no_curve():
    points = points_of("WebP", "psnr", 1) + 4 * points_of("PICS", "psnr", 1, count=1)
    assert bd_rates(points) == []


def test_all_metrics_of_a_pair_stand_on_one_line():
    points = []
    for metric in ("psnr", "ms_ssim"):
        points += points_of("PICS", metric, 0.5) + points_of("WebP", metric, 1)
    far = [dict(point, bpp=point["bpp"], mean=point["mean"] + 50) for point in points[:4]]
    points += [dict(point, series="JPEG") for point in far]
    first, second, third = bd_lines(bd_rates(points))
    assert first == "BD-rate of PICS against WebP: PSNR, dB -50.0%; MS-SSIM -50.0%"
    assert second == "BD-rate of PICS against JPEG: PSNR, dB no common range"
    assert third == "BD-rate of WebP against JPEG: PSNR, dB no common range"


def test_without_the_package_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    with pytest.raises(UnavailableError, match="pip install bjontegaard"):
        bd_rate(CURVES["psnr"], CURVES["psnr"], "psnr")


@pytest.fixture
def runs(tmp_path):
    """Four runs of PICS, each with WebP at twice the rate for the same PSNR."""
    folders = []
    for rate, psnr in CURVES["psnr"]:
        folder = tmp_path / f"{rate}" / "PICS_tiny_photos"
        folder.mkdir(parents=True)
        row = {"name": "a", "prompt": "", "bytes": rate, "bpp": rate / 1000, "psnr": psnr}
        (folder / "results.csv").write_bytes(csv_file([row]))
        mean = {"bytes": rate, "bpp": rate / 1000, "psnr": psnr}
        webp = {"images": 1, "mean": mean | {"bpp": rate / 500}, "intervals": {}}
        summary = {"method": "PICS", "dataset": "photos", "images": 1, "mean": mean}
        summary["baselines"] = {"WebP": webp}
        (folder / "summary.json").write_text(json.dumps(summary))
        folders.append(str(folder))
    return folders


def test_report_prints_bd_rates(runs, tmp_path, capsys):
    assert report.main([*runs, "--output", str(tmp_path / "all")]) == 0
    line, last = capsys.readouterr().out.splitlines()
    assert line == "BD-rate of PICS against WebP: PSNR, dB -50.0%"
    assert json.loads(last) == {"page": str(tmp_path / "all" / "index.html")}


def test_report_prints_none_of_fewer_runs_or_without_the_package(
    runs, tmp_path, capsys, monkeypatch
):
    output = ["--output", str(tmp_path / "all")]
    assert report.main([*runs[:3], *output]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    assert report.main([*runs, *output]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1 and "pip install bjontegaard" in told.err
