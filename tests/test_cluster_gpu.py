"""Actors with a GPU: one batch at a time is at work there, beside the CPU's work of the others.

python -m pytest tests/test_cluster_gpu.py
"""

import asyncio
import contextlib
import threading

import pytest
from helpers import stub_cluster, stub_run
from helpers.ray_runs import looped_results, results
from PIL import Image

from dataloaders import load_samples
from evaluation import cluster_run
from metrics import MetricSet

pytest.importorskip("pyarrow", reason="needs requirements-cluster.txt")
IMAGES = 6


class Watch:
    """Counts what is at work at a time."""

    def __init__(self):
        self.lock, self.now = threading.Lock(), {"gpu": 0, "cpu": 0}
        self.most_on_gpu, self.beside = 0, threading.Event()

    @contextlib.contextmanager
    def at(self, place):
        with self.lock:
            self.now[place] += 1
            self.most_on_gpu = max(self.most_on_gpu, self.now["gpu"])
            if all(self.now.values()):
                self.beside.set()
        try:
            yield
        finally:
            with self.lock:
                self.now[place] -= 1


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (96, 64), (10 * number, 20, 30)).save(folder / f"p{number}.png")
    (folder / "p2.png").write_bytes(b"not a picture")
    return folder


def worker_of(photos, output, monkeypatch, threads):
    """An actor's work, and its tables of one image each."""
    monkeypatch.setattr(cluster_run, "threads_for", lambda *_: threads)
    monkeypatch.setattr(cluster_run, "processes_here", lambda: 1)
    monkeypatch.setattr(cluster_run, "attempt", lambda *_: contextlib.nullcontext(0))
    argv = stub_run.arguments(photos, output, "--engine", "ray", "--device", "cpu")
    args = stub_run.script_args(argv)
    samples = load_samples(photos, None, args.preset.short_side)
    images = cluster_run.image_table(samples, range(len(samples)))
    return cluster_run.GpuWorker(stub_cluster.load, args, "PICS", None), cluster_run.blocks_of(
        images, 1
    )


def watched(monkeypatch, kind, name, watch, place, wait=None):
    """Let a method tell where it is at work, and wait there for a moment of both."""
    method = getattr(kind, name)

    def wrapped(*args):
        with watch.at(place):
            if wait:
                wait()
            return method(*args)

    monkeypatch.setattr(kind, name, wrapped)


@pytest.mark.parametrize("threads", [0, 2])
def test_one_batch_at_a_time_is_on_the_gpu(monkeypatch, photos, tmp_path, threads):
    watch = Watch()
    # Measuring waits until something is on the GPU, which without a pool nothing ever is.
    wait = (lambda: watch.beside.wait(5)) if threads else None
    watched(monkeypatch, stub_run.StubDecoder, "generate", watch, "gpu")
    watched(monkeypatch, stub_cluster.DeadlyEncoder, "encode_all", watch, "gpu")
    watched(monkeypatch, MetricSet, "measure", watch, "cpu", wait)
    worker, blocks = worker_of(photos, tmp_path, monkeypatch, threads)

    async def do_all():
        return await asyncio.gather(*map(worker, blocks))

    tables = asyncio.run(do_all())
    assert watch.most_on_gpu == 1
    assert watch.beside.is_set() == bool(threads)
    rows = [row for table in tables for row in table.to_pylist()]
    # Each call returns its own images.
    assert [(row["name"], bool(row["failure"])) for row in rows] == [
        (f"p{number}", number == 2) for number in range(IMAGES)
    ]


@pytest.mark.slow
def test_a_gpu_that_ray_is_told_of_gives_the_results_of_the_loop(
    ray_nodes, photos, tmp_path, monkeypatch
):
    pytest.importorskip("ray", reason="needs requirements-cluster.txt")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("STUB_THREADS", "2")
    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    try:
        more = ("--batch_size", "2", "--address", machine.address)
        assert stub_cluster.run(photos, tmp_path / "ray", *more, device=()) == 1
    finally:
        machine.shutdown()
    assert results(tmp_path / "ray") == looped_results(photos, tmp_path / "loop")
