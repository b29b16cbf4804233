"""Measure what Ray adds to an image, beside the loop with as many workers; two actors against one;
with a GPU, what the CPU's work beside it saves.

    python benchmarks/cluster.py                        # some minutes
    python benchmarks/cluster.py --images 200 --seconds 0.5
    python benchmarks/cluster.py --data_root PHOTOS     # with the models of `tiny`

Small images, and in place of the models a stub that sleeps so long for each: what is measured is
what the engines take, not the models, so that a busy machine sways it less. Each engine does so
many images, and three times as many; the difference divided by theirs is an image's time, without
start, report and end. The GPU is one that Ray is told of: there the stub sleeps so long in place of
the models, and again while it measures. With --data_root, the models of `tiny` do a ninth of the
images, and all of them, in the loop and in Ray. The last line on stdout is JSON: seconds an image,
start and end in seconds, and the ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TIMES = 3
ENGINES = {
    "loop, 2 workers": ("loop", 2),
    "ray, 2 actors": ("ray", 2),
    "ray, 1 actor": ("ray", 1),
    "ray, GPU, one thread": ("gpu", 0),
    "ray, GPU, 2 threads beside": ("gpu", 2),
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.2, help="that the stub takes an image")
    parser.add_argument("--data_root", type=Path, help="folder of photographs")
    parser.add_argument("--work", nargs=3, metavar=("ENGINE", "PHOTOS", "OUTPUT"))
    parser.add_argument("--threads", type=int, default=1, help="workers, or those beside a GPU")
    return parser.parse_args(argv)


def work(engine: str, photos: str, output: str, seconds: float, threads: int) -> int:
    """Do images by one engine, in this process."""
    from helpers import stub_cluster, stub_run

    os.environ["STUB_IMAGE_S"] = str(seconds)
    stub_run.stub(setattr, image_s=seconds)
    paths = Path(photos), Path(output)
    if engine == "loop":
        return stub_run.run(*paths)
    if engine == "ray":
        return stub_cluster.run(*paths)
    from ray.cluster_utils import Cluster

    os.environ |= {"STUB_METRICS_S": str(seconds), "STUB_THREADS": str(threads)}
    machine = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        return stub_cluster.run(*paths, "--address", machine.address, device=())
    finally:
        machine.shutdown()


def seconds_of(name: str, photos: Path, seconds: float) -> float:
    """Return the seconds that an engine takes for a folder, start included."""
    engine, workers = ENGINES[name]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(max(1, workers)),
        "PYTHONPATH": os.pathsep.join(sys.path[:2]),
    }
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, __file__, "--seconds", str(seconds)]
        command += ["--threads", str(workers), "--work", engine, str(photos), output]
        return timed(command, environment)


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Return the seconds that a command takes. Raises CalledProcessError if it fails."""
    began = time.monotonic()
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def seconds_with_models(engine: str, photos: Path) -> float:
    """Return the seconds that two workers, or actors, take for a folder, start included."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "eval_PICS.py", "--data_root", str(photos), "--output", output]
        return timed([*command, "--engine", engine, "--keep", "streams"], environment)


def measure_with_models(data_root: Path, folder: Path) -> dict:
    """Return the figures of the loop and of Ray."""
    from dataloaders import load_samples

    paths = load_samples(data_root, None, 256).paths
    few, many = folder / "few", folder / "many"
    for place, count in ((few, len(paths) // TIMES**2), (many, len(paths))):
        place.mkdir()
        for number, path in enumerate(paths[:count]):
            (place / f"{number:05d}{Path(path).suffix}").symlink_to(Path(path).resolve())
    counts = [len(list(place.iterdir())) for place in (few, many)]
    image, around = {}, {}
    for engine in ("loop", "ray"):
        short, long = (seconds_with_models(engine, photos) for photos in (few, many))
        image[engine] = round((long - short) / (counts[1] - counts[0]), 4)
        around[engine] = round(short - counts[0] * image[engine], 1)
    ratio = round(image["ray"] / image["loop"], 3)
    return {"images": counts, "seconds": image, "around": around, "ray / loop": ratio}


def make_photos(folder: Path, count: int) -> Path:
    """Write small images."""
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        tint = (number % 200, 20, 30)
        Image.new("RGB", (64, 64), tint).save(folder / f"p{number:05d}.png")
    return folder


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Return the figures of all engines."""
    few = make_photos(folder / "few", args.images)
    many = make_photos(folder / "many", TIMES * args.images)
    image, around = {}, {}
    for name in ENGINES:
        short, long = (seconds_of(name, photos, args.seconds) for photos in (few, many))
        each = (long - short) / ((TIMES - 1) * args.images)
        image[name], around[name] = round(each, 4), round(short - args.images * each, 1)
        print(f"{name}: {each:.4f} s an image, {around[name]} s around", file=sys.stderr)
    loop, two, one, alone, beside = image.values()
    ratios = {"ray / loop": round(two / loop, 3), "1 actor / 2": round(one / two, 3)}
    ratios["GPU: beside / alone"] = round(beside / alone, 3)
    return {"images": args.images, "seconds": image, "around": around, **ratios}


def main(argv: list[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    args = parse_args(argv)
    if args.work:
        return work(*args.work, args.seconds, args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = args.data_root
        result = measure_with_models(real, folder) if real else measure(args, folder)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
