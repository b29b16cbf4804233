"""Runs on Ray give the results of the loop, also when a worker or a node dies.

python -m pytest tests/test_cluster.py
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest
from helpers import stub_run
from helpers.stub_run import BAD
from PIL import Image

import pics
import report
from dataloaders import Samples
from evaluation import cluster_run, setup
from reporting import cluster
from reporting.output import open_output
from reporting.rows import COSTS
from shards import HubRow

ray = pytest.importorskip("ray", reason="needs requirements-cluster.txt")
pyarrow = pytest.importorskip("pyarrow", reason="needs requirements-cluster.txt")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs requirements-cluster.txt")
ROOT = Path(__file__).parent.parent
GREEN = (0, 255, 0)


@pytest.fixture(scope="module")
def environment():
    """Actors find our modules; nothing is reported to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # nodes are started before the driver
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
            patch.setenv("RAY_TMPDIR", folder)  # a short path: it holds sockets
            yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten pictures: one has no contents, one cannot be encoded."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for i in range(10):
        color = BAD if i == 2 else (10 * i, 20, 30)
        Image.new("RGB", (96, 64), color).save(folder / f"p{i}.png")
    (folder / "p5.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def looped(photos, tmp_path_factory):
    """The results of the loop."""
    output = tmp_path_factory.mktemp("loop")
    with pytest.MonkeyPatch.context() as patch:
        stub_run.stub(patch.setattr)
        assert stub_run.run(photos, output) == 1
    return results(output)


def results(output):
    """Streams, pictures, rows and means of a run."""
    (folder,) = output.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    found = {path.name: path.read_bytes() for path in folder.glob("p*.p*")}
    rows = csv.DictReader((folder / "results.csv").read_text().splitlines())
    found["rows"] = [
        {name: cell for name, cell in row.items() if not name.startswith(COSTS)} for row in rows
    ]
    wanted = ("mean", "intervals", "failed", "images")
    return found | {name: summary[name] for name in wanted} | {"reasons": summary["reasons"]}


def test_a_local_ray_gives_the_results_of_the_loop(environment, photos, looped, tmp_path, capsys):
    from helpers import stub_cluster

    assert stub_cluster.run(photos, tmp_path / "out", "--batch_size", "3") == 1
    assert results(tmp_path / "out") == looped
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 8
    assert not ray.is_initialized()
    (folder,) = (tmp_path / "out").iterdir()
    data = {path.name for path in (folder / "data").iterdir()}
    for file in ("results.csv", "summary.json", "index.html", "results.jsonl"):
        (folder / file).unlink()
    assert report.main([str(folder)]) == 0
    assert results(tmp_path / "out") == looped
    # Started again, what failed is tried again, and that alone; other settings are refused.
    assert stub_cluster.run(photos, tmp_path / "out", "--batch_size", "3") == 1
    assert results(tmp_path / "out") == looped
    (again,) = {path.name for path in (folder / "data").iterdir()} - data
    names = parquet.read_table(folder / "data" / again)["name"].to_pylist()
    assert sorted(names) == ["p2", "p5"]
    assert stub_cluster.run(photos, tmp_path / "out", "--seed", "1") == 2
    assert "seed 0 -> 1" in capsys.readouterr().err


@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_a_row(environment, photos, looped, tmp_path):
    from helpers import stub_cluster

    deadly = shutil.copytree(photos, tmp_path / "photos")
    Image.new("RGB", (96, 64), GREEN).save(deadly / "q.png")
    assert stub_cluster.run(deadly, tmp_path / "out", "--batch_size", "4") == 1
    found = results(tmp_path / "out")
    assert found["failed"] == [*looped["failed"], "q"] and found["mean"] == looped["mean"]
    assert "its worker was killed 3 times" in found["reasons"]["q"]


def test_a_single_file_needs_no_cluster(tmp_path, capsys):
    argv = ["encode", str(tmp_path / "x.png"), str(tmp_path / "x.pics"), "--engine", "ray"]
    assert pics.main(argv) == 2
    assert "--engine ray does folders" in capsys.readouterr().err


def test_without_ray_the_cure_is_named(photos, tmp_path, monkeypatch, capsys):
    from helpers import stub_cluster

    monkeypatch.setitem(sys.modules, "ray", None)
    assert stub_cluster.run(photos, tmp_path / "out") == 2
    assert "pip install 'ray[data]'" in capsys.readouterr().err


def test_a_run_without_the_flag_imports_nothing_of_ray(photos, tmp_path):
    code = "import sys; from helpers import stub_run; stub_run.stub(setattr); "
    code += "stub_run.run(sys.argv[1], sys.argv[2]); "
    code += "found = {name.partition('.')[0] for name in sys.modules}; "
    code += "assert not found & {'ray', 'pyarrow'}, found"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, str(photos), str(tmp_path)]
    subprocess.run(command, check=True, env=environment, capture_output=True)


