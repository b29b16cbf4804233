"""Compare sketch codecs on the same sketches: bytes, MS-SSIM, edge F1, seconds, BD-rates, a plot.

    python benchmarks/sketch_codec.py --data_root KODAK --out runs/sketch_codec
    python benchmarks/sketch_codec.py --quick

Compared are our codec at several lambdas; the paper's network (Cheng2020Attention, one channel)
with trained weights from `--paper FILE`; and image formats (benchmarks/formats.py). The speed of
the paper's network is measured in CompressAI's own compress and decompress and in our wavefront
order, with random weights if there are no trained ones. Rates are the lengths of complete files.
How curves are compared: benchmarks/rate_curves.py.

The table goes to stderr, the last line on stdout is JSON. `--out` gets sketch_codec.json (all
rows), sketch_codec.png and, in rows/, the results so far: a run that was stopped is resumed.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

# So that `python benchmarks/sketch_codec.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.codec_speed import speed
from benchmarks.formats import Setting, classical_settings, missing_programs
from benchmarks.rate_curves import OURS, PAPER, frontier, means_of, points_of, summary_of_rates
from benchmarks.rows import distinct
from common.files import ROOT, load_gray, read_json, write

OURS_POINTS = 6  # lambdas compared, unless --lambdas names others
MULTIPLE = 64  # of a sketch's sides, pixels
SMALLEST_SIDE = 192  # pixels; MS-SSIM needs 161
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2)  # bits per pixel, of the plot
QUICK = {"short_side": 256, "limit": 2, "timing_sketches": 1, "repeats": 1}
LEAST = {"limit": 1, "threads": 1, "timing_sketches": 1, "repeats": 0, "workers": 1}  # of the flags


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(QUICK)
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name} {value}: must be at least {least}")
    return args


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags."""
    source = parser.add_mutually_exclusive_group()
    help_root = "images to draw sketches of (default: sample images)"
    source.add_argument("--data_root", metavar="DIR", help=help_root)
    help_sketches = "folder of gray sketches, which are cut to multiples of 64 pixels"
    source.add_argument("--sketches", metavar="DIR", help=help_sketches)
    add = parser.add_argument
    help_annotator = "annotator that draws the sketches (default: %(default)s)"
    add("--annotator", default="hed-tiny", help=help_annotator)
    help_side = "short side of the images in pixels (default: %(default)s)"
    add("--short_side", type=int, default=512, help=help_side)
    add("--limit", type=int, help="maximum number of images (default: all)")
    help_lambdas = "lambdas or codec files of ours (default: six over the bundled codec's range)"
    add("--lambdas", nargs="+", type=number_or_file, metavar="LAMBDA|FILE", help=help_lambdas)
    help_paper = "trained Cheng2020Attention codecs (.safetensors, .pt)"
    add("--paper", nargs="+", default=[], metavar="FILE", help=help_paper)
    help_threads = "number of torch's threads when speeds are compared (default: torch's own)"
    add("--threads", type=int, help=help_threads)
    help_timing = "number of sketches when speeds are compared (default: %(default)s)"
    add("--timing_sketches", type=int, default=2, help=help_timing)
    help_repeats = "number of times that speeds are measured (0: never) (default: %(default)s)"
    add("--repeats", type=int, default=3, help=help_repeats)
    help_workers = "number of worker processes, each with one thread, that measure quality"
    add("--workers", type=int, default=1, help=f"{help_workers} (default: %(default)s)")
    help_out = "folder of sketch_codec.json and sketch_codec.png"
    add("--out", type=Path, metavar="DIR", help=help_out)
    values = ", ".join(f"{name} {value}" for name, value in QUICK.items())
    add("--quick", action="store_true", help=f"a run of one minute: {values}")


def number_or_file(text: str) -> float | str:
    """Parse a value of --lambdas: a number, else the name of a file."""
    try:
        return float(text)
    except ValueError:
        return text


def default_lambdas() -> list[float]:
    """Return OURS_POINTS lambdas, geometric, over the range of the bundled codec."""
    from models_ntc import lambda_range

    return [float(f"{lam:.3g}") for lam in np.geomspace(*lambda_range(), OURS_POINTS)]


# ---- sketches


