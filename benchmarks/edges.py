"""Edge detectors against people's boundaries (BSDS500): ODS, OIS, AP, the curve, and seconds a picture.

    python benchmarks/edges.py --data BSDS500/test --workers 2 --out runs/edges

DIR holds ID.jpg and ID_edges.png, the mean of the annotators' boundary maps (255 = every annotator drew the pixel).
The protocol is the usual one (Martin, Fowlkes and Malik, PAMI 2004; Arbelaez et al., PAMI 2011; Dollar and Zitnick,
PAMI 2015, https://github.com/pdollar/edges): soft maps are thinned by non-maximum suppression, cut at --thresholds
levels, thinned again, and matched with the people's pixels within 0.0075 of the diagonal. Precision is the share of
drawn pixels that are matched, recall the share of people's pixels, both over all pictures. ODS is the best F of one
threshold for all pictures, OIS that of the best threshold of each picture, AP the area under the curve.

There, a map is matched one-to-one with each annotator's map in turn. The mean does not tell who drew a pixel, only
how many did, so this is an estimate of those figures, between a low and a high one:

- Recall: a pixel that k people drew counts k times. A drawn pixel serves as many people as have a line within its
  reach: their pixels there, divided by the mean chord of that disc (an upper bound would be all of them).
- Precision, in the protocol the share of drawn pixels that are matched with anyone's. `high`: matched one-to-one with
  the pixels that anyone drew. The annotators' lines of a contour lie side by side, so that two drawn lines along it may
  both count. `low`: matched one-to-one with the lines merged into one a contour, so that they may not.
- Matchings here are the largest (a maximum flow). The protocol's assignment of least cost (Goldberg's CSA) charges 100
  times the tolerance for a pixel left alone: it matches as many, and chooses nearer partners. Only numbers count.

The detector `canny`, whose figures by the protocol are published, shows whether the estimate holds: on the 200 test
pictures its ODS was 0.572 to 0.628, OIS 0.608 to 0.664, AP 0.552 to 0.621, the published ones in the middle.

Detectors are annotators of this project (`hed-tiny`, `hed:FILE`) and `canny`: OpenCV's at rising thresholds after a
blur. Seconds are the median of --repeats drawings of one picture of 768x512 on --threads threads. The table goes to
stderr, the last stdout line is JSON; `--out` gets edges.json and edges.png.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median

import numpy as np

TOLERANCE = 0.0075  # of the diagonal
MOST_ANNOTATORS = 15
MERGE = 5  # side of the square that closes the gap between the annotators' lines of one contour, pixels
LOW, HIGH = 2, 3  # columns of `counts`: the two readings of precision
PUBLISHED = {"canny": "ODS 0.60, OIS 0.63, AP 0.58 (Arbelaez et al., PAMI 2011)"}
TIMED_SIZE = (768, 512)  # width, height
CANNY_BLUR = 2.5  # sigma, pixels, chosen among 1 to 3 on 25 pictures of the val split
CANNY_TOP = 250.0  # highest threshold, in gray levels by Sobel's sum, which is 8 times the slope
CANNY_LOW = 0.4  # of the high threshold, as in MATLAB's edge()


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="photographs ID.jpg with ID_edges.png")
    add("--detectors", nargs="+", default=["hed-tiny", "canny"], metavar="NAME", help="(default: hed-tiny canny)")
    add("--thresholds", type=int, default=33, help="levels a soft map is cut at (default: %(default)s)")
    add("--limit", type=int, help="use the first so many pictures")
    add("--workers", type=int, default=1, help="processes of one thread that measure (default: %(default)s)")
    add("--threads", type=int, help="torch's threads while timing (default: torch's own)")
    add("--repeats", type=int, default=9, help="of the timing; 0: none (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="gets edges.json and edges.png")
    args = parser.parse_args(argv)
    for name, least in {"thresholds": 2, "limit": 1, "workers": 1, "threads": 1, "repeats": 0}.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    return args


# ---- pictures


def pairs_in(folder: Path, limit: int | None = None) -> list[tuple[Path, Path]]:
    """(photograph, boundaries) files of a split, sorted; ValueError where there are none."""
    photos = sorted(folder.glob("*.jpg"))[:limit]
    if not photos:
        raise ValueError(f"{folder}: no *.jpg, give the folder of a split, such as BSDS500/test")
    pairs = [(photo, photo.with_name(f"{photo.stem}_edges.png")) for photo in photos]
    if missing := [edges.name for _, edges in pairs if not edges.exists()]:
        raise ValueError(f"{folder}: {len(missing)} photographs have no boundaries, the first lacks {missing[0]}")
    return pairs


def read_photo(path: Path) -> np.ndarray:
    """Photograph, uint8 (H, W, 3) RGB."""
    from PIL import Image

    return np.array(Image.open(path).convert("RGB"))


def read_boundaries(path: Path) -> tuple[np.ndarray, int]:
    """How many annotators drew each pixel, int (H, W), and how many there are; ValueError for other pictures."""
    from PIL import Image

    mean = np.array(Image.open(path).convert("L"))
    levels = np.unique(mean)
    for annotators in range(1, MOST_ANNOTATORS + 1):
        drawn = np.rint(levels * (annotators / 255))
        if np.abs(drawn * (255 / annotators) - levels).max() < 1:
            return np.rint(mean * (annotators / 255)).astype(int), annotators
    raise ValueError(f"{path}: {len(levels)} gray levels, not the mean of {MOST_ANNOTATORS} annotators or fewer")


# ---- detectors: photograph uint8 (H, W, 3) -> thin soft map, float32 (H, W) in 0..1


@cache
def load_detector(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Detector of a name. Raises what `load_annotator` raises."""
    if name == "canny":
        return canny
    from annotator import load_annotator

    annotate = load_annotator(name)
    return lambda photo: suppress(annotate(photo).astype(np.float32) / 255)


