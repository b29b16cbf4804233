"""Results of runs: rows, means, the page of a run, curves and the page that compares runs.

python -m pytest tests/test_report.py
"""

import csv
import dataclasses
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from helpers.logs import report as write_log_and_report
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import report
from dataloaders import Samples
from metrics import SetValue
from reporting.averages import averages
from reporting.columns import Column, column_of, shown
from reporting.curves import compare, curve_points, error_bars, labels_of, plot, series_of
from reporting.page import images_of, sort_values
from reporting.rendering import link
from reporting.rows import columns_of, numbers_of
from reporting.runs import read_run
from reporting.tables import csv_file, read_csv

HOSTILE = """<script>x=1</script>"><img src=x onerror=x=1>'{{77*77}}&amp;"""
EVIL_NAME = "".join(c for c in HOSTILE if c != "/")  # what a file name can hold
ROW = {
    "prompt": "a barn",
    "bpp": 0.04,
    "bytes": 134,
    "bytes_text": 22,
    "bytes_sketch": 100,
    "bytes_overhead": 12,
}


def make_run(
    folder: Path, rows: list[dict], original: bool = True, sketch: bool = True, **summary
) -> Path:
    """A finished run of small plain images: originals red, sketches black, reconstructions blue."""
    folder.mkdir(parents=True)
    colors = {"_original.png": "red"} if original else {}
    colors |= {"_sketch.png": "black", "_sketch_recon.png": "black"} if sketch else {}
    for row in rows:
        for ending, color in (colors | {"_recon.png": "blue"}).items():
            Image.new("RGB", (96, 64), color).save(folder / f"{row['name']}{ending}")
    whole = {"method": "PICS", "dataset": "photos", "images": len(rows)}
    whole |= means_of(rows) | summary
    (folder / "results.csv").write_bytes(csv_file(rows))
    (folder / "summary.json").write_text(json.dumps(whole))
    settings = {"method": whole["method"], "preset": "tiny", "N": None}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def means_of(rows: list[dict]) -> dict:
    """Means, and the least and the largest values in place of bootstrap intervals."""
    mean, intervals = {}, {}
    for column in columns_of(rows):
        numbers = numbers_of(rows, column)
        if numbers:
            mean[column] = fmean(numbers)
            intervals[column] = [min(numbers), max(numbers)]
    return {"mean": mean, "intervals": intervals}


def rows_of(*psnrs: float | None) -> list[dict]:
    rows = []
    for i, psnr in enumerate(psnrs):
        rows.append({"name": f"p{i}", **ROW, "bytes": 134 + i, "psnr": psnr})
    return rows