def load_sketches(args: argparse.Namespace) -> list[tuple[str, np.ndarray]]:
    """Return the (name, sketch) pairs that the flags ask for.

    Raises ValueError for a folder or image that cannot be used.
    """
    from dataloaders import list_images, load_samples

    if args.sketches:
        named = list_images(args.sketches)[: args.limit]
        return [(name, read_sketch(path)) for name, path in named]
    from annotator import load_annotator

    samples = load_samples(args.data_root, None, args.short_side)[: args.limit]
    annotate = load_annotator(args.annotator)
    return [(sample.name, annotate(sample.image)) for sample in samples]


def read_sketch(path: str) -> np.ndarray:
    """Return an image file as a sketch, uint8 (H, W), cut to multiples of 64 pixels.

    Raises ValueError if it is too small.
    """

    sketch = load_gray(path)
    height = sketch.shape[0] // MULTIPLE * MULTIPLE
    width = sketch.shape[1] // MULTIPLE * MULTIPLE
    if min(height, width) < SMALLEST_SIDE:
        size = f"{sketch.shape[1]}x{sketch.shape[0]}"
        raise ValueError(f"{path}: {size} pixels, sketches need sides of {SMALLEST_SIDE} or more")
    return sketch[:height, :width]


# ---- quality: all settings on all sketches


@cache
def all_settings(lambdas: tuple[float | str, ...], papers: tuple[str, ...]) -> list[Setting]:
    """Return the settings of ours, of the paper's network and of the image formats.

    They are loaded once in each process. papers: files of the paper's trained networks.
    """
    from models_ntc import load_sketch_codec

    settings = []
    for family, sources in ((OURS, lambdas), (PAPER, papers)):
        for source in sources:
            codec = load_sketch_codec(source)
            label = f"lambda {source}" if isinstance(source, float) else str(source)
            settings.append(Setting(family, label, codec.encode, codec.decode))
    return settings + classical_settings()


def start_worker() -> None:
    """Make a worker process use one thread."""
    import torch

    torch.set_num_threads(1)


def measure(
    lambdas: tuple[float | str, ...], papers: tuple[str, ...], named: tuple[str, np.ndarray]
) -> list[dict]:
    """Return the rows of one sketch, one for each setting; seconds are of one run on one thread.

    named: (name, sketch).
    """
    from metrics import edge_f1, ms_ssim

    name, sketch = named
    rows = []
    quality = {}  # the bi-level families decode to the same sketch
    for setting in all_settings(lambdas, papers):
        started = time.perf_counter()
        data = setting.encode(sketch)
        encoded = time.perf_counter()
        decoded = setting.decode(data)
        finished = time.perf_counter()
        key = decoded.tobytes()
        if key not in quality:
            quality[key] = ms_ssim(decoded, sketch), edge_f1(decoded, sketch)
        similarity, edges = quality[key]
        rows.append(
            {
                "sketch": name,
                "family": setting.family,
                "setting": setting.label,
                "bytes": len(data),
                "bpp": 8 * len(data) / sketch.size,
                "ms_ssim": similarity,
                "edge_f1": edges.f1,
                "edge_precision": edges.precision,
                "edge_recall": edges.recall,
                "encode_seconds": encoded - started,
                "decode_seconds": finished - encoded,
            }
        )
    return rows


def identity(lambdas: Sequence[float | str], papers: Sequence[str]) -> bytes:
    """Return a hash of the code and weights that rows depend on.

    Raises ValueError for a codec that does not exist.
    """
    from models_ntc import FOLDER, load_sketch_codec

    digest = hashlib.sha256(repr((lambdas, papers, missing_programs())).encode())
    files = [*FOLDER.glob("*.py"), *(ROOT / "metrics").glob("*.py")]
    files += [ROOT / "benchmarks" / "formats.py", Path(__file__)]
    for file in sorted(files):
        digest.update(file.read_bytes())
    for source in [*lambdas, *papers]:
        digest.update(load_sketch_codec(source).digest)
    return digest.digest()


def measure_all(
    sketches: list, lambdas: Sequence[float | str], papers: Sequence[str], args
) -> list[dict]:
    """Return the rows of all sketches and settings, measured by --workers processes.

    Rows that --out holds are not measured again.
    """
    known = identity(lambdas, papers)
    with tempfile.TemporaryDirectory() as folder:
        kept = args.out / "rows" if args.out else Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        files, missing = [], []
        for name, sketch in sketches:
            digest = hashlib.sha256(known + sketch.tobytes()).hexdigest()
            file = kept / f"{digest[:16]}.json"
            files.append(file)
            if not file.exists():
                missing.append(((name, sketch), file))
        write_rows(missing, partial(measure, tuple(lambdas), tuple(papers)), args.workers)
        rows = []
        for file in files:
            rows += read_json(file)
        return rows