def canny(photo: np.ndarray, levels: int = 99) -> np.ndarray:
    """For each pixel, the highest threshold of `levels` at which Canny's detector still draws it, 1 = CANNY_TOP."""
    import cv2

    gray = cv2.GaussianBlur(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), CANNY_BLUR)
    unit = 16  # of the 16-bit slopes, so that rounding does not count
    slopes = [np.rint(cv2.Sobel(gray, cv2.CV_32F, *order) * unit).astype(np.int16) for order in ((1, 0), (0, 1))]
    soft = np.zeros(gray.shape, np.float32)
    for level in np.arange(1, levels + 1) / (levels + 1):
        high = level * CANNY_TOP * unit
        soft[cv2.Canny(*slopes, CANNY_LOW * high, high, L2gradient=True) > 0] = level
    return soft


def suppress(soft: np.ndarray, margin: int = 5, tolerance: float = 1.01) -> np.ndarray:
    """Non-maximum suppression: keep a pixel of (H, W) float32 no lower than both its neighbours across the line.

    As `edgesNms` of Dollar's toolbox with radius 1: the direction across comes from the second derivatives of the map
    smoothed by a triangle of radius 4, neighbours are interpolated, `tolerance` times a pixel's strength must not be
    below theirs, and the outermost `margin` pixels fade to 0 linearly.
    """
    import cv2

    triangle = np.float32([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    smooth = cv2.sepFilter2D(soft, -1, triangle, triangle, borderType=cv2.BORDER_REFLECT)
    dy, dx = np.gradient(smooth)
    (dxy, dxx), dyy = np.gradient(dx), np.gradient(dy, axis=0)
    across = np.arctan(dyy * np.where(dxy > 0, -1, 1) / (dxx + 1e-5))
    rows, columns = np.indices(soft.shape)
    kept = soft.copy()
    for step in (-1, 1):
        where = (columns + step * np.cos(across)).astype(np.float32), (rows + step * np.sin(across)).astype(np.float32)
        neighbour = cv2.remap(soft, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        kept[soft * tolerance < neighbour] = 0
    fades = [np.minimum(1, np.minimum(np.arange(n), np.arange(n)[::-1]) / margin) for n in soft.shape]
    return kept * np.outer(*fades).astype(np.float32)


# ---- matching


def counts(soft: np.ndarray, drawn_by: np.ndarray, annotators: int, thresholds: np.ndarray) -> np.ndarray:
    """Matched and all pixels of a picture at each threshold.

    soft: thin map, float (H, W) in 0..1; drawn_by: how many of the `annotators` drew each pixel, int (H, W).

    Returns:
        int (thresholds, 5): people's pixels matched, people's pixels, drawn pixels matched with the merged lines
        and with everyone's (LOW, HIGH), drawn pixels.
    """
    from scipy.spatial import cKDTree
    from skimage.morphology import thin

    reach = TOLERANCE * np.hypot(*soft.shape)
    weights = drawn_by[drawn_by > 0]
    every, merged = (cKDTree(np.argwhere(lines)) for lines in (drawn_by, merged_lines(drawn_by)))
    result = np.zeros((len(thresholds), 5), int)
    for row, threshold in zip(result, thresholds, strict=True):
        drawn = cKDTree(np.argwhere(thin(soft >= threshold)))
        row[1], row[4] = weights.sum(), drawn.n
        if not drawn.n or not every.n:
            continue
        near = drawn.sparse_distance_matrix(every, reach, output_type="coo_matrix")
        people = np.bincount(near.row, weights[near.col], drawn.n) / (np.pi / 2 * reach)  # a disc's mean chord
        row[0] = served(near, np.ceil(people).clip(1, annotators), weights)
        row[HIGH] = served(near, np.ones(drawn.n), np.ones(every.n))
        near = drawn.sparse_distance_matrix(merged, reach, output_type="coo_matrix")
        row[LOW] = served(near, np.ones(drawn.n), np.ones(merged.n))
    return result


def merged_lines(drawn_by: np.ndarray) -> np.ndarray:
    """Everyone's lines as one: those at most MERGE - 1 pixels apart become the line between them; bool (H, W)."""
    import cv2
    from skimage.morphology import thin

    return thin(cv2.morphologyEx((drawn_by > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((MERGE, MERGE))) > 0)


def served(near, supplies: np.ndarray, demands: np.ndarray) -> int:
    """Most of the columns' demands that the rows' supplies can meet where the sparse matrix `near` has an entry."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    rows, columns = near.shape
    source, sink = rows + columns, rows + columns + 1
    tails = np.concatenate([np.full(rows, source), near.row, rows + np.arange(columns)])
    heads = np.concatenate([np.arange(rows), rows + near.col, np.full(columns, sink)])
    capacities = np.concatenate([supplies, supplies[near.row], demands]).astype(np.int32)
    graph = csr_array((capacities, (tails, heads)), shape=(sink + 1, sink + 1))
    return int(maximum_flow(graph, source, sink).flow_value)


# ---- figures


@dataclass(frozen=True)
class Scores:
    """Figures of a detector, 0..1; precision and recall are lists, an entry a threshold."""

    ods: float
    ods_precision: float
    ods_recall: float
    ods_threshold: float
    ois: float
    ap: float
    precision: list[float]
    recall: list[float]


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean, 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def rates(pixels: np.ndarray, matched: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of `counts`' rows, (..., 5) -> two of (...); `matched` is LOW or HIGH."""
    people, drawn = np.maximum(pixels[..., 1], 1), np.maximum(pixels[..., 4], 1)
    return pixels[..., matched] / drawn, pixels[..., 0] / people


def scores(pixels: np.ndarray, thresholds: np.ndarray, matched: int) -> Scores:
    """Figures from the `counts` of all pictures, (pictures, thresholds, 5), as `edgesEvalDir` has them.

    ODS is searched between neighbouring thresholds too, precision and recall taken as linear there.
    """
    precision, recall = rates(pixels.sum(0), matched)
    between = np.linspace(0, 1, 100)[:, None]
    p, r, t = (
        (values[:-1] * (1 - between) + values[1:] * between).ravel() for values in (precision, recall, thresholds)
    )
    best = f_measure(p, r).argmax()
    own = f_measure(*rates(pixels, matched)).argmax(1)  # each picture's best threshold
    ois = f_measure(*rates(pixels[np.arange(len(pixels)), own].sum(0), matched))
    order = np.argsort(recall, kind="stable")
    heights = np.interp(np.linspace(0, 1, 101), recall[order], precision[order], left=0, right=0)
    figures = f_measure(p, r)[best], p[best], r[best], t[best], ois, heights.sum() / 100
    return Scores(*map(float, figures), precision.tolist(), recall.tolist())


def measure(name: str, thresholds: np.ndarray, pair: tuple[Path, Path]) -> np.ndarray:
    """`counts` of a detector on a pair of files."""
    soft = load_detector(name)(read_photo(pair[0]))
    drawn_by, annotators = read_boundaries(pair[1])
    if soft.shape != drawn_by.shape:
        raise ValueError(f"{pair[1]}: {drawn_by.shape} pixels high and wide, the photograph {soft.shape}")
    return counts(soft, drawn_by, annotators, thresholds)


def start_worker() -> None:
    """Let a process find our modules and use one thread."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def measure_all(names: list[str], pairs: list, thresholds: np.ndarray, workers: int) -> dict[str, dict]:
    """`Scores` of every detector on all pairs, as dictionaries; one worker is this process."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from tqdm import tqdm

    results = {}
    pool = ProcessPoolExecutor(workers, get_context("spawn"), start_worker) if workers > 1 else nullcontext()
    with pool:
        for name in names:
            pixels = (pool.map if workers > 1 else map)(partial(measure, name, thresholds), pairs)
            pixels = list(tqdm(pixels, total=len(pairs), desc=name, file=sys.stderr))
            both = {"low": LOW, "high": HIGH}.items()
            results[name] = {bound: asdict(scores(np.stack(pixels), thresholds, column)) for bound, column in both}
    return results


def seconds(name: str, photo: Path, repeats: int, threads: int | None) -> dict:
    """Median seconds in which an annotator draws a photograph at TIMED_SIZE, after a warm-up."""
    import torch
    from PIL import Image

    from annotator import load_annotator

    torch.set_num_threads(threads or torch.get_num_threads())
    annotate = load_annotator(name)
    picture = np.array(Image.open(photo).convert("RGB").resize(TIMED_SIZE))
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        annotate(picture)
        taken.append(time.perf_counter() - started)
    return {"seconds": median(taken[1:]), "threads": torch.get_num_threads()}


# ---- results


def table(results: dict[str, dict]) -> str:
    """Lines of text, two a detector."""
    lines = ["detector                ODS   (precision recall at threshold)    OIS    AP"]
    for name, row in results.items():
        for bound in ("low", "high"):
            figures = row[bound]
            lines.append(
                f"{name[-16:]:16} {bound:4}   {figures['ods']:.3f}   ({figures['ods_precision']:.3f}     "
                f"{figures['ods_recall']:.3f}  at {figures['ods_threshold']:.3f})      {figures['ois']:.3f} "
                f"{figures['ap']:.3f}"
            )
    lines += [f"{name}, published: {PUBLISHED[name]}" for name in results if name in PUBLISHED]
    size = "x".join(map(str, TIMED_SIZE))
    return "\n".join(
        lines
        + [
            f"{name}: {row['seconds']:.3f} s a picture of {size}, {row['threads']} threads"
            for name, row in results.items()
            if "seconds" in row
        ]
    )


def draw(results: dict[str, dict], path: Path) -> None:
    """Write a plot: precision against recall between low and high, the best F marked, over lines of equal F."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for f in np.arange(1, 10) / 10:
        recall = np.linspace(f / (2 - f), 1, 100)
        axes.plot(recall, f * recall / (2 * recall - f), color="0.85", linewidth=0.8, zorder=0)
        axes.annotate(f"F {f:.1f} ", (1, f / (2 - f)), color="0.5", fontsize=8, ha="right", va="bottom")
    for number, (name, row) in enumerate(results.items()):
        low, high, color = row["low"], row["high"], f"C{number}"
        label = f"{name}: ODS {low['ods']:.3f} to {high['ods']:.3f}"
        axes.fill_between(low["recall"], low["precision"], high["precision"], color=color, alpha=0.3, label=label)
        for figures in (low, high):
            axes.plot(figures["recall"], figures["precision"], color=color)
            axes.plot(figures["ods_recall"], figures["ods_precision"], "o", color=color)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", aspect="equal")
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; 0 when done, 2 for wrong usage."""
    args = parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from presets import PresetError

    thresholds = np.arange(1, args.thresholds + 1) / (args.thresholds + 1)
    try:
        pairs = pairs_in(args.data, args.limit)
        for name in args.detectors:
            load_detector(name)
        results = measure_all(args.detectors, pairs, thresholds, args.workers)
    except (OSError, ValueError, PresetError) as error:
        print(f"edges.py: error: {error}", file=sys.stderr)
        return 2

    if args.repeats:
        for name, row in results.items():
            row |= seconds(name, pairs[0][0], args.repeats, args.threads)
    print(table(results), file=sys.stderr)
    summary = {"pictures": len(pairs), "thresholds": len(thresholds), "detectors": results}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "edges.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        draw(results, args.out / "edges.png")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
