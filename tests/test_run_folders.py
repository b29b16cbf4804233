"""Run folders of strangers: each ends in one line or is read; nothing else is touched.

python -m pytest tests/test_run_folders.py
"""

import base64
import contextlib
import csv
import hashlib
import html
import io
import json
import os
import random
import re
import resource
import shutil
import time
from pathlib import Path

import pytest
import yaml
from fuzz.run_folders import TARGETS, WAYS, corpus, mutant, read
from helpers.hostile_runs import KINDS, RECORDS, Kind, bomb
from helpers.stub_run import run, stub
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import report
from reporting.curves import curve_names, curve_points, plot
from reporting.reading import NoRunError
from reporting.records import SCHEMA, parse, read_record, record_file
from reporting.rows import RECORD
from reporting.runs import read_run
from reporting.schema import SchemaError
from reporting.tables import csv_file, read_csv

SECONDS, BYTES = 2.0, 500 << 20  # that a bad folder may take, after imports
STARTS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff0d",
)  # of what a spreadsheet takes for a formula
QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
NAMES = [f"p{i}" for i in range(5)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (96, 64), (10 * i, 20, 30)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def good(photos, tmp_path_factory):
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        stub(patch.setattr)
        output = tmp_path_factory.mktemp("good")
        assert run(photos, output) == 0
    return next(output.iterdir())


@pytest.fixture(scope="module")
def workplace(good, tmp_path_factory):
    """A copy of the run for mutants, and its files."""
    folder = shutil.copytree(good, tmp_path_factory.mktemp("mutants") / "run")
    return folder, corpus(folder)


@contextlib.contextmanager
def bounded():
    """Fail if the block takes more than SECONDS of processor time or BYTES of memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, limits[1]))
    began = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.process_time() - began < SECONDS


def files_of(folder: Path) -> dict[str, object]:
    """What lies below a folder: contents, times and kinds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, data)
    return found


# ---- report.py


def test_the_good_run_is_read(good, tmp_path):
    copy = shutil.copytree(good, tmp_path / "run")
    with bounded():
        assert report.main([str(copy)]) == 0
    assert [row["name"] for row in read_run(copy).rows] == NAMES


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_a_spoiled_run_is_one_line(kind, good, tmp_path, capsys):
    folder = shutil.copytree(good, tmp_path / "run")
    kind.spoil(folder / kind.file)
    with bounded():
        assert report.main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert str(folder / kind.file) in captured.err and not captured.out
    assert len(captured.err) < 700


