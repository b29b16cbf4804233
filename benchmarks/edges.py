"""Measure edge detectors against people's boundaries (BSDS500): ODS, OIS, AP, curve and speed.

    python benchmarks/edges.py --data BSDS500/test --workers 2 --out runs/edges

DIR holds ID.jpg and ID_edges.png, the mean of the people's boundary maps (255 = every person drew
the pixel). As the mean does not tell who drew a pixel, figures are estimates between a low and a
high one; benchmarks/edge_matching.py describes the protocol.

Detectors are annotators of this project (`hed-tiny`, `hed:FILE`) and `canny`: OpenCV's at rising
thresholds after a blur. Its figures by the protocol are published, so it shows how good the
estimate is. Seconds are the median of --repeats runs on one image of 768x512 with --threads
threads. The table goes to stderr, the last line on stdout is JSON; edges.json and edges.png go to
--out.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from statistics import median

import numpy as np

# So that `python benchmarks/edges.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.edge_matching import HIGH, LOW, counts, scores
from common.files import load_gray, load_image, write

MOST_ANNOTATORS = 15
PUBLISHED = {"canny": "ODS 0.60, OIS 0.63, AP 0.58 (Arbelaez et al., PAMI 2011)"}
TIMED_SIZE = (768, 512)  # width, height
CANNY_BLUR = 2.5  # sigma, pixels
CANNY_TOP = 250.0  # highest threshold, in gray levels by Sobel's sum, which is 8 times the slope
CANNY_LOW = 0.4  # of the high threshold, as in MATLAB's edge()
CANNY_LEVELS = 99
SLOPE_UNIT = 16  # of the 16-bit slopes, so that rounding does not count
LEAST = {"thresholds": 2, "limit": 1, "workers": 1, "threads": 1, "repeats": 0}  # of the flags


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    help_data = "folder of images ID.jpg with ID_edges.png"
    add("--data", type=Path, required=True, metavar="DIR", help=help_data)
    names = ["hed-tiny", "canny"]
    help_detectors = f"detectors to measure (default: {' '.join(names)})"
    add("--detectors", nargs="+", default=names, metavar="NAME", help=help_detectors)
    help_thresholds = "number of thresholds of a soft map (default: %(default)s)"
    add("--thresholds", type=int, default=33, help=help_thresholds)
    add("--limit", type=int, help="maximum number of images (default: all)")
    help_workers = "number of worker processes, each with one thread (default: %(default)s)"
    add("--workers", type=int, default=1, help=help_workers)
    add("--threads", type=int, help="number of torch's threads when timing (default: torch's own)")
    help_repeats = "number of timed runs (0: no timing) (default: %(default)s)"
    add("--repeats", type=int, default=9, help=help_repeats)
    add("--out", type=Path, metavar="DIR", help="folder of edges.json and edges.png")
    args = parser.parse_args(argv)
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name} {value}: must be at least {least}")
    return args


# ---- images


def pairs_in(folder: Path, limit: int | None = None) -> list[tuple[Path, Path]]:
    """Return the (image, boundaries) files of a split, sorted. Raises ValueError without any."""
    images = sorted(folder.glob("*.jpg"))[:limit]
    if not images:
        raise ValueError(f"{folder}: no *.jpg, give the folder of a split, such as BSDS500/test")
    pairs = [(image, image.with_name(f"{image.stem}_edges.png")) for image in images]
    missing = [edges.name for _, edges in pairs if not edges.exists()]
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} images have no boundaries, the first lacks {missing[0]}"
        )
    return pairs


def read_image(path: Path) -> np.ndarray:
    """Return an image file as uint8 (H, W, 3) RGB."""

    return load_image(path)


def read_boundaries(path: Path) -> tuple[np.ndarray, int]:
    """Return how many people drew each pixel, int (H, W), and how many people there are.

    Raises ValueError for an image that is not the mean of MOST_ANNOTATORS maps or fewer.
    """

    mean = load_gray(path)
    levels = np.unique(mean)
    for annotators in range(1, MOST_ANNOTATORS + 1):
        drawn = np.rint(levels * (annotators / 255))
        if np.abs(drawn * (255 / annotators) - levels).max() < 1:
            return np.rint(mean * (annotators / 255)).astype(int), annotators
    raise ValueError(
        f"{path}: {len(levels)} gray levels, not the mean of {MOST_ANNOTATORS} annotators or fewer"
    )


# ---- detectors: image uint8 (H, W, 3) -> thin soft map, float32 (H, W) in 0..1


@cache
def load_detector(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the detector of a name. Raises what `load_annotator` raises."""
    if name == "canny":
        return canny
    from annotator import load_annotator

    annotate = load_annotator(name)
    return lambda image: suppress(annotate(image).astype(np.float32) / 255)


