"""Runs on Ray give the results of the loop, also when a worker or a node dies.

python -m pytest tests/test_cluster.py
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import stub_run
from helpers.ray_runs import ROOT, images_in, looped_results, results
from PIL import Image

import pics
import report
from dataloaders import Samples
from evaluation import cluster_run, setup
from reporting import cluster
from reporting.output import open_output
from shards import HubRow

ray = pytest.importorskip("ray", reason="needs requirements-cluster.txt")
pyarrow = pytest.importorskip("pyarrow", reason="needs requirements-cluster.txt")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs requirements-cluster.txt")
GREEN = (0, 255, 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return images_in(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def looped(photos, tmp_path_factory):
    """The results of the loop."""
    return looped_results(photos, tmp_path_factory.mktemp("loop"))


def test_a_local_ray_gives_the_results_of_the_loop(ray_nodes, photos, looped, tmp_path, capsys):
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
def test_an_image_that_kills_its_worker_is_a_row(ray_nodes, photos, looped, tmp_path):
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
def test_folders_are_encoded_and_decoded_as_without(ray_nodes, tmp_path):
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
