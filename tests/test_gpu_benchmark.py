"""benchmarks/gpu.py: a run with small models, no GPU, the sizes of the full models.

python -m pytest tests/test_gpu_benchmark.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu
from benchmarks.random_models import SIZES, networks

ROOT = Path(__file__).parent.parent


def test_a_small_run_from_end_to_end(capsys):
    argv = ["--small", "--batch_sizes", "2", "--batches", "3", "--paper_steps", "2"]
    assert gpu.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["batch", "the"]
    found = json.loads(lines[-1])
    run, paper = found["runs"]["batch 2"], found["paper"]
    stages = {"prompt", "sketch", "coding", "candidates", "decoding", "metrics"}
    assert set(run["seconds"]) == stages and min(run["seconds"].values()) > 0
    assert run["images"] == 2 and run["a_minute"] > 0
    assert found["not_measured"] == {}
    assert run["gpu_busy"] is run["memory_gpu"] is None
    assert paper["steps_timed"] == 2
    assert paper["a_minute"] == pytest.approx(60 / sum(paper["seconds"].values()), rel=0.01)
    faster = found["times_as_fast_as_the_paper"]["batch 2"]
    assert faster == pytest.approx(run["a_minute"] / paper["a_minute"], abs=0.06)


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "not measured: no GPU"
    assert json.loads(lines[1]) == {"not measured": "no GPU"}


def test_a_run_that_fails_does_not_lose_the_others(monkeypatch, capsys):
    def no_memory(*_):
        raise torch.OutOfMemoryError("out of\nmemory")

    monkeypatch.setattr(gpu, "evaluate", no_memory)
    monkeypatch.setattr(gpu, "paper_loop", lambda *_: {"a_minute": 2.0})
    assert gpu.main(["--small", "--batch_sizes", "2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    reason = "OutOfMemoryError: out of memory"
    assert lines[:-1] == [f"batch 2: not measured: {reason}", "the paper's loop a_minute 2.0"]
    found = json.loads(lines[-1])
    assert found["not_measured"] == {"batch 2": reason}
    assert found["paper"] == {"a_minute": 2.0} and found["times_as_fast_as_the_paper"] == {}


LIMITED = """
import contextlib, sys, time
from pathlib import Path
from benchmarks.gpu import Results, end_at
results = Results({"device": "none"}, ["first", "second", "third"])
results.measure("first", lambda: {"a_minute": 6.0})
def endless():
    end_at(time.monotonic(), results, Path(sys.argv[1]))
    with contextlib.redirect_stdout(sys.stderr):
        time.sleep(60)
results.measure("second", endless)
"""


def test_the_time_limit_ends_a_run_and_keeps_what_is_measured(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", LIMITED, str(home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, *others, last = done.stdout.splitlines()
    assert first == "first a_minute 6.0"
    assert others == [f"{name}: not measured: no time left" for name in ("second", "third")]
    found = json.loads(last)
    assert found["runs"] == {"first": {"a_minute": 6.0}} and found["paper"] is None
    assert found["not_measured"] == dict.fromkeys(["second", "third"], "no time left")
    assert not home.exists()


def test_the_first_and_the_last_batch_do_not_count(tmp_path):
    rows = []
    for number, moment in enumerate([10, 11, 14, 17, 29, 30]):  # seconds since the epoch
        name = f"p{number}"
        record = tmp_path / f"{name}_caption.yaml"
        record.write_text("")
        os.utime(record, (moment, moment))
        seconds = {"prompt": number if number in (2, 3) else 100.0}
        rows.append({"name": name, "seconds": seconds, "memory": {"gpu": 1000 - number}})
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    watch = gpu.GpuWatch()
    watch.samples = [(10.5, 0.0), (12.0, 0.75), (13.0, 1.0), (18.0, 0.0)]
    assert gpu.cost_of(tmp_path, 2, watch) == {
        "images": 2,
        "seconds": {"prompt": 2.5},
        "a_minute": 20.0,
        "gpu_busy": 0.875,
        "memory_gpu": 998,
    }


def test_the_gpu_is_watched_while_it_runs(monkeypatch):
    monkeypatch.setattr(gpu, "SAMPLING_SECONDS", 0.001)
    taken = []

    def query(*_, **__):
        taken.append(1)
        return SimpleNamespace(stdout="50\n")

    monkeypatch.setattr(gpu.subprocess, "run", query)
    with gpu.GpuWatch() as watch:
        while len(taken) < 3:
            pass
    assert {busy for _, busy in watch.samples} == {0.5}
    assert watch.busy(0, 1) is None


# The weights of the published files: 5.16 GB in float32, 0.729 GB in float16, 3.94 GB in float32.
PUBLISHED = {"generator": 5.16e9 / 4, "controlnet": 0.729e9 / 2, "clip": 3.94e9 / 4}


def test_full_sizes_are_the_published():
    counts = dict.fromkeys(PUBLISHED, 0)
    with torch.device("meta"):
        for name, make in networks(SIZES["full"]).items():
            weights = make().parameters()
            counts[name.split("/")[0]] += sum(weight.numel() for weight in weights)
    assert counts == pytest.approx(PUBLISHED, rel=0.005)
