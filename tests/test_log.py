"""Results of long runs: the log, exact means in bounded memory, the images that a page shows.

python -m pytest tests/test_log.py
"""

import json
import random
from statistics import fmean

import numpy as np
import pytest
from helpers.stub_run import run, stub
from PIL import Image

import report
from evaluation import evaluator
from metrics import mean_interval
from metrics.baselines import Baseline
from reporting import averages, log, selection
from reporting.averages import Average
from reporting.log import DONE, FAILED, MISSING, LogFollower, LogWriter, line_of, merge, scan
from reporting.runs import read_run
from reporting.selection import choose, select

NAMES = ("a", "b", "c", "d")
RECORD = {"prompt": "", "bytes": {"total": 9}, "bpp": {"total": 0.5}, "metrics": {}}


def entry(index, **more):
    return {"name": NAMES[index], **RECORD, "index": index, **more}


def test_what_a_later_start_says_counts(tmp_path):
    failed = {"name": "a", "failed": "broken", "index": 0}
    (tmp_path / "results-1-0.jsonl").write_bytes(line_of(failed) + line_of(entry(3)))
    (tmp_path / "results-2-1.jsonl").write_bytes(line_of(entry(0)))
    (tmp_path / "results-10-0.jsonl").write_bytes(line_of({**failed, "name": "b", "index": 1}))
    entries = scan(tmp_path, NAMES)
    assert entries.state.tolist() == [DONE, FAILED, MISSING, DONE]
    assert entries.failures() == {"b": "broken"}
    assert list(log.names_in(tmp_path)) == ["a", "b", "d"]
    merge(entries)
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]
    assert [record["name"] for _, record in scan(tmp_path, NAMES).records()] == ["a", "d"]


@pytest.mark.parametrize("at", range(1, 120, 9))
def test_a_line_that_is_cut_or_changed_is_no_entry(at):
    line = line_of(entry(0))
    assert log.entry_in(line) == entry(0)
    assert log.entry_in(line[:-at]) is None
    changed = line[: at - 1] + bytes([line[at - 1] ^ 1]) + line[at:]
    assert log.entry_in(changed) is None


def test_a_log_of_other_images_and_of_an_earlier_version(tmp_path):
    other = {**entry(0), "name": "elsewhere"}
    lines = [line_of(other), line_of({**entry(1), "index": 0}), json.dumps(entry(2)).encode()]
    (tmp_path / "results.jsonl").write_bytes(b"\n".join(lines))
    assert scan(tmp_path, NAMES).state.tolist() == [MISSING, DONE, MISSING, MISSING]


def test_lines_of_others_are_counted_once(tmp_path):
    follower = LogFollower([tmp_path / "results-1-1.jsonl", tmp_path / "results-1-2.jsonl"])
    assert follower.count() == 0
    with LogWriter(tmp_path / "results-1-2.jsonl") as writer:
        writer.append([line_of(entry(0)), line_of(entry(1))])
        assert (follower.count(), follower.count()) == (2, 0)
        writer.append([line_of(entry(2))])
    assert follower.count() == 1


@pytest.mark.parametrize("keep", ["all", "baselines", "streams", "none"])
def test_a_thousand_images_share_a_folder(monkeypatch, tmp_path, keep):
    monkeypatch.setattr(log, "PER_FOLDER", 2)
    stub(monkeypatch.setattr)
    (tmp_path / "photos").mkdir()
    for number in range(5):
        picture = Image.new("RGB", (64, 64), (40 * number, 9, 9))
        picture.save(tmp_path / "photos" / f"p{number}.png")
    flags = "--keep", keep, "--baselines", "webp"
    black = np.zeros((256, 256, 3), np.uint8)
    fitted = Baseline(b"file", black, 1, 5, 0)
    monkeypatch.setattr(evaluator, "compress", lambda *given: fitted)  # no WebP is so small
    assert run(tmp_path / "photos", tmp_path / "out", *flags) == 0
    (folder,) = (tmp_path / "out").iterdir()
    streams = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.pics"))
    placed = ["000001/p2.pics", "000001/p3.pics", "000002/p4.pics", "p0.pics", "p1.pics"]
    assert streams == (placed if keep != "none" else [])
    pictures = list(folder.rglob("*.png"))
    assert bool(pictures) == (keep in ("all", "baselines"))
    assert any(path.name == "p4_webp.png" for path in pictures) == (keep == "baselines")
    page = (folder / "index.html").read_text()
    assert ("./000002/p4_recon.png" in page) == bool(pictures)
    assert ("./000002/p4_webp.png" in page) == (keep == "baselines")
    before = (folder / "results.jsonl").read_bytes()
    assert run(tmp_path / "photos", tmp_path / "out", *flags) == 0  # nothing is left to do
    assert (folder / "results.jsonl").read_bytes() == before
    assert report.main([str(folder)]) == 0


def test_means_are_exact_and_intervals_bounded(monkeypatch):
    monkeypatch.setattr(averages, "MOST_VALUES", 300)
    monkeypatch.setattr(averages, "GROUPS", 100)
    rng = random.Random(0)
    values = [rng.gauss(20, 3) for _ in range(1000)] + [1e15, 0.1, -1e15]
    average = Average()
    for value in values:
        average.add(value)
    found = average.interval()
    assert found.mean == fmean(values) and found.values == 1003
    average, whole = Average(), mean_interval(values[:1000])
    for value in values[:1000]:
        average.add(value)
    found = average.interval()
    assert found.high - found.low == pytest.approx(whole.high - whole.low, rel=0.2)
    assert sum(average._sums) == pytest.approx(sum(values[:1000]))


def test_of_few_values_the_interval_is_that_of_them_all():
    average = Average()
    for value in (1.0, 4.0, 2.5):
        average.add(value)
    assert average.interval() == mean_interval([1.0, 4.0, 2.5])


def test_a_page_shows_best_worst_median_and_a_sample(monkeypatch):
    monkeypatch.setattr(selection, "MOST_SHOWN", 10)
    monkeypatch.setattr(selection, "OF_A_KIND", 3)
    rows = [{"name": f"p{i}", "bytes": 5, "psnr": float(i)} for i in range(100)]
    rows[7]["psnr"] = None
    chosen = select(lambda: rows, 100)
    shown = {row["name"] for row in chosen.rows}
    assert {"p0", "p1", "p2", "p97", "p98", "p99"} <= shown and 10 <= len(shown) <= 12
    assert (chosen.images, chosen.counts["psnr"]) == (100, 99) and "PSNR" in chosen.note
    assert select(lambda: rows[:10], 10).rows == rows[:10]
    hashes = np.arange(100, dtype=np.uint64)
    middle = choose(np.arange(100.0), hashes) - {0, 1, 2, 97, 98, 99}
    assert middle == {48, 49, 50}


def test_a_long_run_has_a_small_page(monkeypatch, tmp_path):
    monkeypatch.setattr(selection, "OF_A_KIND", 5)
    names = [f"p{number}" for number in range(1200)]
    lines = []
    for index, name in enumerate(names):
        record = {**RECORD, "metrics": {"psnr": index / 100}}
        lines.append(line_of({"name": name, **record, "index": index}))
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines))
    summary = log_report(tmp_path, names)
    assert summary["images"] == 1200 and summary["mean"]["psnr"] == 5.995
    found = read_run(tmp_path)
    assert found.images == 1200 and 15 <= len(found.rows) <= 20
    page = (tmp_path / "index.html").read_text()
    assert "1200 images" in page and found.note in page


def log_report(folder, names):
    from reporting.write import write_report

    return write_report(scan(folder, names), "photos", "PIC")
