"""A hundred thousand images through a simulated cluster: a node dies, one comes, the driver dies.

    python tests/long/cluster.py                     # some ten minutes
    python tests/long/cluster.py --images 6000

eval_PICS.py --engine ray reads small images from tar shards of a thousand, with stubs in place of
the models, on three nodes. At a fifth of the rows a node is killed, at two fifths another is added,
at three fifths the driver is killed, and started again. The results must be those of the loop,
nothing lost and nothing twice. Figures: milliseconds an image and the driver's memory in the first
and in the last tenth, seconds from the second driver's start until its first row, files, bytes.
Progress goes to stderr; the last line on stdout is JSON; exit status 1 if the results differ.
Linux only.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "long")]

import million  # noqa: E402 - beside this file

WATCH_SECONDS = 0.5
DIES, COMES, DRIVER_DIES = 0.2, 0.4, 0.6  # of the rows


class Moment(NamedTuple):
    """What is seen of a run from outside."""

    seconds: float
    rows: int
    mebibytes: float  # resident, of the driver


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--work", nargs=3, metavar=("SHARDS", "OUTPUT", "ADDRESS"))
    return parser.parse_args(argv)


def work(shards: str, output: str, address: str) -> int:
    """Be the driver."""
    from helpers.stub_cluster import load
    from helpers.stub_run import script_args

    from evaluation import cluster_run

    argv = [*million.arguments(shards, output), "--engine", "ray", "--address", address]
    return cluster_run.evaluate(script_args([*argv, "--device", "cpu"]), "PICS", load)


def begin(shards: Path, output: Path, address: str) -> subprocess.Popen:
    """Start the driver."""
    command = [sys.executable, __file__, "--work", str(shards), str(output), address]
    with (output.parent / "driver.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


class Rows:
    """Counts the rows of a run's whole files."""

    def __init__(self, output: Path):
        self.output, self.counted = output, dict[Path, int]()

    def count(self) -> int:
        """Return how many rows there are now."""
        from pyarrow import ArrowException, parquet

        for path in self.output.glob("*/data/*.parquet"):
            if path not in self.counted:
                try:
                    self.counted[path] = parquet.read_metadata(path).num_rows
                except (ArrowException, OSError):  # it is being written
                    continue
        return sum(self.counted.values())


def watch(driver: subprocess.Popen, rows: Rows, events: list[tuple[int, Callable]]) -> list[Moment]:
    """Look at a run until its driver ends; let each event happen at its number of rows."""
    moments, began = [], time.monotonic()
    while driver.poll() is None:
        moments.append(Moment(time.monotonic() - began, rows.count(), memory_of(driver.pid)))
        while events and moments[-1].rows >= events[0][0]:
            happen = events.pop(0)[1]
            print(f"{moments[-1].rows} rows: {happen.__name__}", file=sys.stderr)
            happen()
        time.sleep(WATCH_SECONDS)
    return moments


def memory_of(pid: int) -> float:
    """Return the resident memory of a process, MiB; 0 if it has just ended."""
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss / (1 << 20)
    except psutil.Error:
        return 0.0


def part(moments: list[Moment], first: int, last: int) -> dict:
    """Return figures of the rows from number `first` to number `last`."""
    inside = [moment for moment in moments if first <= moment.rows <= last]
    if len(inside) < 2 or inside[-1].rows == inside[0].rows:
        return {"milliseconds": None, "driver_mebibytes": None}
    span = inside[-1].seconds - inside[0].seconds
    return {
        "milliseconds": round(1000 * span / (inside[-1].rows - inside[0].rows), 3),
        "driver_mebibytes": round(max(moment.mebibytes for moment in inside)),
    }


def streams_of(output: Path) -> dict[str, str]:
    """Return {name: SHA-256} of the files in a run's rows. Raises AssertionError for a double."""
    from pyarrow import dataset

    (folder,) = output.glob("*/data")
    found: dict[str, str] = {}
    for batch in dataset.dataset(folder).to_batches(columns=["name", ".pics"]):
        for row in batch.to_pylist():
            if row["name"] in found:
                raise AssertionError(f"{row['name']} is there twice")
            found[row["name"]] = hashlib.sha256(row[".pics"]).hexdigest()
    return found


def measure(images: int, folder: Path) -> dict:
    """Do both runs and return the figures."""
    from ray.cluster_utils import Cluster

    shards, looped, output = folder / "shards", folder / "loop", folder / "ray"
    million.make_shards(shards, images)
    million.make_preset(folder)
    if million.begin(shards, looped, workers=2).wait():
        raise RuntimeError((folder / "loop.txt").read_text()[-1000:])
    print("the loop has ended", file=sys.stderr)
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
    rows, began = Rows(output), time.monotonic()
    driver = begin(shards, output, machines.address)

    def a_node_dies() -> None:
        machines.remove_node(nodes[0], allow_graceful=False)

    def a_node_comes() -> None:
        machines.add_node(num_cpus=1)

    def the_driver_dies() -> None:
        driver.kill()
        driver.wait()

    events: list[tuple[float, Callable]] = [(DIES, a_node_dies), (COMES, a_node_comes)]
    events.append((DRIVER_DIES, the_driver_dies))
    first = watch(driver, rows, [(int(at * images), event) for at, event in events])
    had = rows.count()
    again = begin(shards, output, machines.address)
    second = watch(again, rows, [])
    result = {"images": images, "status": again.returncode}
    result["seconds"] = round(time.monotonic() - began)
    machines.shutdown()
    tenth = images // 10
    result["first"] = part(first, 1, tenth)
    result["last"] = part(second, images - tenth, images)
    new = [moment.seconds for moment in second if moment.rows > had]
    result["resume_seconds"] = round(new[0], 1) if new else None
    result["kept"] = had
    streams = {Path(path).stem: digest for path, digest in million.streams_of(looped).items()}
    result["same"] = million.rows_of(looped) == million.rows_of(output)
    result["same_streams"] = streams == streams_of(output)
    files = list(output.glob("*/data/*.parquet"))
    result["files"], result["bytes"] = len(files), sum(path.stat().st_size for path in files)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run, watch, and return the exit status."""
    args = parse_args(argv)
    if args.work:
        return work(*args.work)
    from helpers.ray_runs import ray_environment

    with ray_environment(), tempfile.TemporaryDirectory() as folder:
        result = measure(args.images, Path(folder))
    print(json.dumps(result))
    return 0 if result["same"] and result["same_streams"] and not result["status"] else 1


if __name__ == "__main__":
    sys.exit(main())
