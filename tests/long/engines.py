"""The same photographs by every way in which a run is spread: the same files, byte for byte.

    python tests/long/engines.py KODAK               # some ten minutes
    python tests/long/engines.py KODAK --limit 4

eval_PICS.py at preset `tiny`, with its models: from a folder in one process, in two workers, in two
processes of a launcher; from tar shards; with a Ray of this machine; on a simulated cluster of
three nodes of which one is killed on the way. Streams, pictures, rows and means are compared, but
for times and memory. The last line on stdout is JSON: what differs from the first way, and the
seconds of each; exit status 1 if anything does.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SHARDS = 3
NAME = "photos"  # of the folder and of the shards, and so of the runs


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_root", type=Path, help="folder of images")
    parser.add_argument("--limit", type=int, default=24, help="images, at most")
    return parser.parse_args(argv)


def run(output: Path, *flags: str, cores: int = 2, launcher: tuple[str, ...] = ()) -> None:
    """Run the script. Raises RuntimeError if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(cores)}
    command = [sys.executable, *launcher, "eval_PICS.py", "--output", str(output), *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{output.name}: {done.stderr[-1000:]}")


def on_a_cluster(output: Path, photos: str) -> None:
    """Run on three nodes, and kill one when there is a file of rows."""
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
    flags = ["--data_root", photos, "--engine", "ray", "--address", machines.address]
    command = [sys.executable, "eval_PICS.py", "--output", str(output), "--device", "cpu", *flags]
    try:
        with (output.parent / "cluster.txt").open("w") as log:
            driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        while driver.poll() is None and not list(output.glob("*/data/*.parquet")):
            time.sleep(0.2)
        if driver.poll() is None:
            machines.remove_node(nodes[0], allow_graceful=False)
        if driver.wait():
            raise RuntimeError((output.parent / "cluster.txt").read_text()[-1000:])
    finally:
        machines.shutdown()


def ways(photos: str, shards: str) -> dict[str, Callable[[Path], None]]:
    """Return what runs each way into a folder."""
    root = ("--data_root", photos)
    two = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    return {
        "one process": lambda output: run(output, *root, "--batch_size", "1", cores=1),
        "two workers": lambda output: run(output, *root),
        "two processes": lambda output: run(
            output, *root, "--device", "cpu", cores=1, launcher=two
        ),
        "shards": lambda output: run(output, "--data_root", shards),
        "ray": lambda output: run(output, *root, "--engine", "ray", "--batch_size", "2"),
        "cluster": lambda output: on_a_cluster(output, photos),
    }


def copied(data_root: Path, limit: int, folder: Path) -> tuple[str, str]:
    """Write the first images to a folder and to tar shards; return both places."""
    from dataloaders import load_samples

    photos, shards = folder / NAME, folder / "shards"
    photos.mkdir()
    shards.mkdir()
    samples = load_samples(data_root, None, 256)
    for path in samples.paths[:limit]:
        shutil.copy(path, photos)
    whole = load_samples(photos, None, 256)
    size = -(-len(whole) // SHARDS)
    for shard in range(SHARDS):
        with tarfile.open(shards / f"{NAME}-{shard}.tar", "w") as archive:
            for path in whole.paths[shard * size : (shard + 1) * size]:
                archive.add(path, Path(path).name)
    return str(photos), str(shards)


def main(argv: list[str] | None = None) -> int:
    """Run all ways, compare, and return the exit status."""
    args = parse_args(argv)
    from helpers.ray_runs import ray_environment, results

    expected: dict = {}
    report: dict = {}
    with ray_environment(), tempfile.TemporaryDirectory() as name:
        places = copied(args.data_root, args.limit, Path(name))
        Path(name, "runs").mkdir()
        for way, do in ways(*places).items():
            began, output = time.monotonic(), Path(name, "runs", way.replace(" ", "_"))
            do(output)
            found = results(output)
            expected = expected or found
            differing = {key for key in found | expected if found.get(key) != expected.get(key)}
            seconds = round(time.monotonic() - began, 1)
            report[way] = {"results": len(found), "differ": sorted(differing), "seconds": seconds}
            print(way, report[way], file=sys.stderr)
    print(json.dumps(report))
    return 1 if any(each["differ"] for each in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
