"""Runs on Ray whose output is a URI: the same results as in a folder, and no secrets in any file.

python -m pytest tests/test_cluster_places.py
"""

# ruff: noqa: F811 - imported fixtures are names of arguments

import contextlib
import json
import os

import pytest
from helpers import stub_run
from test_cluster import looped, photos, results  # noqa: F401 - fixtures

import pics
import report
from common.files import without_secrets
from dataloaders import ImageError, load_sample
from evaluation import cluster_run
from reporting import output, write

ray = pytest.importorskip("ray", reason="needs requirements-cluster.txt")
pyarrow = pytest.importorskip("pyarrow", reason="needs requirements-cluster.txt")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs requirements-cluster.txt")
RUN = "PICS_tiny_photos"
SECRET = "hunter2"  # noqa: S105


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """The folder in which reports of URIs are made."""
    folder = tmp_path / "reports"
    monkeypatch.setattr(output, "OUTPUT", folder)
    return folder


@pytest.fixture
def without_ray(monkeypatch):
    """The driver with a loop in place of Ray."""
    monkeypatch.setattr(cluster_run, "connected", contextlib.nullcontext)
    monkeypatch.setattr(cluster_run, "work", work)


def work(args, method, load, images, place):
    """Do images one by one and write their rows, a file each."""
    evaluator = load(args, method, "cpu")
    for number, row in enumerate(images.to_pylist()):
        short_side = args.preset.short_side
        try:
            samples = [load_sample(row["path"], short_side, row["name"], row["index"])]
        except ImageError as error:
            samples = []
            evaluator.fail(row["index"], row["name"], error)
        rows = cluster_run.outcome_table(evaluator.do_samples(samples), args.keep)
        start = len(place.files.get_file_info(pyarrow.fs.FileSelector("data")))
        parquet.write_table(rows, f"data/{start}-{number}.parquet", filesystem=place.files)


def run(photos, uri, *more):
    from helpers import stub_cluster

    return stub_cluster.run(photos, uri, *more)


def test_a_uri_gives_the_results_of_a_folder(
    photos, looped, reports, without_ray, tmp_path, capsys
):
    shared = tmp_path / "shared"
    assert run(photos, shared.as_uri()) == 1
    assert results(reports) == looped
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"report of {shared.as_uri()}/{RUN}: {reports / RUN / 'index.html'}"
    assert json.loads(said[-1])["images"] == 8
    assert sorted(path.name for path in (shared / RUN).iterdir()) == ["data", "settings.json"]
    settings = (shared / RUN / "settings.json").read_text()
    assert (reports / RUN / "settings.json").read_text() == settings
    # Half-written files go, what failed is tried again, and that alone.
    data = shared / RUN / "data"
    (data / "half.parquet").write_bytes((data / "0-0.parquet").read_bytes()[:100])
    before = {path.name for path in data.iterdir()} - {"half.parquet"}
    assert run(photos, shared.as_uri()) == 1
    assert results(reports) == looped
    added = {path.name for path in data.iterdir()} ^ before
    names = [parquet.read_table(data / name)["name"].to_pylist() for name in sorted(added)]
    assert names == [["p2"], ["p5"]]
    # Other settings are refused, and done anew with --overwrite.
    capsys.readouterr()
    assert run(photos, shared.as_uri(), "--seed", "1") == 2
    assert "seed 0 -> 1" in capsys.readouterr().err
    assert run(photos, shared.as_uri(), "--seed", "1", "--overwrite") == 1
    assert len(list(data.iterdir())) == 10
    assert results(reports)["p0.pics"] != looped["p0.pics"]


def test_a_report_of_a_uri_is_made_in_a_folder_here(
    photos, looped, reports, without_ray, tmp_path, capsys
):
    uri = (tmp_path / "shared").as_uri()
    run(photos, uri)
    (reports / RUN).rename(tmp_path / "before")
    capsys.readouterr()
    assert report.main([f"{uri}/{RUN}"]) == 0
    page = json.loads(capsys.readouterr().out)["page"]
    assert page == str(reports / RUN / "index.html")
    assert results(reports) == looped
    assert {path.name for path in (reports / RUN).iterdir()} == {
        path.name for path in (tmp_path / "before").iterdir()
    }


def test_the_report_of_another_run_is_not_replaced(
    photos, reports, without_ray, monkeypatch, tmp_path, capsys
):
    uri = (tmp_path / "shared").as_uri()
    run(photos, uri)
    run(photos, (tmp_path / "other").as_uri(), "--seed", "1", "--overwrite")
    capsys.readouterr()
    page = (reports / RUN / "index.html").read_bytes()
    assert report.main([f"{uri}/{RUN}"]) == 2
    assert "holds another run, in place of the report of" in capsys.readouterr().err
    assert run(photos, uri) == 2
    assert "holds another run, in place of the report of" in capsys.readouterr().err
    assert (reports / RUN / "index.html").read_bytes() == page


def test_a_uri_of_the_folder_of_reports_is_that_folder(photos, looped, reports, without_ray):
    for _ in range(2):
        assert run(photos, reports.as_uri()) == 1
        assert results(reports) == looped
    assert (reports / RUN / "data").is_dir()


def test_without_ray_a_uri_is_refused(photos, monkeypatch, capsys):
    stub_run.stub(monkeypatch.setattr)
    assert stub_run.run(photos, f"s3://key:{SECRET}@bucket/x?region={SECRET}") == 2
    error = "error: --output s3://bucket/x: a URI needs --engine ray; name a folder\n"
    assert capsys.readouterr().err == error


