"""`pics.py` of folders: side by side, resumed, locked, with a list of what failed.

python -m pytest tests/test_conversion.py

With stubs of the models; tests/test_scripts.py does the same with small ones.
"""

import errno
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch  # noqa: F401 - loaded once, before any process is forked
from PIL import Image
from tqdm import tqdm

import bitstream
import codec
import pics
import text_codec
from benchmarks.folder import Cost
from benchmarks.folder import summary as summary_of
from common.weights import UnavailableError
from evaluation import conversion, processes
from evaluation.conversion import RECORD
from evaluation.lock import LOCK, locked
from prompt_inversion.search import PromptConfig

forks = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
WORKERS = (0, pytest.param(3, marks=forks))
COUNT = 9  # files of a folder
TINY, SD21, SD15, FOLDER, NEWER = (number << 12 for number in (1, 2, 3, 0, 9))  # fingerprints
loaded: list[str] = []  # presets whose models were loaded, in this process


class StubDecoder:
    """Gives a plain image whose gray depends on the file and the preset."""

    generator = SimpleNamespace(parameters=1000)

    def __init__(self, preset, device, lam_sketch, execution):
        if preset.name == "sd15":
            raise UnavailableError("no weights\nanywhere")
        self.preset = preset
        loaded.append(preset.name)

    def fingerprint(self, layers):
        return 0

    def decode(self, data, force):
        time.sleep(0.01)
        stream = bitstream.unpack(data)
        if stream.seed == 13:
            raise RuntimeError("a number\nof no luck")
        gray = (sum(data) + self.preset.number) % 256
        return SimpleNamespace(image=np.full((64, 64, 3), gray, np.uint8))


class StubEncoder:
    """Writes the image's mean and the seed of the search as a prompt."""

    decoder = StubDecoder

    def __init__(self, preset, config, device, _timer):
        self.preset, self.config, self.fingerprint = preset, config, TINY
        self.prompter = SimpleNamespace(search=PromptConfig())

    def encode(self, images, sizes):
        text = f"{images[0].mean():.3f} {self.config.prompt.seed}"
        return [file_of(TINY, 0, text)]


@pytest.fixture(autouse=True)
def stubs(monkeypatch):
    monkeypatch.setattr(codec, "Decoder", StubDecoder)
    monkeypatch.setattr(codec, "Encoder", StubEncoder)
    loaded.clear()


def file_of(fingerprint: int, seed: int, text: str = "a barn") -> bytes:
    payload = text_codec.encode_text(text)
    return bitstream.pack(bitstream.Stream(fingerprint, 64, 64, 64, 64, seed, payload))


@pytest.fixture
def files(tmp_path):
    """Files of two presets, and some that fail."""
    folder = tmp_path / "files"
    folder.mkdir()
    for seed in range(COUNT):
        (folder / f"f{seed}.pics").write_bytes(file_of(SD21 if seed % 4 else TINY, seed))
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for gray in range(COUNT):
        Image.new("L", (64, 64), 9 * gray).save(folder / f"p{gray}.png")
    return folder


def use_workers(monkeypatch, count: int) -> None:
    monkeypatch.setattr(conversion, "worker_count", lambda *_: count)


def run(command: str, source: Path, target: Path, *more: str) -> int:
    return pics.main([command, str(source), str(target), "--device", "cpu", *more])