def test_a_spoiled_run_ends_a_comparison(good, tmp_path, capsys):
    folder = shutil.copytree(good, tmp_path / "run")
    (folder / "p0_recon.png").write_bytes(b"no picture")
    assert report.main([str(folder), str(good), "--output", str(tmp_path / "other")]) == 2
    assert str(folder / "p0_recon.png") in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_plots_of_hostile_names(good, tmp_path):
    """What matplotlib would take for mathematics, letters without glyphs, names of one file."""
    folder = shutil.copytree(good, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    name = "_$\\frac{$" + "\U0001f3d4" * 80
    summary["mean"] = {"bytes": 1, "bpp": 1e-9, name: 1e15, "a-b": -1e15, "a+b": 0}
    summary["dataset"] = "$x" + "y" * 200 + "\0"
    (folder / "summary.json").write_text(json.dumps(summary))
    points = curve_points([read_run(good), read_run(folder)])
    chosen = [point for point in points if point["metric"] == name]
    for suffix in ("png", "pdf"):
        assert len(plot(chosen, name, suffix)) < 1e6
    names = curve_names([point["metric"] for point in points])
    assert len(set(names.values())) == len(names) == 5
    assert all(re.fullmatch(r"\w{1,105}", file, re.ASCII) for file in names.values())


# ---- pages


def policy_of(page: str) -> dict[str, list[str]]:
    (content,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    directives = [directive.split() for directive in html.unescape(content).split(";")]
    return {name: values for name, *values in directives}


def test_a_page_may_load_nothing_but_its_own(good, tmp_path):
    report.main([str(good), str(good), "--output", str(tmp_path / "both")])
    for page in ((good / "index.html").read_text(), (tmp_path / "both/index.html").read_text()):
        policy = policy_of(page)
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
        assert policy["img-src"] == ["'self'", "file:", "data:"]
        for tag, directive in (("script", "script-src"), ("style", "style-src-elem")):
            (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert policy[directive] == [f"'sha256-{digest}'"]
        assert page.index("Content-Security-Policy") < page.index("<style>")
        styles = re.findall(r'style="([^"]*)"', page)
        assert all(re.fullmatch(r"(width|flex-grow|--ratio): [0-9.e-]+%?", s) for s in styles)


# ---- tables


def cells_of(rows: list[dict]) -> list[list[str]]:
    return list(csv.reader(io.StringIO(csv_file(rows).decode(), newline="")))


@pytest.mark.parametrize("start", [*STARTS, "'=", "''-", "'", ""])
def test_a_spreadsheet_sees_no_formula(start, tmp_path):
    rows = [{"name": "a", "prompt": f"{start}1", "bytes": 3, "bpp": 0.5, "psnr": -1.5, "m": -2}]
    _, cells = cells_of(rows)
    assert not cells[1].startswith(STARTS) and cells[4:] == ["-1.5", "-2"]
    (tmp_path / "x.csv").write_bytes(csv_file(rows))
    assert list(read_csv(tmp_path / "x.csv", most=1)) == rows
    assert not cells_of([{f"{start}1": 1}])[0][0].startswith(STARTS)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
# Torch may switch subnormal numbers off in this process, and hypothesis then refuses them.
NUMBER = st.floats(-1e15, 1e15, allow_subnormal=False)
BEGINNINGS = st.sampled_from(["", "=", "'", "-", "''+", "\t", '"', ",", "\r", "\n"])


@QUICK
@given(start=BEGINNINGS, text=TEXT, number=NUMBER)
def test_texts_and_numbers_come_back(start, text, number, tmp_path_factory):
    rows = [{"name": "a", "prompt": start + text, "bytes": 3, "bpp": 0.5, "psnr": number}]
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(csv_file(rows))
    assert list(read_csv(path, most=1)) == rows


# ---- records


PLAIN = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | TEXT | NUMBER
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


@QUICK
@example({"a": ["1e5", "0x1", "010", "1:30", "yes", "~", "", "null", "-", "1.5", "2024-01-01"]})
@given(tree=TREES)
def test_what_is_written_is_read_as_yaml_would(tree):
    dumped = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None)
    try:
        found = parse(dumped.encode())
    except SchemaError as error:
        assert str(error) == "too deep"
        return
    assert repr(found) == repr(yaml.safe_load(dumped))


@QUICK
@given(data=st.binary(max_size=300) | TEXT.map(str.encode))
def test_any_bytes_as_a_record(data):
    with contextlib.suppress(ValueError):
        SCHEMA(parse(data))


def test_a_record_that_could_not_be_read_is_not_written(good):
    record = read_record(good, "p3")
    assert record_file(record) == (good / "p3_caption.yaml").read_bytes()
    for name, value in (("metrics", {"psnr": float("nan")}), ("prompt", "\ud800"), ("seed", -1)):
        with pytest.raises(SchemaError, match=name):
            record_file(record | {name: value})
    with pytest.raises(SchemaError, match="at most 262144 are read"):
        record_file(record | {"prompt": "雪" * 99_000})


def test_a_bomb_is_small(tmp_path):
    (tmp_path / "a_caption.yaml").write_text(bomb())
    with bounded(), pytest.raises(NoRunError, match=r"a_caption\.yaml: an anchor or tag, a0"):
        read_record(tmp_path, "a")


# ---- resuming


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.what)
def test_a_record_that_does_not_hold_is_done_again(
    kind: Kind, good, photos, tmp_path, monkeypatch, capsys
):
    stub(monkeypatch.setattr)
    folder = shutil.copytree(good, tmp_path / "out" / good.name)
    if kind.file.endswith(RECORD):  # it is read in runs of earlier versions, which have no log
        (folder / "results.jsonl").unlink()
    kind.spoil(folder / kind.file)
    kept = (folder / "p4.pics").stat().st_mtime_ns
    with bounded():
        assert run(photos, tmp_path / "out") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "again" in line]
    assert len(lines) == 1 and lines[0].startswith("again: p3: "), lines
    assert str(folder / "p3") in lines[0] and len(lines[0]) < 500
    assert (folder / "p3.pics").read_bytes() == (good / "p3.pics").read_bytes()
    assert read_record(folder, "p3")["sha256"] == read_record(good, "p3")["sha256"]
    assert (folder / "p4.pics").stat().st_mtime_ns == kept
    assert read_run(folder).mean == read_run(good).mean