@pytest.mark.parametrize("argv", [["encode", "x.png"], ["decode", "x.pics"]])
def test_pics_refuses_a_uri(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        pics.main([*argv, f"s3://key:{SECRET}@bucket/x", "--engine", "ray"])
    error = capsys.readouterr().err
    assert error.endswith("a URI: name a file or a folder\n") and SECRET not in error


@pytest.mark.parametrize(
    "uri",
    [
        f"nowhere://key:{SECRET}@bucket/x",
        f"s3://key:{SECRET}/@bucket/x",
        f"s3://key:{SECRET}?@bucket/x",
        f"s3://key:{SECRET}@/x",
        f"s3://key:{SECRET}@bucket/x?secret={SECRET}",
        f"file://key:{SECRET}@host/x",
        f"nowhere://key:{SECRET}@bucket/\udcff",
    ],
)
def test_what_is_no_output_is_refused_in_one_line(photos, reports, capsys, uri):
    assert run(photos, uri) == report.main([uri]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("error: ") and SECRET not in line
    assert not reports.exists()


def test_a_uri_without_a_run_is_none(reports, tmp_path, capsys):
    for uri in ((tmp_path / "nothing").as_uri(), "file:///"):
        assert report.main([uri]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "is no run of --engine ray: it has no settings.json" in errors[0]
    assert errors[1] == "error: file:/// names no run: expected .../<run>"
    assert not reports.exists()


def test_settings_of_a_stranger_are_checked(reports, tmp_path, capsys):
    (tmp_path / RUN).mkdir()
    for content in (b"{", b'{"preset": [1]}', b" " * (output.MAX_SETTINGS_BYTES + 1)):
        (tmp_path / RUN / "settings.json").write_bytes(content)
        assert report.main([(tmp_path / RUN).as_uri()]) == 2
    (tmp_path / RUN / "settings.json").unlink()
    os.mkfifo(tmp_path / RUN / "settings.json")
    assert report.main([(tmp_path / RUN).as_uri()]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all("settings.json: " in line for line in errors)


def test_the_command_on_the_page_has_no_secrets(monkeypatch):
    uri = f"s3://key:{SECRET}@bucket/x?region={SECRET}"
    argv = ["eval_PICS.py", "--output", uri, f"--output={uri}", "--prompt", "a=b://c@d"]
    monkeypatch.setattr("sys.argv", argv)
    expected = (
        "python eval_PICS.py --output s3://bucket/x --output=s3://bucket/x --prompt a=b://c@d"
    )
    assert write.made_by()["command"] == expected


def test_names_without_secrets():
    assert without_secrets("s3://bucket/a") == "s3://bucket/a"
    assert without_secrets(f"s3://k:{SECRET}@bucket/a?b={SECRET}") == "s3://bucket/a"
    for odd in (f"s3://k:{SECRET}/@b/a", f"s3://k:{SECRET}?@b/a", f"s3://b/a?k=@{SECRET}"):
        assert SECRET not in without_secrets(odd)
    assert without_secrets(f"s3://k:@{SECRET}?@b/a") == "s3://..."


@pytest.fixture
def bucket():
    """A bucket of a simulated S3: how its URIs end."""
    moto = pytest.importorskip("moto.server", reason="needs the package moto[server]")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    query = f"?scheme=http&endpoint_override={host}:{port}"
    system, _ = pyarrow.fs.FileSystem.from_uri(
        f"s3://key:{SECRET}@bucket{query}&allow_bucket_creation=true"
    )
    system.create_dir("bucket")
    yield query
    server.stop()


@pytest.mark.slow
def test_a_simulated_s3(ray_nodes, photos, looped, reports, bucket, monkeypatch, capfd):
    def uri(place):
        return f"s3://key:{SECRET}@{place}{bucket}"

    assert run(photos, uri("bucket/runs"), "--batch_size", "3") == 1
    assert results(reports) == looped
    system, _ = pyarrow.fs.FileSystem.from_uri(uri("bucket"))
    selector = pyarrow.fs.FileSelector(f"bucket/runs/{RUN}", recursive=True)

    def there():
        found = system.get_file_info(selector)
        return {info.path.removeprefix(f"bucket/runs/{RUN}/") for info in found if info.is_file}

    before = there()
    assert "settings.json" in before
    # A half-written file goes; what failed is tried again.
    with system.open_output_stream(f"bucket/runs/{RUN}/data/half.parquet") as file:
        file.write(b"PAR1")
    assert run(photos, uri("bucket/runs"), "--batch_size", "3") == 1
    assert results(reports) == looped
    (again,) = there() - before
    table = parquet.read_table(f"bucket/runs/{RUN}/{again}", filesystem=system)
    assert sorted(table["name"].to_pylist()) == ["p2", "p5"]
    assert run(photos, uri("bucket/runs"), "--seed", "1") == 2
    # The report alone.
    (reports / RUN).rename(reports.parent / "before")
    assert report.main([uri(f"bucket/runs/{RUN}")]) == 0
    assert results(reports) == looped
    # What cannot be, in a line each.
    said = capfd.readouterr()
    assert "seed 0 -> 1" in said.err
    assert run(photos, uri("nowhere/runs")) == 1
    assert report.main([uri(f"nowhere/runs/{RUN}")]) == 2
    # From now on, the server knows nobody.
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    assert run(photos, uri("bucket/runs")) == 1
    assert report.main([uri(f"bucket/runs/{RUN}")]) == 1
    refused = capfd.readouterr()
    lines = [line for line in refused.err.splitlines() if line.startswith("error: ")]
    assert ["NO_SUCH_BUCKET" in line for line in lines] == [True, False, False, False]
    assert ["ACCESS_DENIED" in line for line in lines] == [False, False, True, True]
    # The key is said nowhere.
    written = [path.read_bytes() for path in reports.rglob("*") if path.is_file()]
    written += [(said.out + said.err + refused.out + refused.err).encode()]
    assert not [content for content in written if SECRET.encode() in content]
