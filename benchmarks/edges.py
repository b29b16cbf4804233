"""Edge detectors against people's boundaries (BSDS500): ODS, OIS, AP, the curve, and seconds a picture.

    python benchmarks/edges.py --data BSDS500/test --workers 2 --out runs/edges

DIR holds ID.jpg and ID_edges.png, the mean of the annotators' boundary maps (255 = every annotator drew the pixel).
The protocol is the usual one (Martin, Fowlkes and Malik, PAMI 2004; Arbelaez et al., PAMI 2011; Dollar and Zitnick,
PAMI 2015, https://github.com/pdollar/edges): soft maps are thinned by non-maximum suppression, cut at --thresholds
levels, thinned again, and matched with the people's pixels within 0.0075 of the diagonal. Precision is the share of
drawn pixels that are matched, recall the share of people's pixels, both over all pictures. ODS is the best F of one
threshold for all pictures, OIS that of the best threshold of each picture, AP the area under the curve.

Where this departs from that protocol:

- There, a map is matched with each annotator's in turn. The mean does not tell who drew a pixel, only how many did.
  Precision: a drawn pixel counts where a one-to-one matching with the pixels that anyone drew can have it. Recall:
  a pixel that k of n people drew counts k times, and a drawn pixel serves n times, once for each of them. Every
  set of matchings with the single annotators is such an assignment, so this recall is never below the protocol's;
  it is above where a drawn pixel serves one annotator twice, as on either side of a gap in a line. The detector
  `canny`, whose figures by the protocol are published (ODS 0.60, OIS 0.63, AP 0.58), shows by how much.
- Both matchings are of the largest size (Hopcroft-Karp; Dinic's flow). The protocol's assignment of least cost
  (Goldberg's CSA) charges 100 times the tolerance for a pixel left alone: it matches as many, and only chooses nearer
  partners. Numbers, not partners, are counted.

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
PUBLISHED = {"canny": "ODS 0.60, OIS 0.63, AP 0.58 (Arbelaez et al., PAMI 2011)"}
TIMED_SIZE = (768, 512)  # width, height
CANNY_BLUR = 2.5  # sigma, pixels, the best of 1 to 3 on 25 pictures of the val split
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
        int (thresholds, 4): people's pixels matched, people's pixels, drawn pixels matched, drawn pixels.
    """
    from scipy.spatial import cKDTree
    from skimage.morphology import thin

    people = np.argwhere(drawn_by)
    tree, weights = cKDTree(people), drawn_by[drawn_by > 0]
    result = np.zeros((len(thresholds), 4), int)
    for row, threshold in zip(result, thresholds, strict=True):
        drawn = np.argwhere(thin(soft >= threshold))
        row[1], row[3] = weights.sum(), len(drawn)
        if len(drawn) and len(people):
            reach = TOLERANCE * np.hypot(*soft.shape)
            near = cKDTree(drawn).sparse_distance_matrix(tree, reach, output_type="coo_matrix")
            row[0], row[2] = served(near.row, near.col, annotators, weights), pairs_of(near.row, near.col)
    return result


def pairs_of(left: np.ndarray, right: np.ndarray) -> int:
    """Size of the largest one-to-one matching over the edges (left[i], right[i])."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not len(left):
        return 0
    graph = csr_array((np.ones(len(left), bool), (left, right)))
    return int((maximum_bipartite_matching(graph) >= 0).sum())


def served(left: np.ndarray, right: np.ndarray, supply: int, demands: np.ndarray) -> int:
    """Most of `demands` (one a right node) that left nodes of `supply` each can meet over the edges."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    if not len(left):
        return 0
    lefts, rights = int(left.max()) + 1, len(demands)
    source, sink = lefts + rights, lefts + rights + 1
    tails = np.concatenate([np.full(lefts, source), left, lefts + np.arange(rights)])
    heads = np.concatenate([np.arange(lefts), lefts + right, np.full(rights, sink)])
    capacities = np.concatenate([np.full(lefts, supply), np.full(len(left), supply), demands]).astype(np.int32)
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


def rates(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of `counts`' rows, (..., 4) -> two of (...)."""
    pixels = np.asarray(pixels, float)
    return tuple(pixels[..., i] / np.maximum(pixels[..., i + 1], 1) for i in (2, 0))


def scores(pixels: np.ndarray, thresholds: np.ndarray) -> Scores:
    """Figures from the `counts` of all pictures, (pictures, thresholds, 4), as `edgesEvalDir` has them.

    ODS is searched between neighbouring thresholds too, precision and recall taken as linear there.
    """
    precision, recall = rates(pixels.sum(0))
    between = np.linspace(0, 1, 100)[:, None]
    p, r, t = (
        (values[:-1] * (1 - between) + values[1:] * between).ravel() for values in (precision, recall, thresholds)
    )
    best = f_measure(p, r).argmax()
    own = f_measure(*rates(pixels)).argmax(1)  # each picture's best threshold
    ois = f_measure(*rates(pixels[np.arange(len(pixels)), own].sum(0)))
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
            results[name] = asdict(scores(np.stack(pixels), thresholds))
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
    """Lines of text, a detector each."""
    lines = ["detector          ODS  (precision recall at threshold)   OIS    AP   seconds (threads)"]
    for name, row in results.items():
        timing = f"{row['seconds']:.3f} ({row['threads']})" if "seconds" in row else "not measured"
        lines.append(
            f"{name[-16:]:16} {row['ods']:.3f}  ({row['ods_precision']:.3f}     {row['ods_recall']:.3f}  at "
            f"{row['ods_threshold']:.3f})     {row['ois']:.3f} {row['ap']:.3f}   {timing}"
        )
    return "\n".join(lines + [f"published for {name}: {PUBLISHED[name]}" for name in results if name in PUBLISHED])


def draw(results: dict[str, dict], path: Path) -> None:
    """Write a plot: precision against recall, the best threshold marked, on lines of equal F."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    recall = np.linspace(0.01, 1, 200)
    for f in np.arange(1, 10) / 10:
        line = np.where(2 * recall > f, f * recall / np.maximum(2 * recall - f, 1e-9), np.nan)
        axes.plot(recall, np.where(line <= 1, line, np.nan), color="0.85", linewidth=0.8, zorder=0)
        axes.annotate(f"F {f:.1f}", (1, f / (2 - f)), color="0.5", fontsize=8, ha="right", va="bottom")
    for name, row in results.items():
        label = f"{name}: ODS {row['ods']:.3f}, OIS {row['ois']:.3f}, AP {row['ap']:.3f}"
        (curve,) = axes.plot(row["recall"], row["precision"], linewidth=2, label=label)
        axes.plot(row["ods_recall"], row["ods_precision"], "o", color=curve.get_color())
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", aspect="equal")
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; 0 when done, 2 for wrong usage."""
    args = parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    try:
        pairs = pairs_in(args.data, args.limit)
        for name in args.detectors:
            load_detector(name)
    except (OSError, ValueError) as error:
        print(f"edges.py: error: {error}", file=sys.stderr)
        return 2

    thresholds = np.arange(1, args.thresholds + 1) / (args.thresholds + 1)
    results = measure_all(args.detectors, pairs, thresholds, args.workers)
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