def write_rows(missing: list, measure_one, workers: int) -> None:
    """Measure sketches in worker processes and write the rows of each into its file.

    missing: ((name, sketch), file) pairs.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from tqdm import tqdm

    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker) as pool:
        results = pool.map(measure_one, [named for named, _ in missing])
        bar = tqdm(results, total=len(missing), desc="sketches", file=sys.stderr)
        for (_, file), rows in zip(missing, bar, strict=True):
            write(file, json.dumps(rows).encode())


# ---- results


def table(means: list[dict]) -> str:
    """Return lines of text, one for each setting; those on their family's curve have a mark."""
    lines = [
        "  family         setting            bytes     bpp  MS-SSIM   F1  "
        "precision recall  enc s  dec s"
    ]
    curves = {}
    for family in distinct(means, "family"):
        curves[family] = frontier(points_of(means, [family]))
    for row in means:
        mark = "*" if (row["bpp"], row["ms_ssim"]) in curves[row["family"]] else " "
        lines.append(
            f"{mark} {row['family']:14} {row['setting'][-16:]:16} {row['bytes']:7.0f}  "
            f"{row['bpp']:.4f}   {row['ms_ssim']:.4f} {row['edge_f1']:.3f}  "
            f"{row['edge_precision']:.3f}  {row['edge_recall']:.3f}  "
            f"{row['encode_seconds']:6.2f} {row['decode_seconds']:6.2f}"
        )
    return "\n".join(lines)


def plot(means: list[dict], path: Path) -> None:
    """Write a plot of MS-SSIM and edge F1 against bits per pixel: points and families' curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    measures = (("ms_ssim", "MS-SSIM"), ("edge_f1", "edge F1, 2 pixels"))
    for axes, (name, title) in zip(figure.subplots(1, 2), measures, strict=True):
        for family in distinct(means, "family"):
            plot_family(axes, family, points_of(means, [family], name))
        axes.set(xscale="log", xlabel="bits per pixel (whole files)", ylabel=title)
        axes.set_xticks(TICKS, list(map(str, TICKS)))
        axes.minorticks_off()
        axes.grid(alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=110)


def plot_family(axes, family: str, points: list[tuple[float, float]]) -> None:
    """Draw the points of a family, and its curve."""
    style = {"linewidth": 1.2}
    if family == OURS:
        style = {"color": "black", "linewidth": 2.5, "zorder": 3}
    curve = zip(*frontier(points), strict=True)
    line = axes.plot(*curve, marker="o", markersize=4, label=family, **style)
    axes.scatter(*zip(*points, strict=True), s=8, color=line[0].get_color(), alpha=0.4)


def write_results(folder: Path, summary: dict, means: list[dict], rows: list[dict]) -> None:
    """Write sketch_codec.json and sketch_codec.png."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"summary": summary, "settings": means, "rows": rows}
    write(folder / "sketch_codec.json", json.dumps(contents, indent=1).encode())
    plot(means, folder / "sketch_codec.png")


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write. Return 0 when done, 2 for wrong usage."""
    args = parse_args(argv)
    lambdas = args.lambdas or default_lambdas()
    try:
        identity(lambdas, args.paper)  # wrong names end here
        sketches = load_sketches(args)
    except (OSError, ValueError) as error:
        print(f"sketch_codec.py: error: {error}", file=sys.stderr)
        return 2
    jbig2 = "measured"
    if missing_programs():
        jbig2 = f"not available: no program {', '.join(missing_programs())}"
        print(f"JBIG2: {jbig2}", file=sys.stderr)

    rows = measure_all(sketches, lambdas, args.paper, args)
    means = means_of(rows)
    print(table(means), file=sys.stderr)
    summary = {"sketches": len(sketches), "jbig2": jbig2, **summary_of_rates(means)}
    if args.repeats:
        timed = [sketch for _, sketch in sketches[: args.timing_sketches]]
        paper = args.paper[0] if args.paper else None
        summary["speed"] = speed(lambdas, paper, timed, args.repeats, args.threads)
    if args.out:
        write_results(args.out, summary, means, rows)
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
