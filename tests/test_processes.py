"""A run's results are the same at once, killed and resumed, in batches, by several processes.

python -m pytest tests/test_processes.py
"""

import csv
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml
from helpers.stub_run import BAD, StubDecoder, StubEncoder, arguments, run, script_args, stub
from PIL import Image

from diffusion.execution import Execution
from evaluation import loop, processes, progress, setup
from evaluation.evaluator import Evaluator, store_in
from evaluation.folder import Taken, claim
from evaluation.loop import finish, split, work
from evaluation.overlap import TURN_SECONDS, imap_overlapped
from evaluation.processes import ProcessGroup
from evaluation.progress import Progress
from evaluation.setup import Run, workers_for
from evaluation.timing import Stopwatch
from metrics import MetricSet
from reporting.log import DONE, MISSING, entry_in, logs_of, scan
from reporting.rows import COSTS

ROOT = Path(__file__).parent.parent
forks = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
CORES = ("1", pytest.param("3", marks=forks))
NAMES = tuple(f"p{i}" for i in range(7))


@pytest.fixture
def photos(tmp_path):
    """Seven pictures: one has no contents, one cannot be encoded."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        color = BAD if name == "p2" else (10 * i, 20, 30)
        Image.new("RGB", (96, 64), color).save(folder / f"{name}.png")
    (folder / "p5.png").write_bytes(b"not a picture")
    return folder


def script(photos, output, cores="1"):
    stub_run = ROOT / "tests" / "helpers" / "stub_run.py"
    command = [sys.executable, stub_run, *arguments(photos, output, "--batch_size", "2")]
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": cores}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, **pipes)


def recorded(output):
    """How many images the logs of a run that is at work have."""
    entries = [scan(folder, NAMES) for folder in output.glob("*")]
    return sum(int((one.state == DONE).sum()) for one in entries)


def alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def results(output):
    """All files of a run but for timings, versions and what shows them."""
    (folder,) = output.iterdir()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    del files["made.json"], files["index.html"]
    for name in files:
        if name.endswith(".yaml"):
            files[name] = without_costs(yaml.safe_load(files[name]))
    files["summary.json"] = json.loads(files["summary.json"]) | {"cost": None}
    lines = files["results.jsonl"].splitlines(keepends=True)
    files["results.jsonl"] = [without_costs(entry_in(line)) for line in lines]
    rows = csv.DictReader(files["results.csv"].decode().splitlines())
    files["results.csv"] = [without_costs(row) for row in rows]
    return files


def without_costs(record):
    """A record or a row without times and memory."""
    costs = ("seconds", "memory", *COSTS)
    return {name: value for name, value in record.items() if not name.startswith(costs)}


def in_process(monkeypatch, photos, output, *more):
    """Run in this process; the exit status."""
    stub(monkeypatch.setattr)
    return run(photos, output, *more)


@pytest.fixture
def whole(monkeypatch, photos, tmp_path):
    """The files of an unbroken run of one process."""
    assert in_process(monkeypatch, photos, tmp_path / "whole", "--batch_size", "2") == 1
    return results(tmp_path / "whole")


def test_bad_images_are_recorded_with_their_reasons(whole):
    summary = whole["summary.json"]
    assert summary["images"] == 5 and summary["failed"] == ["p2", "p5"]
    assert summary["reasons"]["p2"] == "ValueError: 1 red pictures"
    assert "p5.png: not a picture" in summary["reasons"]["p5"]
    names = [row["name"] for row in whole["results.csv"]]
    assert names == [line["name"] for line in whole["results.jsonl"]]


def test_an_image_that_failed_is_tried_again(monkeypatch, photos, tmp_path):
    assert in_process(monkeypatch, photos, tmp_path / "out") == 1
    Image.new("RGB", (96, 64)).save(photos / "p2.png")
    (photos / "p5.png").unlink()
    assert in_process(monkeypatch, photos, tmp_path / "out") == 0
    after = results(tmp_path / "out")
    assert after["summary.json"]["failed"] == []


def test_a_finished_run_is_measured_without_its_models(monkeypatch, whole, photos, tmp_path):
    for name in ("p2", "p5"):
        (photos / f"{name}.png").unlink()
    (folder,) = (tmp_path / "whole").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    values = {"fid_patches": {"value": 2.5, "reconstructions": 4, "others": 4}}
    missing = {"lpips_alex": "no weights"}
    measured = summary | {"set": values, "not_available": missing}
    (folder / "summary.json").write_text(json.dumps(measured))
    stub(monkeypatch.setattr)
    monkeypatch.setattr(setup, "load_encoder", None)
    args = script_args(arguments(photos, tmp_path / "whole", "--metrics", "psnr,color,kid_folder"))
    assert loop.evaluate(args, "PICS") == 0
    after = json.loads((folder / "summary.json").read_text())
    assert after["set"] == values and after["mean"] == summary["mean"]  # of the same images
    assert after["not_available"] == missing | {"kid_folder": "no reference folder was given"}


@pytest.mark.parametrize("batch", ["1", "3", "100"])
@pytest.mark.parametrize("cores", CORES)
def test_batches_change_nothing(
    monkeypatch, threads_restored, whole, photos, tmp_path, batch, cores
):
    torch.set_num_threads(int(cores))
    in_process(monkeypatch, photos, tmp_path / "out", "--batch_size", batch)
    assert results(tmp_path / "out") == whole


@pytest.mark.parametrize("cores", CORES)
def test_killed_at_random_and_resumed(photos, tmp_path, cores):
    moments, kills = random.Random(1), 0
    started = time.monotonic()
    first = script(photos, tmp_path / "unbroken", cores)
    assert first.wait() == 1
    longest = time.monotonic() - started
    for _ in range(3):
        run = script(photos, tmp_path / "out", cores)
        try:
            run.wait(moments.uniform(0.5, 1) * longest)
        except subprocess.TimeoutExpired:
            workers = psutil.Process(run.pid).children()
            run.kill()
            deadline = time.monotonic() + 10
            while any(map(alive, workers)):  # they do not outlive it
                assert time.monotonic() < deadline
                time.sleep(0.05)
            kills += 1
        run.communicate()
    assert script(photos, tmp_path / "out", cores).wait() == 1
    assert kills and results(tmp_path / "out") == results(tmp_path / "unbroken")
    assert not list((tmp_path / "out").glob("*/.*.tmp"))


@pytest.mark.parametrize("cores", CORES)
def test_interrupted_run_says_what_is_done(photos, tmp_path, cores):
    run = script(photos, tmp_path / "out", cores)
    deadline = time.monotonic() + 60
    while recorded(tmp_path / "out") < 2 and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    out, error = (text.decode() for text in run.communicate())
    (folder,) = (tmp_path / "out").iterdir()
    summary = json.loads(out.splitlines()[-1])
    lines = (folder / "results.jsonl").read_bytes().splitlines()
    done = len(lines)
    assert run.returncode == 130 and f"stopped: {done} of 7" in error and "Traceback" not in error
    assert summary["images"] == done >= 2 and logs_of(folder) == [(0, 0, folder / "results.jsonl")]


@forks
def test_a_killed_worker_ends_the_run_and_loses_nothing(
    monkeypatch, threads_restored, whole, photos, tmp_path, capsys
):
    encode_all = StubEncoder.encode_all

    def deadly(self, images, sizes):
        # As the system does if memory is short.
        if images[0].mean() > 40 and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return encode_all(self, images, sizes)

    torch.set_num_threads(2)
    monkeypatch.setattr(StubEncoder, "encode_all", deadly)
    assert in_process(monkeypatch, photos, tmp_path / "out", "--batch_size", "2") == 1
    assert "error: a worker was killed" in capsys.readouterr().err.splitlines()[-1]
    (folder,) = (tmp_path / "out").iterdir()
    assert scan(folder, NAMES).state.tolist()[0::6] == [DONE, MISSING]
    monkeypatch.setattr(StubEncoder, "encode_all", encode_all)
    assert in_process(monkeypatch, photos, tmp_path / "out", "--batch_size", "2") == 1  # p2 and p5
    assert results(tmp_path / "out") == whole


def test_several_workers_only_if_an_image_is_too_small_for_the_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(sys, "platform", "linux")
    encoder = StubEncoder()
    wanted = {("cpu", 8): 4, ("cpu", 3): 3, ("cpu", 1): 0, ("cuda", 8): 0}
    assert {how: workers_for(encoder, *how) for how in wanted} == wanted
    monkeypatch.setattr(encoder.decoder, "generator", SimpleNamespace(parameters=866_000_000))
    assert workers_for(encoder, "cpu", 8) == 0
    monkeypatch.setattr(encoder.decoder, "generator", SimpleNamespace(parameters=1000))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert workers_for(encoder, "cpu", 8) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 24, 1000])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_split_gives_each_image_once(count, batch_size, workers):
    workers = min(workers, batch_size)
    parts = split(range(count), batch_size, workers)
    assert [i for part in parts for i in part] == list(range(count))
    assert all(0 < len(part) * max(1, workers) <= batch_size for part in parts)


def test_results_are_there_as_it_goes(monkeypatch, photos, tmp_path):
    seen, take = [], Progress.take

    def watched(self, ended):
        (folder,) = (tmp_path / "out").iterdir()
        (log,) = folder.glob("results-1-0.jsonl")
        lines = log.read_bytes().splitlines(keepends=True)
        table = folder / "results.csv"
        rows = len(table.read_bytes().splitlines()) - 1 if table.exists() else 0
        seen.append([sum("failed" not in entry_in(line) for line in lines), rows])
        take(self, ended)
        assert self.reports.process.wait() == 0

    monkeypatch.setattr(Progress, "take", watched)
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0)
    monkeypatch.setattr(progress, "REPORT_TIMES", 0)
    in_process(monkeypatch, photos, tmp_path / "out", "--batch_size", "2")
    assert seen == [[2, 0], [3, 2], [4, 3], [5, 4]]  # p2 and p5 are not among them


class State:
    """accelerate's PartialState, for processes that run one after another."""

    def __init__(self, rank, count):
        self.process_index, self.num_processes = rank, count

    @contextmanager
    def split_between_processes(self, items):
        size, extra = divmod(len(items), self.num_processes)
        start = self.process_index * size + min(self.process_index, extra)
        yield items[start : start + size + (self.process_index < extra)]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_processes_change_nothing(monkeypatch, whole, photos, tmp_path, count, capsys):
    args = script_args(arguments(photos, tmp_path / "out"))
    stub(monkeypatch.setattr)
    alone = setup.prepare(args, "PICS", ExitStack())
    folder, samples, metrics = alone.folder, alone.samples, alone.metrics
    claim(folder, setup.settings_of(args, "PICS"), NAMES, Taken(), overwrite=False)
    for rank in reversed(range(count)):  # rank 0 last, which waits for the others
        group = ProcessGroup("cpu", State(rank, count))
        evaluator = Evaluator(StubEncoder(), metrics, {}, Stopwatch(), "cpu")
        evaluator = replace(evaluator, store=partial(store_in, folder))
        todo = list(range(7))
        run = Run("PICS", folder, samples, todo, group, evaluator, metrics, workers=0, before={})
        work(run, batch_size=2)
    assert finish(run) == 1
    assert results(tmp_path / "out") == whole
    assert capsys.readouterr().err.count("  0%") == 1  # one bar, of all