class Page(HTMLParser):
    """The elements, addresses and texts of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_averages_pass_over_what_is_missing():
    rows = [
        {"name": "a", "psnr": 10.0, "lpips_alex": None},
        {"name": "b", "psnr": 12, "lpips_alex": None},
        {"name": "c"},
    ]
    assert averages(rows) == {"mean": {"psnr": 11.0}, "intervals": {"psnr": [10.0, 12.0]}}
    assert averages(rows[:1]) == {"mean": {"psnr": 10.0}, "intervals": {}}  # of one there is none


def test_csv_comes_back(tmp_path):
    rate = {"bytes": 3, "bpp": 0.25}
    rows = [
        {"name": "007", "prompt": 'a, "b"\nc', "psnr": 1.5, **rate},
        {"name": "nan", "prompt": "", "lpips_alex": 2.0, **rate},
    ]
    (tmp_path / "x.csv").write_bytes(csv_file(rows))
    empty = dict.fromkeys(("psnr", "lpips_alex"))
    assert list(read_csv(tmp_path / "x.csv", most=2)) == [empty | row for row in rows]


def test_write_report_makes_the_page(tmp_path):
    record = "name: a\nprompt: a barn\nbytes: {text: 22, total: 22}\nbpp: {total: 0.5}\n"
    record += "metrics: {psnr: 9.5, lpips_alex: null}"
    (tmp_path / "a_caption.yaml").write_text(record)
    for ending in ("_recon.png", ".png"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"a{ending}")
    samples = Samples("photos", ("a", "b"), (str(tmp_path / "a.png"), "b.png"), 64)
    values = {"fid_patches": SetValue(3.5, 8, 9), "kid_patches": SetValue(None, 1, 1)}
    values["kid_folder"] = SetValue(0.25, 60, 70, 50)
    missing = {"lpips_alex": "no weights", "kid_patches": "too few"}
    summary = write_log_and_report(tmp_path, samples, "PIC", {"b": "broken"}, values, missing)
    assert summary["set"] == {
        "fid_patches": {"value": 3.5, "reconstructions": 8, "others": 9},
        "kid_folder": {"value": 0.25, "reconstructions": 60, "others": 70, "subset_size": 50},
    }
    assert summary["not_available"] == missing
    html = (tmp_path / "index.html").read_text()
    assert html.count("no weights") == html.count("too few") == 1  # said once
    for text in ("3.500", "8 against 9", "1 failed", "1 image,", "folder, subsets of 50"):
        assert text in html
    assert read_run(tmp_path).sets == summary["set"]
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["command"].startswith("python ") and made["versions"]["numpy"] == np.__version__


def test_report_of_nothing_has_a_page(tmp_path):
    write_log_and_report(
        tmp_path, Samples("photos", ("a",), ("a.png",), 64), "PIC", {"a": "broken"}
    )
    assert "0 images" in page_of(tmp_path).texts


def test_page_shows_pictures_bytes_and_metrics(tmp_path):
    run = make_run(tmp_path / "run", rows_of(10.0, 20.5, None))
    assert report.main([str(run)]) == 0
    page = page_of(run)
    pictures = {image["src"] for image in page.all("img")}
    endings = ("original", "sketch", "sketch_recon", "recon")
    assert pictures == {f"./p{i}_{ending}.png" for i in range(3) for ending in endings}
    for image in page.all("img"):
        assert image["loading"] == "lazy"
        assert (image["width"], image["height"]) == ("96", "64")
    assert len(page.all("article")) == len(page.all("input")) == 3
    texts = ["20.500", "of 2 images", "sketch 100", "a barn", "default", "of the data set"]
    for text in texts:
        assert any(text in words for words in page.texts), text
    values = [json.loads(article["data-values"]) for article in page.all("article")]
    assert values[1]["psnr"] == 20.5 and "psnr" not in values[2]


def test_everything_is_in_the_folder(tmp_path):
    run = make_run(tmp_path / "run", rows_of(10.0))
    report.main([str(run)])
    page = page_of(run)
    addresses = [a[key] for _, a in page.elements for key in ("src", "href", "srcset") if key in a]
    local = [address for address in addresses if address != "data:,"]
    assert not any(urlparse(address).scheme or urlparse(address).netloc for address in local)
    streams = [address for address in local if address.endswith(".pics")]
    assert streams == ["./p0.pics"]
    assert all((run / unquote(address)).exists() for address in local if address not in streams)
    style = (run / "index.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "@import" not in style and style.count("url(") == style.count('url("data:')


@pytest.mark.parametrize(
    ("original", "sketch", "wipe"), [(True, True, "original"), (False, True, "sketch sent")]
)
def test_wipe_takes_what_is_there(tmp_path, original, sketch, wipe):
    run = read_run(make_run(tmp_path / "run", rows_of(10.0), original, sketch))
    assert images_of(run)[0]["wipe"] == wipe


def test_no_wipe_with_nothing_to_compare(tmp_path):
    run = make_run(tmp_path / "run", rows_of(10.0), original=False, sketch=False, method="PIC")
    report.main([str(run)])
    assert not page_of(run).all("input") and len(page_of(run).all("img")) == 2
    assert "Drag" not in (run / "index.html").read_text()


def test_strangers_text_stays_text(tmp_path):
    rows = [{"name": EVIL_NAME, **ROW, "prompt": HOSTILE, f"bytes_{HOSTILE}": 3, HOSTILE: 1.5}]
    summary = {"dataset": HOSTILE, "failed": [HOSTILE], "not_available": {HOSTILE: HOSTILE}}
    run = make_run(tmp_path / "run", rows, **summary)
    (run / "settings.json").write_text(json.dumps({"preset": HOSTILE, HOSTILE: HOSTILE}))
    (run / "made.json").write_text(json.dumps({"command": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    other = shutil.copytree(run, tmp_path / "other")
    assert report.main([str(run)]) == 0
    assert report.main([str(run), str(other), "--output", str(tmp_path / "both")]) == 0
    for folder in (run, tmp_path / "both"):
        page = page_of(folder)
        assert len(page.all("script")) == 1 and not page.all("script")[0]
        for _, attributes in page.elements:
            assert not [key for key in attributes if key.startswith("on")]
        assert all(image["src"].startswith("./") for image in page.all("img"))
        assert EVIL_NAME in page.texts and "5929" not in " ".join(page.texts)
        assert json.loads(page.all("article")[0]["data-values"])["name"] == EVIL_NAME
    assert HOSTILE in page_of(run).texts  # the prompt
    files = {path.name for path in (tmp_path / "both").iterdir()}
    assert len([name for name in files if name.startswith("rate_") and "<" not in name]) == 3


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1))
def test_links_lead_to_the_file(name):
    address = link(name)
    assert unquote(address) == f"./{name}"
    parts = urlparse(address)
    assert not (parts.scheme or parts.netloc or parts.query or parts.fragment)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("not there", "-"), (12.34567, "12.346"), (float("inf"), "∞"), (0, "0.000")],
)
def test_values_as_a_reader_sees_them(value, text):
    assert shown("psnr", value) == text


def test_unknown_columns_are_shown_too():
    assert column_of("some_metric") == Column("some metric", None, "")
    assert shown("some_metric", 1234.5678) == "1235"


def test_values_to_sort_by_are_json():
    row = {"a": float("inf"), "b": float("nan"), "c": None, "d": "x", "e": -1}
    assert json.loads(sort_values(row, list("abcde"))) == {"a": 1e308, "d": "x", "e": -1}


def test_a_thousand_images(tmp_path):
    run = make_run(tmp_path / "run", rows_of(1.0))
    rows = [{"name": f"p{i}", **ROW, "psnr": float(i)} for i in range(1000)]
    (run / "results.csv").write_bytes(csv_file(rows))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"images": 1000}))
    assert report.main([str(run)]) == 0
    assert len(page_of(run).all("article")) == 1000


def break_run(run: Path, how: str) -> Path:
    if how == "nothing there":
        return run / "nowhere"
    if how == "a file":
        return run / "results.csv"
    if how == "a column missing":
        (run / "results.csv").write_text("name\na\n")
    if how == "half a summary":
        (run / "summary.json").write_text("{")
    if how == "no method":
        (run / "summary.json").write_text('{"images": 0}')
    if how == "no results":
        (run / "results.csv").unlink()
    return run


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nothing there", "is no run"),
        ("a file", "is no run"),
        ("no results", "is no run"),
        ("half a summary", "summary.json: Expecting property name"),
        ("no method", "no method, dataset"),
        ("a column missing", "no bytes, bpp"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, capsys, how, message):
    good = make_run(tmp_path / "good", rows_of(10.0))
    run = break_run(make_run(tmp_path / "run", rows_of(10.0)), how)
    assert report.main([str(good), str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error and str(run) in error
    assert not (tmp_path / "comparison").exists()


@pytest.fixture
def two(tmp_path):
    """Two runs that differ in a setting, the second with a baseline."""
    runs = []
    for i, candidates in enumerate((1, 4)):
        rows = rows_of(10.0 + i, 12.0 + i, 17.0)[: 3 - i]
        rows = [row | {"bpp": 0.01 * (i + 1)} for row in rows]
        avif = {"mean": {"bpp": 0.03, "psnr": 19.0}, "intervals": {"psnr": [18.0, 20.5]}}
        run = make_run(tmp_path / str(i) / "run", rows, baselines={"AVIF": avif} if i else {})
        settings = {"method": "PICS", "preset": "tiny", "N": candidates}
        (run / "settings.json").write_text(json.dumps(settings))
        runs.append(run)
    return runs


def test_comparison(two, tmp_path, capsys):
    assert report.main([*map(str, two), "--output", str(tmp_path / "both")]) == 0
    output = tmp_path / "both"
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == {"page": str(output / "index.html")}
    with (output / "curves.csv").open() as file:
        points = list(csv.DictReader(file))
    columns = ("series", "run", "metric", "bpp", "mean")
    assert [tuple(point[column] for column in columns) for point in points] == [
        ("PICS", "PICS, N 1", "psnr", "0.01", "13.0"),
        ("PICS", "PICS, N 4", "psnr", "0.02", "12.0"),
        ("AVIF", "PICS, N 4", "psnr", "0.03", "19.0"),
    ]
    assert (points[2]["low"], points[2]["high"], points[2]["bpp_low"]) == ("18.0", "20.5", "")
    assert (points[0]["low"], points[0]["high"]) == ("10.0", "17.0")
    for file in ("rate_psnr.png", "rate_psnr_dark.png"):
        assert Image.open(output / file).width > 500
    assert (output / "rate_psnr.pdf").read_bytes().startswith(b"%PDF")
    page = page_of(output)
    values = [json.loads(article["data-values"]) for article in page.all("article")]
    assert [value["name"] for value in values] == ["p0", "p1"]
    assert values[0]["psnr"] == 10.5
    addresses = [image["src"] for image in page.all("img")]
    addresses += [anchor["href"] for anchor in page.all("a")]
    for address in addresses:
        known = (output / unquote(address)).exists()
        assert known or address.endswith("run/index.html")  # the runs' pages, not written here
    assert {"AVIF, beside PICS, N 4", "18.000 to 20.500"} <= set(page.texts)


def test_curves_join_runs_and_show_intervals(two):
    points = curve_points([read_run(run) for run in two])
    assert error_bars(points[2:], "mean", "low", "high") == [[1.0], [1.5]]
    assert error_bars(points[2:], "bpp", "bpp_low", "bpp_high") == [[0.0], [0.0]]
    plain = [point | {"low": None, "high": None} for point in points]
    assert plot(points, "psnr", "png") != plot(plain, "psnr", "png")
    apart = [point | {"series": str(i)} for i, point in enumerate(points)]
    assert plot(points, "psnr", "png") != plot(apart, "psnr", "png")


def test_labels_tell_runs_apart(two):
    runs = [read_run(run) for run in two]
    settings = {"method": "PIC", "preset": "tiny", "N": 1}
    pic = dataclasses.replace(runs[0], method="PIC", settings=settings)
    assert labels_of([runs[0], pic]) == ["PICS", "PIC"]
    other = dataclasses.replace(runs[1], dataset="other")
    assert labels_of([runs[0], other]) == ["PICS, photos, N 1", "PICS, other, N 4"]
    assert series_of([runs[0], other]) == ["PICS, photos", "PICS, other"]
    assert labels_of([runs[0], runs[0]])[0] == f"PICS ({two[0]})"


def test_runs_of_other_images_share_only_the_table(two, tmp_path):
    runs = [read_run(run) for run in two]
    compare([runs[0], dataclasses.replace(runs[1], dataset="other")], tmp_path / "both")
    page = page_of(tmp_path / "both")
    assert not page.all("article") and page.all("table")


def test_baselines_stand_below_their_run(two):
    for run in two:
        assert report.main([str(run)]) == 0
    assert not page_of(two[0]).all("table")
    assert {"AVIF, beside PICS", "0.0300", "18.000 to 20.500"} <= set(page_of(two[1]).texts)


def test_comparison_spares_a_run(two, capsys):
    assert report.main([*map(str, two), "--output", str(two[1])]) == 2
    assert "holds a run" in capsys.readouterr().err and not (two[1] / "index.html").exists()


# ---- runs of earlier versions


@pytest.fixture
def old_run(tmp_path):
    """A run as versions before the renaming of "colour" and "photographs" left it."""
    folder = tmp_path / "old" / "PICS_tiny_photos"
    folder.mkdir(parents=True)
    rows = []
    for name, colour, psnr in (("a", 20.5, 15.0), ("b", 30.5, 17.0)):
        row = {"name": name, "prompt": "a barn", "bpp": 0.04, "bytes": 234}
        row |= {"bytes_text": 22, "bytes_sketch": 100, "bytes_colour": 100, "bytes_overhead": 12}
        rows.append(
            row | {"psnr": psnr, "lpips": 0.5, "niqe": 4.5, "colour": colour, "prompt_cosine": 0.8}
        )
        for kind in ("original", "sketch", "sketch_recon", "colour", "recon"):
            Image.new("RGB", (96, 64)).save(folder / f"{name}_{kind}.png")
    avif = {"photographs": 2, "mean": {"bytes": 200, "bpp": 0.03, "colour": 9.5, "psnr": 19.0}}
    avif["intervals"] = {"colour": [9.0, 10.0]}
    summary = {"method": "PICS", "dataset": "photos", "photographs": 2, "failed": []}
    summary |= means_of(rows) | {"not_available": {"dists": "no weights"}}
    summary["baselines"] = {"AVIF": avif}
    settings = {"method": "PICS", "preset": "tiny", "colour_bytes": 100, "prompt_patience": None}
    (folder / "results.csv").write_bytes(csv_file(rows))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_runs_of_earlier_versions_are_read(old_run):
    run = read_run(old_run)
    assert [(row["color"], row["bytes_color"]) for row in run.rows] == [(20.5, 100), (30.5, 100)]
    assert run.mean["color"] == 25.5 and run.intervals["color"] == [20.5, 30.5]
    assert run.mean["bytes_color"] == 100 and run.mean["niqe"] == 4.5
    # Its LPIPS, without a network's name, was AlexNet's.
    assert run.mean["lpips_alex"] == run.rows[0]["lpips_alex"] == 0.5 and "lpips" not in run.mean
    assert run.baselines["AVIF"]["images"] == 2
    assert run.baselines["AVIF"]["mean"]["color"] == 9.5
    assert run.baselines["AVIF"]["intervals"]["color"] == [9.0, 10.0]
    names = {*columns_of(run.rows), *run.mean, *run.intervals}
    assert not [name for name in names if "colour" in name]


def test_the_page_of_a_run_of_an_earlier_version(old_run):
    assert report.main([str(old_run)]) == 0
    page = page_of(old_run)
    assert {"2 images, 234 bytes each", "color distance, delta E", "25.500"} <= set(page.texts)
    assert {"niqe", "AVIF, beside PICS", "9.000 to 10.000"} <= set(page.texts)
    pictures = [image["src"] for image in page.all("img")]
    assert {"./a_colour.png", "./b_colour.png"} <= set(pictures)
    assert all((old_run / picture).exists() for picture in pictures)
    values = [json.loads(article["data-values"]) for article in page.all("article")]
    assert [value["color"] for value in values] == [20.5, 30.5]


def test_a_run_of_an_earlier_version_is_compared_with_a_new_one(old_run, tmp_path):
    first, second = rows_of(18.0, 19.0)
    rows = [first | {"name": "a", "color": 8.0}, second | {"name": "b", "color": 8.0}]
    new = make_run(tmp_path / "new" / "run", rows)
    output = tmp_path / "both"
    assert report.main([str(old_run), str(new), "--output", str(output)]) == 0
    with (output / "curves.csv").open() as file:
        points = [point for point in csv.DictReader(file) if point["metric"] == "color"]
    assert [float(point["mean"]) for point in points] == [25.5, 9.5, 8.0]
    values = [json.loads(article["data-values"]) for article in page_of(output).all("article")]
    assert [value["color"] for value in values] == [14.25, 19.25]


def test_records_of_earlier_versions_are_read(tmp_path):
    """A run that an earlier version began is reported as one of this version."""
    record = "name: a\nprompt: a barn\nbytes: {text: 22, colour: 9, total: 31}\n"
    record += "bpp: {total: 0.5}\nmetrics: {psnr: 9.5, colour: 3.5}\n"
    record += "baselines: {webp: {bytes: 30, bpp: 0.4, scale: 1, quality: 2, colour: 7.5}}\n"
    (tmp_path / "a_caption.yaml").write_text(record)
    for ending in ("_recon.png", ".png"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"a{ending}")
    samples = Samples("photos", ("a",), (str(tmp_path / "a.png"),), 64)
    summary = write_log_and_report(tmp_path, samples, "PICS", {})
    assert summary["mean"]["color"] == 3.5 and summary["mean"]["bytes_color"] == 9
    assert summary["baselines"]["WebP"]["mean"]["color"] == 7.5
    assert "colour" not in (tmp_path / "results.csv").read_text()
