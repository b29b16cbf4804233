"""One run at a time in a folder: who gets it, what the others are told, what a killed run leaves.

python -m pytest tests/test_lock.py
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.races import KINDS, NAMES, NO_PROCESS, SEEDS, files_by_seed, make_photos, race
from helpers.stub_run import arguments, run, stub

import generate_sketches
from evaluation.lock import LOCK, LockError, locked, remove_temporary, this_process

ROOT = Path(__file__).parent.parent
HERE = socket.gethostname()
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and fork on Linux alone")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


def left_by(folder: Path, host: str, pid: int, start: str) -> Path:
    """Put a lock into a folder."""
    (folder / LOCK).write_text(json.dumps([[host, pid, start]]))
    return folder


# ---- races


@linux
def test_of_two_runs_at_once_one_works_and_one_says_why_not(photos, tmp_path, monkeypatch):
    """tests/long/races.py runs more of them."""
    stub(monkeypatch.setattr, pause_s=0.02)
    expected = files_by_seed(photos, tmp_path)
    assert expected[SEEDS[0]] != expected[SEEDS[1]]
    for number, kind in enumerate(2 * KINDS):
        outcome = race(kind, photos, tmp_path / str(number), expected)
        assert outcome.wrong == [], outcome
        assert sorted(outcome.statuses) == [0, 1]


# ---- the lock


def test_the_lock_lasts_as_long_as_the_block(tmp_path):
    folder = tmp_path / "a" / "run"
    with locked(folder):
        owner = this_process()
        assert json.loads((folder / LOCK).read_text()) == [[HERE, os.getpid(), owner.start]]
        with pytest.raises(LockError, match=f"in use by process {os.getpid()} of this machine"):
            locked(folder).__enter__()
        assert (folder / LOCK).exists()
    assert not folder.exists()  # it was new, and nothing is in it
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt), locked(folder):
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == []


def test_a_lock_of_another_process_is_left_alone(tmp_path):
    with locked(tmp_path):
        (tmp_path / LOCK).unlink()
        left_by(tmp_path, "elsewhere", 7, "")
    assert (tmp_path / LOCK).exists()


@linux
def test_locks_of_processes_that_are_gone_are_taken_over(tmp_path, capsys):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    for pid, start in ((NO_PROCESS, "1"), (os.getpid(), "1"), (ended.pid, "")):
        with locked(left_by(tmp_path, HERE, pid, start)):
            pass
        line = f"took over {tmp_path / LOCK} of process {pid}, which is gone\n"
        assert capsys.readouterr().err == line
    ended.wait()
    (tmp_path / LOCK).touch()  # killed before it could write
    with locked(tmp_path):
        pass
    assert "of a process that is gone" in capsys.readouterr().err


def test_a_lock_of_several_processes_holds_as_long_as_one_of_them(tmp_path):
    mine = this_process()
    owners = [mine._replace(pid=NO_PROCESS), mine]
    (tmp_path / LOCK).write_text(json.dumps(owners))
    with pytest.raises(LockError, match=f"process {os.getpid()} of this machine"):
        locked(tmp_path).__enter__()


def test_a_lock_of_another_host_is_not_taken_over(tmp_path):
    left_by(tmp_path, "elsewhere\x1b[2J", NO_PROCESS, "1")
    with pytest.raises(LockError) as caught:
        locked(tmp_path).__enter__()
    message = f"{tmp_path} is in use by process {NO_PROCESS} of host elsewhere\\x1b[2J: "
    assert str(caught.value) == message + f"if that run is gone, remove {tmp_path / LOCK}"


HOSTILE = {
    "no JSON": "{",
    "a number": "1",
    "nobody": "[]",
    "texts": '["abc"]',
    "a process id of 0": json.dumps([[HERE, 0, ""]]),
    "a negative one": json.dumps([[HERE, -1, ""]]),
    "a large one": json.dumps([[HERE, 10**30, ""]]),
    "a fraction": json.dumps([[HERE, 1.5, ""]]),
    "100,000 lists in one another": "[" * 100_000,
    "2 MB": "[" + " " * (2 << 20) + "]",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_lock_that_does_not_say_whose_it_is(content, tmp_path):
    (tmp_path / LOCK).write_text(content)
    message = f"{tmp_path / LOCK} does not say whose it is: if no run is at work, remove it"
    with pytest.raises(LockError) as caught:
        locked(tmp_path).__enter__()
    assert str(caught.value) == message


@pytest.mark.parametrize("make", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file(make, tmp_path):
    path = tmp_path / LOCK
    if make == "link":
        path.symlink_to(tmp_path / "other")
    else:
        {"pipe": os.mkfifo, "folder": os.mkdir}[make](path)
    with pytest.raises(LockError, match="is no regular file: remove it"):
        locked(tmp_path).__enter__()
    assert not (tmp_path / "other").exists()


def test_only_files_of_processes_that_are_gone_are_removed(tmp_path):
    parent = os.getppid()
    names = [f".a.png.{parent}.tmp", ".a.tmp", ".png.x.tmp", f"a.{NO_PROCESS}.tmp", ".123.tmp"]
    for name in [*names, f".a.png.{NO_PROCESS}.tmp", f".a.b.{os.getpid()}.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / f".c.{NO_PROCESS}.tmp").mkdir()
    remove_temporary(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([*names, f".c.{NO_PROCESS}.tmp"])


# ---- the commands


def test_an_evaluation_says_who_has_its_folder(photos, tmp_path, monkeypatch, capsys):
    stub(monkeypatch.setattr)
    assert run(photos, tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    with locked(folder):
        for more in ((), ("--overwrite",), ("--seed", "5")):
            assert run(photos, tmp_path, *more) == 1
            line = f"error: {folder} is in use by process {os.getpid()} of this machine: "
            assert line + "wait for it, or choose another folder\n" in capsys.readouterr().err
    assert len(list(folder.glob("*_caption.yaml"))) == len(NAMES)


def test_models_that_cannot_be_loaded_leave_no_lock(photos, tmp_path, monkeypatch):
    stub(monkeypatch.setattr)

    for error, status in ((OSError("no"), 1), (ValueError("no"), 2), (KeyboardInterrupt(), 130)):

        def refuse(*_, error=error):
            assert list(tmp_path.glob(f"*/{LOCK}"))  # it was taken before
            raise error

        monkeypatch.setattr("evaluation.setup.load_encoder", refuse)
        assert run(photos, tmp_path) == status
        assert list(tmp_path.iterdir()) == []


def test_sketches_are_made_by_one_run_at_a_time(photos, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--sketch_type", "canny", "--short_side", "64", "--workers", "1"]
    command = ["--data_root", str(photos), "--out", str(out), *flags]
    with locked(out):
        assert generate_sketches.main(command) == 1
    line = f"generate_sketches.py: {out} is in use by process {os.getpid()} of this machine"
    assert line in capsys.readouterr().err and not out.exists()
    assert generate_sketches.main(command) == 0
    left_by(out, "elsewhere", 7, "")
    assert generate_sketches.main(command) == 1
    assert "of host elsewhere" in capsys.readouterr().err
    left_by(out, HERE, NO_PROCESS, "")
    assert generate_sketches.main(command) == 0 and not (out / LOCK).exists()


def test_launched_processes_share_the_lock_and_end_together(photos, tmp_path):
    """Two processes of torchrun: rank 0 is refused, both end, and one line is said.

    That they work together is shown by tests/test_scripts.py.
    """
    folder = tmp_path / "out" / "PICS_tiny_photos"
    folder.mkdir(parents=True)
    left_by(folder, "elsewhere", 7, "")
    stub_run = str(ROOT / "tests" / "helpers" / "stub_run.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", stub_run]
    command += [*arguments(photos, tmp_path / "out"), "--device", "cpu"]
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "check": False, "timeout": 120}
    ended = subprocess.run(command, env=environment, **options)
    assert ended.returncode == 1
    assert ended.stderr.count("error: ") == ended.stderr.count("of host elsewhere") == 1
    assert [path.name for path in folder.iterdir()] == [LOCK]