# ---- the CPU's work beside a GPU's


def overlapped(monkeypatch, photos, output, *more, threads=1):
    """Run in this process as with a GPU; the exit status."""
    monkeypatch.setattr(setup, "threads_for", lambda *_: threads)
    return in_process(monkeypatch, photos, output, *more)


def slow_metrics(monkeypatch, pause_s, before=lambda image: None):
    measure = MetricSet.measure

    def slow(self, original, recon, sketch=None):
        time.sleep(pause_s)
        before(original)
        return measure(self, original, recon, sketch)

    monkeypatch.setattr(MetricSet, "measure", slow)


@pytest.mark.parametrize(("threads", "batch"), [(1, "1"), (1, "3"), (3, "2"), (3, "100")])
@pytest.mark.parametrize("draw", ["alone", "together"])
def test_overlapping_changes_nothing(monkeypatch, whole, photos, tmp_path, threads, batch, draw):
    flags = ["--batch_size", batch, "--draw", draw]
    assert overlapped(monkeypatch, photos, tmp_path / "out", *flags, threads=threads) == 1
    assert results(tmp_path / "out") == whole


def test_no_thread_waits_for_long_for_the_interpreter():
    before = sys.getswitchinterval()
    evaluator = SimpleNamespace(encoder=SimpleNamespace(map=map))
    with imap_overlapped(evaluator, [], [], threads=1):
        assert sys.getswitchinterval() == pytest.approx(TURN_SECONDS)
    assert sys.getswitchinterval() == before != pytest.approx(TURN_SECONDS)