@pytest.mark.parametrize("argv", [["--engine", "loop"], ["--engine", "ray", "--keep", "streams"]])
def test_other_engines_and_columns_are_refused(photos, tmp_path, monkeypatch, capsys, argv):
    from helpers import stub_cluster

    stub_run.stub(monkeypatch.setattr)
    folder = tmp_path / "out" / "PICS_tiny_photos"
    folder.mkdir(parents=True)
    args = stub_run.script_args(stub_run.arguments(photos, tmp_path / "out", "--engine", "ray"))
    settings = setup.settings_of(args, "PICS") | {"keep": "all"}
    (folder / "settings.json").write_text(json.dumps(settings))
    run = stub_cluster.run if argv[1] == "ray" else stub_run.run
    assert run(photos, tmp_path / "out", *argv) == 2
    assert "other settings" in capsys.readouterr().err


def test_files_that_were_not_written_to_their_end_are_passed_over(tmp_path):
    (tmp_path / "data").mkdir()
    row = {"name": ["a", "b"], "index": [0, 1], "failure": ["", "why"], "line": [b"", b""]}
    parquet.write_table(pyarrow.table(row), tmp_path / "data" / "whole.parquet")
    whole = (tmp_path / "data" / "whole.parquet").read_bytes()
    (tmp_path / "data" / "half.parquet").write_bytes(whole[: len(whole) // 2])
    output = open_output(tmp_path)
    assert cluster.finished(output) == {"a"}
    cluster.clear(output)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["whole.parquet"]


@pytest.mark.parametrize("content", [{"name": ["a"]}, {"name": [1], "failure": [[1]]}])
def test_what_is_no_output_of_a_cluster_is_refused(tmp_path, capsys, content):
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.table(content), tmp_path / "data" / "x.parquet")
    assert report.main([str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_what_the_loop_alone_can_do_is_refused(tmp_path):
    args = stub_run.script_args(stub_run.arguments(tmp_path, tmp_path))
    streamed = Samples("x", ("a",), (HubRow(None, 0),), 256)
    with pytest.raises(ValueError, match="no data set of the hub"):
        cluster_run.check_arguments(args, streamed)
    args.keep = "baselines"
    with pytest.raises(ValueError, match="no --keep baselines: choose all, streams, none"):
        cluster_run.check_arguments(args, streamed)
    args.metrics = ("psnr", "fid_patches")
    with pytest.raises(ValueError, match="leave out fid_patches"):
        cluster_run.check_arguments(args, streamed)


@pytest.mark.slow
def test_of_three_nodes_one_is_killed_on_the_way(environment, photos, tmp_path, monkeypatch):
    """From tar shards, too: the results are those of the loop in one process."""
    from helpers import stub_cluster
    from ray.cluster_utils import Cluster

    pytest.importorskip("webdataset", reason="needs requirements-shards.txt")
    shards = shards_of(photos, tmp_path / "shards", 60)
    stub_run.stub(monkeypatch.setattr)
    assert stub_run.run(shards, tmp_path / "loop") == 1
    monkeypatch.setenv("STUB_PAUSE_S", "0.5")  # long enough for actors on all nodes
    monkeypatch.setenv("STUB_SEEN", str(tmp_path / "at"))
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
        victim = threading.Thread(target=kill_when_busy, args=(machines, nodes[0], tmp_path / "at"))
        victim.start()
        more = ("--batch_size", "2", "--address", machines.address)
        assert stub_cluster.run(shards, tmp_path / "ray", *more) == 1
        victim.join()
    finally:
        machines.shutdown()
    seen = (tmp_path / "at").read_text().split()
    assert len(set(seen)) == 3  # all nodes worked
    assert results(tmp_path / "ray") == results(tmp_path / "loop")


@pytest.mark.slow
def test_folders_are_encoded_and_decoded_as_without(environment, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        picture = Image.radial_gradient("L").resize((64 + 32 * number, 64))
        picture.convert("RGB").save(photos / f"p{number}.png")
    (photos / "broken.png").write_bytes(b"not a picture")
    flags = ["--device", "cpu", "--N", "1", "--prompt_steps", "2"]
    engine = ["--engine", "ray"]
    files, pictures = tmp_path / "files", tmp_path / "pictures"
    for name, more in (("loop", []), ("ray", engine)):
        assert pics.main(["encode", str(photos), str(files / name), *flags, *more]) == 1
        encoded = ["decode", str(files / name), str(pictures / name), "--device", "cpu"]
        assert pics.main([*encoded, *more]) == 0
    for folder in (files, pictures):
        looped, rayed = (folder_contents(folder / name) for name in ("loop", "ray"))
        assert looped == rayed and len(looped) == 3  # with what is done


def folder_contents(folder):
    """{name: bytes}, the lines of what is done in any order."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {name: sorted(content.splitlines()) for name, content in found.items()}


def shards_of(photos, folder, count):
    """Three tar shards with `count` images."""
    folder.mkdir()
    paths = sorted(photos.iterdir())
    for shard in range(3):
        with tarfile.open(folder / f"photos-{shard}.tar", "w") as archive:
            for number in range(shard, count, 3):
                archive.add(paths[number % len(paths)], f"p{number:03d}.png")
    return folder


def kill_when_busy(machines, node, log):
    """Kill a node when all three have done something."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if log.exists() and len(set(log.read_text().split())) == 3:
            break
        time.sleep(0.1)
    machines.remove_node(node, allow_graceful=False)