def contents(folder: Path) -> dict[str, bytes | dict]:
    """All files of a folder of results; of the record its last entry of each file."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    if RECORD in found:
        lines = [json.loads(line) for line in found[RECORD].splitlines()]
        found[RECORD] = {line["file"]: line for line in lines}
    return found


def summary(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# ---- side by side


@pytest.mark.parametrize("workers", WORKERS)
def test_side_by_side_gives_the_files_of_one_by_one(workers, files, tmp_path, monkeypatch, capsys):
    (tmp_path / "single").mkdir()
    for path in files.iterdir():
        assert run("decode", path, tmp_path / "single" / f"{path.stem}.png") == 0
    capsys.readouterr()
    use_workers(monkeypatch, workers)
    assert run("decode", files, tmp_path / "out") == 0
    told = summary(capsys)
    assert told == {"folder": str(tmp_path / "out"), "made": COUNT, "kept": 0, "failed": []}
    found = contents(tmp_path / "out")
    assert len(found.pop(RECORD)) == COUNT
    assert found == contents(tmp_path / "single")


@pytest.mark.parametrize("parameters", [processes.SMALL, processes.SMALL + 1])
def test_a_large_model_on_a_cpu_says_how_long_an_image_takes(
    photos, tmp_path, monkeypatch, capsys, parameters
):
    monkeypatch.setattr(StubDecoder.generator, "parameters", parameters)
    use_workers(monkeypatch, 0)
    monkeypatch.setattr(conversion, "pace", lambda seconds, images: f"{seconds > 0} {images}")
    for source, target in ((photos, tmp_path / "files"), (photos / "p1.png", tmp_path / "one")):
        assert run("encode", source, target) == 0
        lines = capsys.readouterr().err.splitlines()
        before = "this model on a CPU: minutes an image, said after the first"
        slow = parameters > processes.SMALL
        assert [line.strip() for line in lines] == ([before, "True 1"] if slow else [])


def test_each_preset_is_loaded_once_and_decodes_its_own(files, tmp_path):
    assert run("decode", files, tmp_path / "out") == 0
    assert loaded == ["sd21", "tiny"]
    for seed in range(COUNT):
        data = (files / f"f{seed}.pics").read_bytes()
        gray = (sum(data) + (2 if seed % 4 else 1)) % 256
        assert np.unique(Image.open(tmp_path / "out" / f"f{seed}.png")) == [gray]
    assert run("decode", files, tmp_path / "forced", "--preset", "tiny") == 0
    assert loaded == ["sd21", "tiny", "tiny"]


@pytest.mark.parametrize("workers", WORKERS)
def test_what_failed_is_listed_and_the_others_are_done(
    workers, files, tmp_path, monkeypatch, capsys
):
    (files / "unlucky.pics").write_bytes(file_of(TINY, 13))
    (files / "cut.pics").write_bytes(file_of(TINY, 5)[:-1])
    (files / "no weights.pics").write_bytes(file_of(SD15, 5))
    (files / "mine.pics").write_bytes(file_of(FOLDER, 5))
    (files / "newer\n.pics").write_bytes(file_of(NEWER, 5))
    (files / "folder.pics").mkdir()
    use_workers(monkeypatch, workers)
    assert run("decode", files, tmp_path / "out") == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    expected = ["cut", "folder", "mine", "newer\\n", "no weights", "unlucky"]
    assert [line.split(": ")[:2] for line in lines] == [["failed", name] for name in expected]
    assert lines[4].endswith(": no weights anywhere")
    assert lines[5].endswith(": RuntimeError: a number of no luck")
    assert "Traceback" not in captured.err
    assert len(list((tmp_path / "out").glob("*.png"))) == COUNT
    told = json.loads(captured.out.splitlines()[-1])
    assert (told["made"], len(told["failed"])) == (COUNT, len(expected))


# ---- resumed


def test_what_is_done_is_kept_and_needs_no_models(files, tmp_path, capsys):
    assert run("decode", files, tmp_path / "out") == 0
    before = contents(tmp_path / "out")
    loaded.clear()
    assert run("decode", files, tmp_path / "out") == 0
    assert loaded == [] and contents(tmp_path / "out") == before
    assert (summary(capsys)["kept"], len(before)) == (COUNT, COUNT + 1)


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


SPOILT: dict[str, Callable[[Path, Path], object]] = {
    "a picture is gone": lambda files, out: (out / "f3.png").unlink(),
    "a picture is cut": lambda files, out: changed(out / "f3.png"),
    "a picture is another's": lambda files, out: (out / "f4.png").replace(out / "f3.png"),
    "a file is another": lambda files, out: (files / "f3.pics").write_bytes(file_of(SD21, 99)),
    "the record is cut": lambda files, out: changed(out / RECORD),
    "the record is gone": lambda files, out: (out / RECORD).unlink(),
    "the record is a link": lambda files, out: (
        (out / RECORD).rename(out / "elsewhere") and (out / RECORD).symlink_to(out / "elsewhere")
    ),
    "the record is nonsense": lambda files, out: (out / RECORD).write_bytes(
        b'[1]\n\xff\n{"file": [], "sha256": 1, "origin": {}}\n{"file": "f3.png"}\n' + b"[" * 99999
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_does_not_match_is_made_again(spoil, files, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("decode", files, out) == 0
    spoil(files, out)
    assert run("decode", files, out) == 0
    assert summary(capsys)["made"] > 0
    assert run("decode", files, tmp_path / "new") == 0
    found = contents(out)
    new = contents(tmp_path / "new")
    assert {name: found[name] for name in new} == new
    assert not (out / RECORD).is_symlink()


def test_overwrite_and_force_do_all_again(files, tmp_path, capsys):
    out = tmp_path / "out"
    run("decode", files, out)
    before = contents(out)
    capsys.readouterr()
    assert run("decode", files, out, "--overwrite") == 0
    assert summary(capsys)["made"] == COUNT and contents(out) == before
    assert run("decode", files, out, "--force", "--preset", "tiny") == 0
    assert summary(capsys)["made"] == COUNT and not (out / RECORD).exists()
    assert run("decode", files, out) == 0  # no forced picture is kept
    assert summary(capsys)["made"] == COUNT and contents(out) == before


def test_a_forced_picture_is_not_taken_for_its_files_own(files, tmp_path):
    """Even if a record of the same file is there."""
    out = tmp_path / "out"
    run("decode", files, out)
    right = contents(out)
    record = (out / RECORD).read_bytes()
    run("decode", files, out, "--force", "--preset", "tiny")
    assert contents(out)["f3.png"] != right["f3.png"]
    (out / RECORD).write_bytes(record)
    run("decode", files, out)
    assert contents(out) == right


@pytest.mark.parametrize("workers", WORKERS)
def test_encoded_files_are_kept_for_the_same_photograph_and_settings(
    workers, photos, tmp_path, monkeypatch, capsys
):
    use_workers(monkeypatch, workers)
    out = tmp_path / "out"
    made = []

    def encode(*more: str) -> None:
        assert run("encode", photos, out, *more) == 0
        made.append(summary(capsys)["made"])

    encode()
    encode()
    Image.new("L", (64, 64), 200).save(photos / "p4.png")
    encode()
    encode("--seed", "1")
    encode("--seed", "1", "--layers", "text")
    monkeypatch.setattr(sys.modules[__name__], "TINY", TINY + 1)  # other weights
    encode("--seed", "1", "--layers", "text")
    encode("--seed", "1", "--layers", "text")
    encode("--seed", "1", "--layers", "text", "--overwrite")
    assert made == [COUNT, 0, 1, COUNT, COUNT, COUNT, 0, COUNT]
    before = contents(out)
    assert run("encode", photos, tmp_path / "new", "--seed", "1", "--layers", "text") == 0
    assert contents(tmp_path / "new") == before


# ---- ended before the last file


def start(command: str, source: Path, target: Path) -> multiprocessing.Process:
    """A run in a process of its own, forked from this one."""

    def work() -> None:
        tqdm.set_lock(threading.RLock())  # the one of all processes stays locked if this is killed
        sys.exit(run(command, source, target))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def wait_for_results(out: Path, count: int, process: multiprocessing.Process) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.png"))) < count:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.002)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def many(files: Path) -> None:
    """Make it a folder that takes a second."""
    for number in range(60):
        (files / f"g{number}.pics").write_bytes(file_of(TINY, 100 + number))


@pytest.mark.parametrize("workers", WORKERS)
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(
    workers, files, tmp_path, monkeypatch, capsys
):
    many(files)
    use_workers(monkeypatch, workers)
    out = tmp_path / "out"
    for count in (1, 20, 40):
        process = start("decode", files, out)
        wait_for_results(out, count, process)
        forked = psutil.Process(process.pid).children()
        process.kill()
        process.join()
        deadline = time.monotonic() + 10
        while any(map(is_alive, forked)):  # they do not outlive it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for path in out.glob("*.png"):
            Image.open(path).load()
    (out / f".f1.png.{process.pid}.tmp").touch()  # as one that was killed in a write leaves
    assert run("decode", files, out) == 0
    assert summary(capsys)["kept"] >= 40 - 4  # a result that was just written may lack its line
    assert run("decode", files, tmp_path / "whole") == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", WORKERS)
def test_ctrl_c_is_one_line_and_what_is_done_is_kept(workers, files, tmp_path, monkeypatch, capfd):
    many(files)
    use_workers(monkeypatch, workers)
    out = tmp_path / "out"
    process = start("decode", files, out)
    wait_for_results(out, 3, process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    captured = capfd.readouterr()
    assert process.exitcode == 130
    assert captured.err == "stopped: what was done is there; start it again to go on\n"
    names = set(contents(out))
    assert names == {path.name for path in out.glob("*.png")} | {RECORD}  # no lock, no half file
    assert 3 <= len(names) - 1 < 60
    recorded = len((out / RECORD).read_bytes().splitlines())
    assert run("decode", files, out) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["kept"] == recorded >= 1


@pytest.mark.parametrize("workers", WORKERS)
def test_a_full_disk_ends_the_run(workers, files, tmp_path, monkeypatch, capsys):
    write = conversion.write

    def full(path: Path, content: bytes) -> None:
        if path.name == "f5.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    use_workers(monkeypatch, workers)
    monkeypatch.setattr(conversion, "write", full)
    assert run("decode", files, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and os.strerror(errno.ENOSPC) in error
    assert not (tmp_path / "out" / LOCK).exists()
    monkeypatch.setattr(conversion, "write", write)
    assert run("decode", files, tmp_path / "out") == 0


@forks
def test_a_killed_worker_ends_the_run_and_loses_nothing(files, tmp_path, monkeypatch, capsys):
    """As the system does if memory is short."""
    decode = StubDecoder.decode

    def deadly(self, data, force):
        if bitstream.unpack(data).seed == 8:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, data, force)

    use_workers(monkeypatch, 2)
    monkeypatch.setattr(StubDecoder, "decode", deadly)
    out = tmp_path / "out"
    assert run("decode", files, out) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: a worker was killed") and error.count("\n") == 1
    assert not (out / LOCK).exists()
    monkeypatch.setattr(StubDecoder, "decode", decode)
    assert run("decode", files, out) == 0
    assert summary(capsys)["kept"] >= 5


# ---- the lock


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_one_run_at_a_time(command, files, photos, tmp_path, capsys):
    out = tmp_path / "out"
    source = photos if command == "encode" else files
    with locked(out):
        assert run(command, source, out) == 1
        assert [path.name for path in out.iterdir()] == [LOCK]
    line = f"error: {out} is in use by process {os.getpid()} of this machine"
    assert line in capsys.readouterr().err
    assert run(command, source, out) == 0
    assert not (out / LOCK).exists()


def test_wrong_usage_leaves_nothing(files, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run("decode", tmp_path / "empty", tmp_path / "out") == 2
    assert run("decode", files, tmp_path / "out", "--device", "cuda:99") == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert not (tmp_path / "out").exists()


# ---- the benchmark


def test_the_benchmark_compares_with_one_start_and_the_drawings_divided_by_the_cores():
    one, alone = (
        Cost(10.5, 9),
        Cost(22, 32),
    )  # starts of 10 s, 8 s of the CPU; drawings of 0.5 and 1
    rounds = [{"one": one, "alone": alone, "all": Cost(wall, 36)} for wall in (20, 16, 24)]
    found = summary_of(rounds, count=24, cores=2)
    assert (found["start"], found["drawing"], found["ideal"]) == (10, 0.5, 16)
    assert (found["ratio"], found["ratio_of_rounds"]) == (1.25, [1.25, 1, 1.5])
    assert found["cpu_ratio"] == round((8 + 28 / 2) / (8 + 24 / 2), 3)