def test_measuring_goes_on_beside_generating(monkeypatch, photos, tmp_path):
    pause_s, images = 0.25, 5
    for name in ("p2", "p5"):
        (photos / f"{name}.png").unlink()
    monkeypatch.setattr(MetricSet, "measure", lambda *_: time.sleep(pause_s) or {"psnr": 1.0})
    stub(monkeypatch.setattr, pause_s)
    monkeypatch.setattr(setup, "threads_for", lambda *_: 2)
    seconds, work_ = [], loop.work

    def timed(*args):
        begun = time.perf_counter()
        work_(*args)
        seconds.append(time.perf_counter() - begun)

    monkeypatch.setattr(loop, "work", timed)
    assert run(photos, tmp_path / "out", "--batch_size", "1") == 0
    assert seconds[0] < 0.85 * images * 2 * pause_s  # 0.6 of one after another, and the files


def test_what_fails_beside_the_gpu_is_recorded(monkeypatch, whole, photos, tmp_path):
    def fail(image):
        if image.mean() > 33:  # p6
            raise ValueError("no such\nvalue")

    slow_metrics(monkeypatch, 0, fail)
    assert overlapped(monkeypatch, photos, tmp_path / "out", "--batch_size", "2") == 1
    summary = results(tmp_path / "out")["summary.json"]
    assert summary["failed"] == ["p2", "p5", "p6"]
    assert summary["reasons"]["p6"] == "ValueError: no such value"
    assert summary["images"] == 4