def canny(image: np.ndarray, levels: int = CANNY_LEVELS) -> np.ndarray:
    """Return the highest threshold at which Canny's detector draws each pixel, 1 = CANNY_TOP.

    levels: number of thresholds.
    """
    import cv2

    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gray = cv2.GaussianBlur(gray, (0, 0), CANNY_BLUR)
    slopes = []
    for order in ((1, 0), (0, 1)):
        slope = cv2.Sobel(gray, cv2.CV_32F, *order) * SLOPE_UNIT
        slopes.append(np.rint(slope).astype(np.int16))
    soft = np.zeros(gray.shape, np.float32)
    for level in np.arange(1, levels + 1) / (levels + 1):
        high = level * CANNY_TOP * SLOPE_UNIT
        soft[cv2.Canny(*slopes, CANNY_LOW * high, high, L2gradient=True) > 0] = level
    return soft


def suppress(soft: np.ndarray, margin: int = 5, tolerance: float = 1.01) -> np.ndarray:
    """Return non-maximum suppression of a map (H, W) float32.

    A pixel is kept if it is no lower than both its neighbors across the line. As `edgesNms` of
    Dollar's toolbox with radius 1: the direction across comes from the second derivatives of the
    map smoothed by a triangle of radius 4, and neighbors are interpolated.

    margin: the outermost pixels, which fade to 0 linearly. tolerance: `tolerance` times a pixel
    must not be below its neighbors.
    """
    import cv2

    across = angles_across(soft)
    rows, columns = np.indices(soft.shape)
    kept = soft.copy()
    for step in (-1, 1):
        x = (columns + step * np.cos(across)).astype(np.float32)
        y = (rows + step * np.sin(across)).astype(np.float32)
        neighbor = cv2.remap(soft, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        kept[soft * tolerance < neighbor] = 0
    fades = []
    for length in soft.shape:
        to_border = np.minimum(np.arange(length), np.arange(length)[::-1])
        fades.append(np.minimum(1, to_border / margin))
    return kept * np.outer(*fades).astype(np.float32)


def angles_across(soft: np.ndarray) -> np.ndarray:
    """Return the direction across the line at each pixel of (H, W) float32, in radians."""
    import cv2

    triangle = np.float32([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    smooth = cv2.sepFilter2D(soft, -1, triangle, triangle, borderType=cv2.BORDER_REFLECT)
    dy, dx = np.gradient(smooth)
    dxy, dxx = np.gradient(dx)
    dyy = np.gradient(dy, axis=0)
    return np.arctan(dyy * np.where(dxy > 0, -1, 1) / (dxx + 1e-5))


# ---- measuring


def measure(name: str, thresholds: np.ndarray, pair: tuple[Path, Path]) -> np.ndarray:
    """Return the `counts` of a detector on a pair of files."""
    soft = load_detector(name)(read_image(pair[0]))
    drawn_by, annotators = read_boundaries(pair[1])
    if soft.shape != drawn_by.shape:
        raise ValueError(
            f"{pair[1]}: {drawn_by.shape} pixels high and wide, the image {soft.shape}"
        )
    return counts(soft, drawn_by, annotators, thresholds)


def start_worker() -> None:
    """Make a worker process use one thread."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def measure_all(
    names: list[str], pairs: list, thresholds: np.ndarray, workers: int
) -> dict[str, dict]:
    """Return {name: {"low": Scores, "high": Scores}}, as dictionaries, of every detector.

    With one worker, this process does the work.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from tqdm import tqdm

    pool = nullcontext()
    run = map
    if workers > 1:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), start_worker)
        run = pool.map
    results = {}
    with pool:
        for name in names:
            found = run(partial(measure, name, thresholds), pairs)
            pixels = np.stack(list(tqdm(found, total=len(pairs), desc=name, file=sys.stderr)))
            results[name] = {
                "low": asdict(scores(pixels, thresholds, LOW)),
                "high": asdict(scores(pixels, thresholds, HIGH)),
            }
    return results


def time_detector(name: str, image: Path, repeats: int, threads: int | None) -> dict:
    """Return the median seconds of an annotator on an image of TIMED_SIZE, and the threads used."""
    import torch
    from PIL import Image

    from annotator import load_annotator

    torch.set_num_threads(threads or torch.get_num_threads())
    annotate = load_annotator(name)
    resized = np.array(Image.fromarray(load_image(image)).resize(TIMED_SIZE))
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        annotate(resized)
        seconds.append(time.perf_counter() - started)
    return {"seconds": median(seconds[1:]), "threads": torch.get_num_threads()}


# ---- results


def table(results: dict[str, dict]) -> str:
    """Return lines of text, two for each detector."""
    lines = ["detector                ODS   (precision recall at threshold)    OIS    AP"]
    for name, row in results.items():
        for bound in ("low", "high"):
            own = row[bound]
            lines.append(
                f"{name[-16:]:16} {bound:4}   {own['ods']:.3f}   ({own['ods_precision']:.3f}     "
                f"{own['ods_recall']:.3f}  at {own['ods_threshold']:.3f})      {own['ois']:.3f} "
                f"{own['ap']:.3f}"
            )
    size = "x".join(map(str, TIMED_SIZE))
    for name in results:
        if name in PUBLISHED:
            lines.append(f"{name}, published: {PUBLISHED[name]}")
    for name, row in results.items():
        if "seconds" in row:
            time_spent = f"{row['seconds']:.3f} s an image of {size}"
            lines.append(f"{name}: {time_spent}, {row['threads']} threads")
    return "\n".join(lines)


def plot(results: dict[str, dict], path: Path) -> None:
    """Write a plot of precision against recall, between low and high, over lines of equal F.

    The best F is marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    plot_equal_f(axes)
    for number, (name, row) in enumerate(results.items()):
        low = row["low"]
        high = row["high"]
        color = f"C{number}"
        label = f"{name}: ODS {low['ods']:.3f} to {high['ods']:.3f}"
        style = {"color": color, "alpha": 0.3, "label": label}
        axes.fill_between(low["recall"], low["precision"], high["precision"], **style)
        for own in (low, high):
            axes.plot(own["recall"], own["precision"], color=color)
            axes.plot(own["ods_recall"], own["ods_precision"], "o", color=color)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", aspect="equal")
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def plot_equal_f(axes) -> None:
    """Draw the lines of equal F."""
    for f in np.arange(1, 10) / 10:
        least = f / (2 - f)  # the recall at precision 1, and the precision at recall 1
        recall = np.linspace(least, 1, 100)
        axes.plot(recall, f * recall / (2 * recall - f), color="0.85", linewidth=0.8, zorder=0)
        style = {"color": "0.5", "fontsize": 8, "ha": "right", "va": "bottom"}
        axes.annotate(f"F {f:.1f} ", (1, least), **style)


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write. Return 0 when done, 2 for wrong usage."""
    args = parse_args(argv)
    from common.weights import UnavailableError

    thresholds = np.arange(1, args.thresholds + 1) / (args.thresholds + 1)
    try:
        pairs = pairs_in(args.data, args.limit)
        for name in args.detectors:
            load_detector(name)
        results = measure_all(args.detectors, pairs, thresholds, args.workers)
    except (OSError, ValueError, UnavailableError) as error:
        print(f"edges.py: error: {error}", file=sys.stderr)
        return 2

    if args.repeats:
        for name, row in results.items():
            row |= time_detector(name, pairs[0][0], args.repeats, args.threads)
    print(table(results), file=sys.stderr)
    summary = {"pictures": len(pairs), "thresholds": len(thresholds), "detectors": results}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write(args.out / "edges.json", json.dumps(summary, indent=1).encode())
        plot(results, args.out / "edges.png")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