def test_records_of_earlier_versions_hold(good, photos, tmp_path, monkeypatch, capsys):
    stub(monkeypatch.setattr)
    folder = shutil.copytree(good, tmp_path / "out" / good.name)
    (folder / "results.jsonl").unlink()
    for path in folder.glob("*_caption.yaml"):
        record = yaml.safe_load(path.read_text())
        del record["sha256"]
        for field in ("bytes", "bpp", "metrics"):
            record[field]["colour"] = record[field].pop("color")
        path.write_text(yaml.safe_dump(record))
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("p*")}
    assert run(photos, tmp_path / "out") == 0
    assert "again" not in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("p*")} == kept
    assert read_run(folder).mean == read_run(good).mean


def test_spoiled_settings_and_summary_of_a_run_that_is_resumed(
    good, photos, tmp_path, monkeypatch, capsys
):
    stub(monkeypatch.setattr)
    folder = shutil.copytree(good, tmp_path / "out" / good.name)
    (folder / "summary.json").write_text('{"images": "5"}')
    assert run(photos, tmp_path / "out") == 0
    assert f"again: {folder / 'summary.json'}: no method" in capsys.readouterr().err
    (folder / "settings.json").write_text("[" * 100_000)
    before = files_of(folder)
    assert run(photos, tmp_path / "out") == 2
    assert f"error: {folder / 'settings.json'}: too deep" in capsys.readouterr().err
    assert files_of(folder) == before
    assert run(photos, tmp_path / "out", "--overwrite") == 0


# ---- mutants


@QUICK
@given(seed=st.integers(0, 2**32))
def test_mutants_of_run_folders(seed, workplace):
    """tests/long/run_folders.py reads more of them."""
    folder, files = workplace
    read(folder, mutant(files, random.Random(seed)))


def test_every_kind_of_mutant_is_made(workplace):
    rng = random.Random(1)
    made = [mutant(workplace[1], rng) for _ in range(400)]
    assert {each.target for each in made} == set(TARGETS)
    assert {each.way for each in made} == set(WAYS)


# ---- nothing else is touched


def test_nothing_outside_the_runs_own_folder_is_touched(good, photos, tmp_path, monkeypatch):
    """Every file of a run is a link to one of the decoy's, and so are names that it will use."""
    stub(monkeypatch.setattr)
    decoy = shutil.copytree(good, tmp_path / "decoy")
    (decoy / "precious").write_text("yes")
    folder = tmp_path / "out" / good.name
    folder.mkdir(parents=True)
    names = [path.name for path in decoy.iterdir() if path.name != "settings.json"]
    names += ["baselines.csv", "x_failed.txt", ".x.99999999.tmp", f".p0.pics.{os.getpid()}.tmp"]
    for name in names:
        (folder / name).symlink_to(decoy / (name if (decoy / name).exists() else "precious"))
    shutil.copy(good / "settings.json", folder)
    (tmp_path / "out" / "comparison").symlink_to(decoy)
    before = files_of(decoy)
    assert report.main([str(folder)]) == 2
    assert report.main([str(folder), str(good)]) == 2
    assert run(photos, tmp_path / "out") == 0
    assert run(photos, tmp_path / "out", "--overwrite", "--seed", "1") == 0
    assert report.main([str(folder)]) == 0
    assert report.main([str(folder), str(folder)]) == 2  # comparison/ is a link
    assert report.main([str(folder), str(folder), "--output", str(tmp_path / "both")]) == 0
    assert files_of(decoy) == before
    links = {path.name for path in folder.iterdir() if path.is_symlink()}
    assert links == {"precious", "baselines.csv"}  # which this run has no use for
