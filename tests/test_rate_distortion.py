"""benchmarks/rate_distortion.py: formats at budgets, curves, BD-rates, the record, the sheet.

python -m pytest tests/test_rate_distortion.py
"""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import contact_sheet, format_points
from benchmarks import rate_distortion as bench
from common.files import ROOT
from dataloaders import load_samples
from metrics.baselines import compress, load_codec

rng = np.random.default_rng(0)
NAMES = ("psnr", "pattern")


def picture(number: int) -> np.ndarray:
    y, x = np.mgrid[:192, :256]
    waves = [127.5 + 80 * np.sin(x / (9 + number) + y / (20 + 3 * c)) for c in range(3)]
    return np.clip(np.stack(waves, 2) + rng.normal(0, 4, (192, 256, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(picture(number)).save(folder / f"p{number}.png")
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """No worker processes; returns the images that were measured."""
    seen = []

    def measured(tasks, names, workers):
        for task in tasks:
            seen.append((task.name, [(point.format, point.budget) for point in task.points]))
            yield format_points.measure(names, task)

    monkeypatch.setattr(format_points, "measured", measured)
    return seen


def test_formats_are_measured_once(photos, tmp_path, in_this_process):
    samples = load_samples(photos, None, 192)
    kept = tmp_path / "formats.csv"
    rows = format_points.measure_formats(samples, ["jpeg", "webp"], [60, 400], NAMES, kept, 1)
    pairs = [(row["name"], row["format"], row["budget"]) for row in rows]
    assert pairs[:4] == [("p0", f, b) for f in ("jpeg", "webp") for b in (60, 400)]
    assert len(rows) == 8 and len(in_this_process) == 2
    found = compress(samples[1].image, load_codec("webp"), 400)
    last = rows[-1]
    assert (last["bytes"], last["scale"]) == (len(found.data), found.scale)
    assert last["bpp"] == 8 * last["bytes"] / (192 * 256)
    assert last["psnr"] == pytest.approx(10 * np.log10(255**2 / found.squared_error), abs=1e-3)
    assert rows[0]["bytes"] is None  # no JPEG is so small

    again = format_points.measure_formats(samples, ["webp"], [60, 400], NAMES, kept, 1)
    assert len(in_this_process) == 2
    assert [row["psnr"] for row in again] == [
        row["psnr"] for row in rows if row["format"] == "webp"
    ]
    format_points.measure_formats(samples, ["webp"], [400, 500], NAMES, kept, 1)
    assert in_this_process[2:] == [("p0", [("webp", 500)]), ("p1", [("webp", 500)])]
    format_points.measure_formats(samples[:1], ["webp"], [400], ("psnr",), kept, 1)
    assert len(in_this_process) == 5  # other metrics are other points


def points(series: str, values: dict[int, float], metric: str = "psnr") -> list[dict]:
    found = []
    for budget, value in values.items():
        mean = {"bytes": budget - 1, "bpp": budget / 1000, metric: value}
        found += bench.curve_points(series, budget, mean, {}, [metric])
    return found


def test_a_format_has_a_point_where_all_images_fit():
    rows = []
    for name, size in (("a", 390), ("b", 400)):
        for budget, fits in ((60, name == "a"), (400, True)):
            row = {"name": name, "format": "webp", "budget": budget, "key": "k"}
            row |= {"bytes": size if fits else None, "bpp": 0.1, "scale": 0.5, "psnr": size / 20}
            rows.append(row)
    (point,) = bench.format_points(rows, ["psnr"])
    assert (point["series"], point["budget"], point["bytes"]) == ("WebP", 400, 395)
    assert (point["metric"], point["mean"], point["low"]) == ("psnr", 19.75, 19.5)


def test_the_best_format_by_what_the_metric_calls_better():
    found = points("WebP", {60: 18, 100: 19}) + points("AVIF", {100: 20})
    found += points("WebP", {100: 0.5}, "lpips_squeeze") + points(
        "AVIF", {100: 0.6}, "lpips_squeeze"
    )
    assert bench.best_formats(found) == {
        "psnr": {60: ["WebP", 18], 100: ["AVIF", 20]},
        "lpips_squeeze": {100: ["WebP", 0.5]},
    }


def test_bd_rates_are_over_the_range_and_against_the_best_too():
    curve = {50: 10.0, 100: 18.0, 200: 19.0, 400: 20.0}
    ours = points(bench.OURS, {budget // 2: value for budget, value in curve.items()})
    better = points("JPEG XL", {100: 18.5, 200: 18.9, 400: 19.9})
    for point in better:
        point["bytes"] -= 1  # a cheaper point that is worse is none of the best
    all_points = ours + points("WebP", curve) + better
    rates = bench.bd_rates(all_points + points("WebP", curve, "pattern"), 50, 500)
    assert list(rates) == [bench.BEST, "WebP", "JPEG XL"] and list(rates["WebP"]) == ["psnr"]
    assert rates["WebP"]["psnr"] == pytest.approx(-50, abs=1.5)  # bytes are one less than budgets
    best = points("WebP", {50: 10.0, 200: 19.0, 400: 20.0}) + better[:1]
    expected = bench.bd_rates(ours + [dict(point, series="WebP") for point in best], 50, 500)
    assert rates[bench.BEST]["psnr"] == pytest.approx(expected["WebP"]["psnr"])


@pytest.fixture
def ours(monkeypatch):
    """Stands for eval_PICS.py: a run whose reconstructions are WebP's; none within 30 bytes."""
    commands = []
    start = subprocess.run

    def run(command, **options):
        if command[0] != sys.executable:  # git
            return start(command, **options)
        commands.append(command)
        flags = dict(zip(command[2::2], command[3::2], strict=False))
        budget = int(flags["--bytes"])
        if budget == 30:
            raise subprocess.CalledProcessError(2, command)
        folder = bench.Path(flags["--output"], "PICS_tiny_photos")
        folder.mkdir(parents=True)
        write_run(folder, flags["--data_root"], budget)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(bench.subprocess, "run", run)
    return commands


def write_run(folder, photos, budget):
    metrics = format_points.load_metrics(NAMES)
    rows = []
    for sample in load_samples(photos, None, 256):
        found = compress(sample.image, load_codec("webp"), budget)
        (folder / f"{sample.name}.pics").write_bytes(found.data)
        Image.fromarray(found.image).save(folder / f"{sample.name}_recon.png")
        rate = 8 * len(found.data) / (256 * 320)
        row = {"name": sample.name, "prompt": "", "bytes": len(found.data), "bpp": rate}
        rows.append(row | metrics.measure(sample.image, found.image))
    mean = {name: float(np.mean([row[name] for row in rows])) for name in ("bytes", "bpp", *NAMES)}
    summary = {"method": "PICS", "dataset": "photos", "images": len(rows), "mean": mean}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "results.csv").write_bytes(format_points.csv_file(rows))


def test_a_run_from_end_to_end(photos, tmp_path, ours, in_this_process, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SHEET_BUDGETS", (30, 120))
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setattr(bench, "commit", lambda: "abc1234")
    out, record, sheet = tmp_path / "out", tmp_path / "kodak.csv", tmp_path / "sheet.jpg"
    argv = ["--data_root", str(photos), "--out", str(out), "--metrics", ",".join(NAMES)]
    argv += ["--budgets", "30", "400", "--formats", "webp", "jpegxl"]
    argv += ["--record", str(record), "--sheet", str(sheet)]
    assert bench.main(argv) == 0
    told = capsys.readouterr()
    summary = json.loads(told.out)
    assert summary["images"] == 2
    assert "pip install pillow-jxl-plugin" in summary["not_measured"]["JPEG XL"]
    assert summary["not_measured"]["PICS, 30 bytes"] == "eval_PICS.py ended with status 2"
    assert summary["best_format"]["psnr"]["400"][0] == "WebP"
    assert summary["bd_rate"][bench.BEST]["psnr"] == pytest.approx(0, abs=0.01)
    assert [command[3] for command in ours] == ["30", "120", "400"]
    assert "--overwrite" not in ours[0]

    rows = list(csv.DictReader(io.StringIO(record.read_text())))
    assert [row["budget"] for row in rows] == ["120", "400"]
    first = {"commit": "abc1234", "preset": "tiny", "dataset": "photos", "images": "2"}
    assert first.items() <= rows[0].items() and float(rows[0]["psnr"]) > 10
    for name in ("rate_psnr", "rate_pattern", "overview"):
        for ending in (".png", "_dark.png", ".pdf"):
            assert (out / f"{name}{ending}").stat().st_size > 1000
    with Image.open(sheet) as picture:  # 2 columns, since 30 bytes fail; 2 lines for each of 2
        assert picture.size == (2 * (320 + 4), 4 * (256 + 22))


def test_the_record_keeps_what_it_has(tmp_path, monkeypatch):
    path = tmp_path / "results" / "kodak.csv"
    argv = ["--data_root", str(tmp_path), "--metrics", "psnr,ms_ssim"]
    args = bench.parse_args(argv)
    monkeypatch.setattr(bench, "commit", lambda: "1e10")  # a hash that looks like a number
    for _ in range(2):
        bench.record(path, args, points(bench.OURS, {60: 18.0, 100: 19.0}), 24)
    monkeypatch.setattr(bench, "commit", lambda: "b")
    bench.record(path, args, points(bench.OURS, {60: 0.5}, "ms_ssim"), 24)
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["commit"] for row in rows] == ["1e10", "1e10", "b"]
    assert [row["psnr"] for row in rows] == ["18.0", "19.0", ""]
    assert [row["ms_ssim"] for row in rows] == ["", "", "0.5"]


def test_runs_of_a_tree_with_changes_are_made_anew(photos, tmp_path, ours, monkeypatch):
    args = bench.parse_args(["--data_root", str(photos), "--out", str(tmp_path)])
    monkeypatch.setattr(bench, "commit", lambda: "abc1234-dirty")
    bench.run_ours(args, 400)
    assert "--overwrite" in ours[0]


def test_the_sheet_says_what_does_not_fit(photos, tmp_path):
    samples = load_samples(photos, None, 256)
    write_run(tmp_path, photos, 400)
    (tmp_path / "p0.pics").write_bytes(b"x" * 20)
    (top, bottom) = contact_sheet.lines_of(samples[0], {60: tmp_path})
    assert [title for title, _ in top] == ["p0", "ours, 20 bytes"]
    assert [title for title, _ in bottom] == ["", "WebP: none of 20 bytes"]
    assert (bottom[1][1] == contact_sheet.EMPTY).all()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data_root", "/nowhere"], "no such folder"),
        (["--data_root", ".", "--short_side", "512"], "tiny codes at 256"),
        (["--data_root", ".", "--only", "formats", "--sheet", "x.jpg"], "leave --only out"),
        (["--data_root", ".", "--metrics", "psnr,fid_patches"], "metrics of images only"),
        (["--data_root", ".", "--preset", "sd99"], "sd99"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "rate_distortion.py"), *argv],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