def test_one_of_a_group_that_cannot_be_drawn(monkeypatch, whole, photos, tmp_path):
    generate = StubDecoder.generate

    def limited(self, each, *rest):
        if len(each) > 1:
            raise RuntimeError("out of memory")
        return generate(self, each, *rest)

    monkeypatch.setattr(StubDecoder, "generate", limited)
    flags = ["--batch_size", "100", "--draw", "together"]
    assert overlapped(monkeypatch, photos, tmp_path / "out", *flags) == 1
    assert results(tmp_path / "out") == whole


def test_a_full_disk_ends_the_run(monkeypatch, photos, tmp_path, capsys):
    def full(image):
        raise OSError("No space left on device")

    slow_metrics(monkeypatch, 0, full)
    assert overlapped(monkeypatch, photos, tmp_path / "out", "--batch_size", "2") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: No space left on device"


def test_an_interrupt_waits_for_what_is_drawn(monkeypatch, whole, photos, tmp_path, capsys):
    encode_all = StubEncoder.encode_all

    def interrupted(self, images, sizes):
        if images[0][0, 0, 0] == 40:  # p4; p0 and p1 are drawn, p3 is not
            raise KeyboardInterrupt
        return encode_all(self, images, sizes)

    slow_metrics(monkeypatch, 0.1)
    monkeypatch.setattr(StubEncoder, "encode_all", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert overlapped(monkeypatch, photos, tmp_path / "out", "--batch_size", "1") == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "stopped: 2 of 7 images are done" in capsys.readouterr().err
    monkeypatch.setattr(StubEncoder, "encode_all", encode_all)
    assert overlapped(monkeypatch, photos, tmp_path / "out", "--batch_size", "1") == 1
    assert results(tmp_path / "out") == whole


def test_threads_only_beside_a_gpu_that_holds_all_models(monkeypatch):
    monkeypatch.setattr(setup, "overlap_threads", lambda _: 3)
    assert setup.threads_for("cuda", Execution()) == 3
    assert setup.threads_for("cuda:1", Execution(memory="low")) == 0
    assert setup.threads_for("cpu", Execution()) == 0
    drawn = {(None, "cuda"): True, (None, "cpu"): False, ("together", "cpu"): True}
    drawn["alone", "cuda"] = False
    assert {how: setup.draws_together(*how) for how in drawn} == drawn


def test_a_launcher_of_several_hosts_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 of 4 processes on this host"):
        processes.join("cpu")
