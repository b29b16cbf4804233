"""Runs on Ray in tests: their environment, their images, and what came out.

with ray_environment():
    stub_cluster.run(images_in(folder), output)
    assert results(output) == results(loop_output)
"""

import contextlib
import csv
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from helpers import stub_run
from helpers.stub_run import BAD
from reporting.rows import COSTS

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def ray_environment() -> Iterator[None]:
    """Let actors find our modules, and report nothing to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # nodes are started before the driver
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
            patch.setenv("RAY_TMPDIR", folder)  # a short path: it holds sockets
            yield


def images_in(folder: Path) -> Path:
    """Write ten images: one has no contents, one cannot be encoded; return their folder."""
    folder.mkdir()
    for i in range(10):
        color = BAD if i == 2 else (10 * i, 20, 30)
        Image.new("RGB", (96, 64), color).save(folder / f"p{i}.png")
    (folder / "p5.png").write_bytes(b"not a picture")
    return folder


def shards_of(photos: Path, folder: Path, count: int) -> Path:
    """Write three tar shards with `count` images, which repeat `photos`; return their folder."""
    folder.mkdir()
    paths = sorted(photos.iterdir())
    for shard in range(3):
        with tarfile.open(folder / f"photos-{shard}.tar", "w") as archive:
            for number in range(shard, count, 3):
                archive.add(paths[number % len(paths)], f"p{number:03d}.png")
    return folder


def looped_results(data: Path, output: Path) -> dict:
    """Run the loop over `images_in` or `shards_of` in this process; return its results."""
    with pytest.MonkeyPatch.context() as patch:
        stub_run.stub(patch.setattr)
        assert stub_run.run(data, output) == 1
    return results(output)


def results(output: Path) -> dict:
    """Return streams, pictures, rows and means of the run below `output`."""
    (folder,) = output.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    found = {path.name: path.read_bytes() for path in folder.glob("*.p*")}
    rows = csv.DictReader((folder / "results.csv").read_text().splitlines())
    found["rows"] = [
        {name: cell for name, cell in row.items() if not name.startswith(COSTS)} for row in rows
    ]
    wanted = ("mean", "intervals", "failed", "images")
    return found | {name: summary[name] for name in wanted} | {"reasons": summary["reasons"]}
