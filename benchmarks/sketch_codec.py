"""Sketch codecs side by side on the same sketches: bytes, MS-SSIM, edge F1, seconds; BD-rates and a plot.

    python benchmarks/sketch_codec.py --data_root KODAK --out runs/sketch_codec
    python benchmarks/sketch_codec.py --quick

Compared: ours at several lambdas; the paper's network (Cheng2020Attention, one channel) in CompressAI's own
compress and decompress and in our wavefront order, with trained weights from `--paper FILE` or, for its speed
alone, random ones; WebP, AVIF and JPEG 2000, also of the sketch made smaller; and PNG, CCITT group 4 and JBIG2 of the
map cut at 0.5, also made smaller. Rates are the lengths of complete files. JBIG2 needs the programs `jbig2`
(jbig2enc) and `jbig2dec` and is left out, with a line that says so, where they are missing.

The curve of a family is the concave hull of its settings' means in the plane of bits per pixel and MS-SSIM: every
point of it is reached, in the mean, by coding some sketches with one setting and some with its neighbour. BD-rates
(Bjontegaard) are over the common range of MS-SSIM in dB, -10 log10(1 - MS-SSIM), on the logarithm of the rate, PCHIP.
`--out` gets sketch_codec.json (every row), sketch_codec.png and, in rows/, what is done of a run that was stopped: it
goes on there when it is started again. The table goes to stderr, the last stdout line is JSON.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from statistics import fmean, median

import numpy as np

PAPER_CHANNELS = 192  # N of the authors' networks
OURS_POINTS = 6  # lambdas compared, unless --lambdas names others
MULTIPLE = 64  # sides of a sketch, pixels
SMALLEST_SIDE = 192  # MS-SSIM needs 161
OURS, PAPER, CLASSICAL = "ours", "paper", "best classical"

# Family: {divisor of both sides: qualities}, in Pillow's numbers, for JPEG 2000 the compression ratio. Each divisor
# has those that lie on or near the family's curve, from MS-SSIM 0.6 to 0.98 of Kodak's sketches at short side 512.
QUALITIES = {
    "WebP": {1: (0,), 2: (0, 5, 10, 20), 4: (0, 10, 20), 8: (20,)},
    "AVIF": {1: (1, 8), 2: (1, 10, 20, 30), 4: (1, 5, 12, 20, 30), 8: (5, 20)},
    "JPEG 2000": {1: (60,), 2: (50, 30, 18), 4: (25, 15, 9, 5), 8: (12, 7)},
}
BILEVEL_FAMILIES = ("PNG of 1 bit", "CCITT group 4", "JBIG2")
DIVISORS = (1, 2, 4, 8)
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2)  # bits per pixel, of the plot
QUICK = {"short_side": 256, "limit": 2, "timing_sketches": 1, "repeats": 1}


@dataclass(frozen=True)
class Setting:
    """One way to code a sketch (uint8 (H, W), 255 = edge): a point of a family's curve."""

    family: str
    label: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data_root", metavar="DIR", help="photographs to draw sketches of (default: samples)")
    source.add_argument("--sketches", metavar="DIR", help="gray sketches instead, cut to multiples of 64 pixels")
    add("--annotator", default="hed-tiny", help="what draws the sketches (default: %(default)s)")
    add("--short_side", type=int, default=512, help="of the photographs, pixels (default: %(default)s)")
    add("--limit", type=int, help="use the first so many pictures")
    add("--lambdas", nargs="+", metavar="LAMBDA|FILE", help="ours (default: six over the bundled codec's range)")
    add("--paper", nargs="+", default=[], metavar="FILE", help="trained Cheng2020Attention codecs (.safetensors, .pt)")
    add("--threads", type=int, help="torch's threads in the comparison of speeds (default: torch's own)")
    add("--timing_sketches", type=int, default=2, help="in the comparison of speeds (default: %(default)s)")
    add("--repeats", type=int, default=3, help="of the comparison of speeds; 0: none (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes of one thread that measure quality (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="gets sketch_codec.json and sketch_codec.png")
    add("--quick", action="store_true", help="a look in a minute: " + ", ".join(f"{k} {v}" for k, v in QUICK.items()))
    args = parser.parse_args(argv)
    if args.quick:
        vars(args).update(QUICK)
    for name, least in {"limit": 1, "threads": 1, "timing_sketches": 1, "repeats": 0, "workers": 1}.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    return args


# ---- sketches


def load_sketches(args: argparse.Namespace) -> list[tuple[str, np.ndarray]]:
    """(name, sketch) pairs that the arguments ask for; ValueError for a folder or picture that cannot be used."""
    from dataloaders import list_images, load_samples

    if args.sketches:
        return [(name, gray(path)) for name, path in list_images(args.sketches)[: args.limit]]
    from annotator import load_annotator

    samples = load_samples(args.data_root, None, args.short_side)[: args.limit]
    annotate = load_annotator(args.annotator)
    return [(sample.name, annotate(sample.image)) for sample in samples]


def gray(path: str) -> np.ndarray:
    """Picture file as a sketch, cut to multiples of 64 pixels; ValueError for one too small."""
    from PIL import Image

    sketch = np.array(Image.open(path).convert("L"))
    height, width = (side // MULTIPLE * MULTIPLE for side in sketch.shape)
    if min(height, width) < SMALLEST_SIDE:
        size = f"{sketch.shape[1]}x{sketch.shape[0]}"
        raise ValueError(f"{path}: {size} pixels, sketches need sides of {SMALLEST_SIDE} or more")
    return sketch[:height, :width]


# ---- what an engineer would reach for


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Picture, uint8 (H, W), at another size by Pillow's Lanczos filter."""
    from PIL import Image

    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def smaller(sketch: np.ndarray, divisor: int) -> np.ndarray:
    """Sketch with both sides divided."""
    return sketch if divisor == 1 else resized(sketch, sketch.shape[0] // divisor, sketch.shape[1] // divisor)


def larger(picture: np.ndarray, divisor: int) -> np.ndarray:
    """Undo `smaller`."""
    return picture if divisor == 1 else resized(picture, picture.shape[0] * divisor, picture.shape[1] * divisor)


def save_options(family: str, value: int | None) -> dict:
    """Pillow's options for the smallest complete file of a family."""
    return {
        "WebP": {"format": "WEBP", "quality": value, "method": 6},
        # On three sketches, against speed 3: speed 6 costs 11% rate, speed 0 or tune=ssim spare 2%.
        "AVIF": {"format": "AVIF", "quality": value, "speed": 3, "max_threads": 1, "autotiling": False},
        "JPEG 2000": {
            "format": "JPEG2000",
            "no_jp2": True,  # the codestream alone, a file of its own (.j2k), 85 bytes shorter
            "irreversible": True,
            "quality_mode": "rates",
            "quality_layers": [value],
        },
        "PNG of 1 bit": {"format": "PNG", "optimize": True},
        "CCITT group 4": {"format": "TIFF", "compression": "group4"},
    }[family]


def pillow_encode(sketch: np.ndarray, divisor: int, bilevel: bool, options: dict) -> bytes:
    """File that Pillow writes of the sketch made smaller and, where bilevel, cut at 0.5."""
    from PIL import Image

    small, file = smaller(sketch, divisor), io.BytesIO()
    Image.fromarray(small >= 128 if bilevel else small).save(file, **options)
    return file.getvalue()


def pillow_decode(data: bytes, divisor: int) -> np.ndarray:
    """Sketch of a file that Pillow reads, at the size of the original."""
    from PIL import Image

    return larger(np.array(Image.open(io.BytesIO(data)).convert("L")), divisor)


def jbig2_encode(sketch: np.ndarray, divisor: int) -> bytes:
    """JBIG2 file, one lossless generic region, of the sketch made smaller and cut at 0.5."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sketch.pbm")
        Image.fromarray(smaller(sketch, divisor) >= 128).save(path)
        return subprocess.run(["jbig2", "-d", path], check=True, stdout=subprocess.PIPE).stdout


def jbig2_decode(data: bytes, divisor: int) -> np.ndarray:
    """Sketch of a JBIG2 file, at the size of the original."""
    with tempfile.TemporaryDirectory() as folder:
        file, picture = Path(folder, "sketch.jb2"), Path(folder, "sketch.pbm")
        file.write_bytes(data)
        subprocess.run(["jbig2dec", "-t", "pbm", "-o", picture, file], check=True)
        return pillow_decode(picture.read_bytes(), divisor)


def classical_settings() -> list[Setting]:
    """Every setting of the image formats, those of JBIG2 where its programs are installed."""
    settings = []
    for family, scales in QUALITIES.items():
        for divisor, values in scales.items():
            for value in values:
                encode = partial(pillow_encode, divisor=divisor, bilevel=False, options=save_options(family, value))
                settings.append(
                    Setting(family, f"1/{divisor} q{value}", encode, partial(pillow_decode, divisor=divisor))
                )
    for divisor in DIVISORS:
        for family in BILEVEL_FAMILIES[:2]:
            encode = partial(pillow_encode, divisor=divisor, bilevel=True, options=save_options(family, None))
            settings.append(Setting(family, f"1/{divisor}", encode, partial(pillow_decode, divisor=divisor)))
        if not missing_programs():
            pair = partial(jbig2_encode, divisor=divisor), partial(jbig2_decode, divisor=divisor)
            settings.append(Setting("JBIG2", f"1/{divisor}", *pair))
    return settings


def missing_programs() -> list[str]:
    """Programs of JBIG2 that are not installed."""
    return [program for program in ("jbig2", "jbig2dec") if not which(program)]


# ---- quality: every setting on every sketch


def all_settings(lambdas: Sequence[float | str], papers: Sequence[str]) -> list[Setting]:
    """Settings of ours, the paper's network where it is trained, and the image formats."""
    from models_ntc import load_sketch_codec

    learned = [(OURS, lam) for lam in lambdas] + [(PAPER, file) for file in papers]
    settings = []
    for family, source in learned:
        codec = load_sketch_codec(source)
        label = f"lambda {source}" if isinstance(source, float) else str(source)
        settings.append(Setting(family, label, codec.compress, codec.decompress))
    return settings + classical_settings()


_settings: list[Setting] = []  # of a worker process


def start_worker(lambdas: Sequence[float | str], papers: Sequence[str]) -> None:
    """Load what `measure` needs, once for each process."""
    import torch

    torch.set_num_threads(1)
    _settings[:] = all_settings(lambdas, papers)


def measure(named: tuple[str, np.ndarray]) -> list[dict]:
    """Rows of one sketch, one for each setting; seconds are of one run on one thread."""
    from metrics import edge_f1, ms_ssim

    name, sketch = named
    rows, quality = [], {}
    for setting in _settings:
        started = time.perf_counter()
        data = setting.encode(sketch)
        encoded = time.perf_counter()
        decoded = setting.decode(data)
        finished = time.perf_counter()
        if (picture := decoded.tobytes()) not in quality:  # the bi-level families give the same ones
            quality[picture] = ms_ssim(decoded, sketch), edge_f1(decoded, sketch)
        similarity, edges = quality[picture]
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
    """Names the code and weights that rows depend on; ValueError for a codec that there is not."""
    from models_ntc import FOLDER, load_sketch_codec

    root = Path(__file__).parent.parent
    files = [*sorted(FOLDER.glob("*.py")), *sorted((root / "metrics").glob("*.py")), Path(__file__)]
    digest = hashlib.sha256(repr((lambdas, papers, missing_programs())).encode())
    for content in [
        *(file.read_bytes() for file in files),
        *(load_sketch_codec(x).digest for x in [*lambdas, *papers]),
    ]:
        digest.update(content)
    return digest.digest()


def measure_all(sketches: list, lambdas: Sequence[float | str], papers: Sequence[str], args) -> list[dict]:
    """Rows of all sketches and settings, by --workers processes; rows that --out holds are not measured again."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from tqdm import tqdm

    known = identity(lambdas, papers)
    with tempfile.TemporaryDirectory() as folder:
        kept = args.out / "rows" if args.out else Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        files = [kept / f"{hashlib.sha256(known + sketch.tobytes()).hexdigest()[:16]}.json" for _, sketch in sketches]
        missing = [pair for pair in zip(sketches, files, strict=True) if not pair[1].exists()]
        with ProcessPoolExecutor(args.workers, get_context("spawn"), start_worker, (lambdas, papers)) as pool:
            results = pool.map(measure, [named for named, _ in missing])
            bar = tqdm(zip(missing, results, strict=True), total=len(missing), desc="sketches", file=sys.stderr)
            for (_, file), rows in bar:
                file.with_suffix(".tmp").write_text(json.dumps(rows), encoding="utf-8")
                file.with_suffix(".tmp").replace(file)
        return [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]


def means_of(rows: list[dict]) -> list[dict]:
    """Mean row of each setting, in the order of their first appearance."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["family"], row["setting"]), []).append(row)
    numbers = [name for name, value in rows[0].items() if not isinstance(value, str)]
    return [
        {"family": family, "setting": setting, "sketches": len(group)}
        | {name: fmean(row[name] for row in group) for name in numbers}
        for (family, setting), group in groups.items()
    ]


# ---- curves


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Concave hull of (rate, quality) points, by rising rate: what no mixture of the other points beats."""
    hull: list[tuple[float, float]] = []
    for rate, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and quality <= hull[-1][1]:
            continue
        while len(hull) > 1:
            (rate0, quality0), (rate1, quality1) = hull[-2:]
            if (quality - quality0) * (rate1 - rate0) < (quality1 - quality0) * (rate - rate0):
                break
            hull.pop()
        hull.append((rate, quality))
    return hull


def rate_reaching(hull: Sequence[tuple[float, float]], quality: float) -> float | None:
    """Lowest rate of a hull that reaches a quality; None where none does."""
    rates, qualities = zip(*hull, strict=True)
    return float(np.interp(quality, qualities, rates)) if quality <= qualities[-1] else None


def bd_rate(anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]) -> dict | None:
    """Mean difference of two hulls' rates, per cent of the anchor's, and the range of MS-SSIM it is over.

    None where a hull has one point or they share no range.
    """
    from bjontegaard import bd_rate as bjontegaard

    low, high = (pick(end(q for _, q in hull) for hull in (anchor, test)) for pick, end in ((max, min), (min, max)))
    if min(len(anchor), len(test)) < 2 or low >= high:
        return None
    curves = [[rate for rate, _ in anchor], decibels(anchor), [rate for rate, _ in test], decibels(test)]
    percent = bjontegaard(*curves, method="pchip", require_matching_points=False, min_overlap=0)
    return {"percent": float(percent), "ms_ssim_range": [low, high]}


def decibels(hull: Sequence[tuple[float, float]]) -> list[float]:
    """MS-SSIM of a hull's points in dB."""
    return [float(-10 * np.log10(1 - quality)) for _, quality in hull]


def points_of(means: list[dict], families: Sequence[str], measure: str = "ms_ssim") -> list[tuple[float, float]]:
    """(bpp, measure) of the settings of some families."""
    return [(row["bpp"], row[measure]) for row in means if row["family"] in families]


def against_classical(means: list[dict], classical: Sequence[str], measure: str) -> list[dict]:
    """For each of our settings, the lowest classical rate that reaches the same measure (None: none does)."""
    hull = frontier(points_of(means, classical, measure))
    return [
        {
            "setting": row["setting"],
            "bpp": row["bpp"],
            measure: row[measure],
            "classical_bpp": (rate := rate_reaching(hull, row[measure])),
            "ours_is_lower": rate is None or row["bpp"] < rate,
        }
        for row in means
        if row["family"] == OURS
    ]


def summary_of_rates(means: list[dict]) -> dict:
    """BD-rates of ours against every family and their best, and whether a classical rate lies below one of ours."""
    families = list(dict.fromkeys(row["family"] for row in means))
    classical = [family for family in families if family not in (OURS, PAPER)]
    ours = frontier(points_of(means, [OURS]))
    anchors = {family: [family] for family in families if family != OURS} | {CLASSICAL: classical}
    points = {name: against_classical(means, classical, name) for name in ("ms_ssim", "edge_f1")}
    return {
        "bd_rate": {name: bd_rate(frontier(points_of(means, group)), ours) for name, group in anchors.items()},
        "no_point_above_classical": all(point["ours_is_lower"] for point in points["ms_ssim"]),
        "at_equal_ms_ssim": points["ms_ssim"],
        "at_equal_edge_f1": points["edge_f1"],
        "paper_points": [
            {name: row[name] for name in ("setting", "bpp", "ms_ssim")}
            | {"ours_bpp": rate_reaching(ours, row["ms_ssim"])}
            for row in means
            if row["family"] == PAPER
        ],
    }


# ---- speed: ours and the paper's network, in turns


def random_paper(folder: str) -> Path:
    """File of the paper's network with random weights; as in a trained one, most symbols of a sketch are 0."""
    import torch

    from models_ntc.codec import new_network

    torch.manual_seed(0)
    path = Path(folder, "random.pt")
    torch.save(new_network("cheng2020-attn", {"N": PAPER_CHANNELS}).state_dict(), path)
    return path


def compressai_way(net) -> tuple[Callable, Callable]:
    """CompressAI's own compress and decompress of a one-channel network, on uint8 sketches."""
    import torch

    @torch.no_grad()
    def encode(sketch: np.ndarray) -> dict:
        return net.compress(torch.from_numpy(sketch.astype(np.float32) / 255)[None, None])

    @torch.no_grad()
    def decode(coded: dict) -> np.ndarray:
        picture = net.decompress(coded["strings"], coded["shape"])["x_hat"]
        return picture[0, 0].clamp(0, 1).mul(255).round().byte().numpy()

    return encode, decode


def latents_drawn(net, decode: Callable[[], object]):
    """Latents that the network's synthesis is handed while `decode` runs."""
    seen = []
    hook = net.g_s.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double()))
    decode()
    hook.remove()
    return seen[0]


def same_symbols(net, compressai: tuple, wavefront: tuple, sketch: np.ndarray) -> dict:
    """Whether both orders, each from its own encoder, decode the same symbols.

    Latents less than half a step apart are those of the same symbol.
    """
    latents = [latents_drawn(net, partial(decode, encode(sketch))) for encode, decode in (compressai, wavefront)]
    apart = (latents[0] - latents[1]).abs()
    return {
        "same_symbols": bool((apart < 0.5).all()),
        "share_of_equal_symbols": float((apart < 0.5).double().mean()),
        "share_of_symbols_not_0": float((latents[1].abs() > 0.5).double().mean()),
        "largest_difference": float(apart.max()),
    }


def time_in_turns(ways: dict[str, tuple], net, sketches: list[np.ndarray], repeats: int) -> dict[str, dict]:
    """Median seconds of each way, all in turns, after a warm-up on a corner of a sketch.

    Returns:
        {way: {"encode", "decode", and for the ways of `net` "symbols": decoding until its synthesis begins}}.
    """
    from tqdm import tqdm

    drawing: list[float] = []
    hook = net.g_s.register_forward_pre_hook(lambda *_: drawing.append(time.perf_counter()))
    for encode, decode in ways.values():
        decode(encode(sketches[0][:128, :192]))
    seconds = {name: defaultdict(list) for name in ways}
    turns = [(sketch, name) for _ in range(repeats) for sketch in sketches for name in ways]
    for sketch, name in tqdm(turns, desc="speed", file=sys.stderr):
        encode, decode = ways[name]
        drawing.clear()
        started = time.perf_counter()
        data = encode(sketch)
        encoded = time.perf_counter()
        decode(data)
        seconds[name]["decode"].append(time.perf_counter() - encoded)
        seconds[name]["encode"].append(encoded - started)
        seconds[name]["symbols"] += [began - encoded for began in drawing]
    hook.remove()
    return {name: {step: median(s) for step, s in steps.items() if s} for name, steps in seconds.items()}


def speed(lambdas: Sequence[float | str], paper: str | None, sketches: list[np.ndarray], args) -> dict:
    """Seconds of ours at each rate and of the paper's network both ways, and their ratios, on --threads threads."""
    import torch

    from models_ntc import load_sketch_codec

    torch.set_num_threads(args.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        codec = load_sketch_codec(paper or random_paper(folder))
    net = codec.coder.net
    compressai, wavefront = compressai_way(net), (codec.compress, codec.decompress)
    ours = {f"ours {lam}": load_sketch_codec(lam) for lam in lambdas}
    ways = {name: (codec.compress, codec.decompress) for name, codec in ours.items()}
    ways |= {"paper in CompressAI": compressai, "paper in wavefront order": wavefront}
    seconds = time_in_turns(ways, net, sketches, args.repeats)
    slow, wave = seconds["paper in CompressAI"], seconds["paper in wavefront order"]
    own = median(seconds[name]["encode"] + seconds[name]["decode"] for name in ours)
    return {
        "threads": torch.get_num_threads(),
        "size": "x".join(map(str, sketches[0].shape[::-1])),
        "weights": Path(paper).name if paper else f"random, N={PAPER_CHANNELS}",
        "seconds": seconds,
        "compressai_over_ours": (slow["encode"] + slow["decode"]) / own,
        "compressai_over_wavefront_decode": slow["decode"] / wave["decode"],
        "compressai_over_wavefront_symbols": slow["symbols"] / wave["symbols"],
        **same_symbols(net, compressai, wavefront, sketches[0][:256, :384]),  # a part: CompressAI is slow
    }


# ---- results


def table(means: list[dict]) -> str:
    """Lines of text, a setting each; those on their family's curve are marked."""
    lines = ["  family         setting            bytes     bpp  MS-SSIM   F1  precision recall  enc s  dec s"]
    curves = {row["family"]: frontier(points_of(means, [row["family"]])) for row in means}
    for row in means:
        mark = "*" if (row["bpp"], row["ms_ssim"]) in curves[row["family"]] else " "
        lines.append(
            f"{mark} {row['family']:14} {row['setting'][-16:]:16} {row['bytes']:7.0f}  {row['bpp']:.4f}   "
            f"{row['ms_ssim']:.4f} {row['edge_f1']:.3f}  {row['edge_precision']:.3f}  {row['edge_recall']:.3f}  "
            f"{row['encode_seconds']:6.2f} {row['decode_seconds']:6.2f}"
        )
    return "\n".join(lines)


def draw(means: list[dict], path: Path) -> None:
    """Write a plot: MS-SSIM and edge F1 against bits per pixel, points and each family's curve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, title) in zip(
        figure.subplots(1, 2), (("ms_ssim", "MS-SSIM"), ("edge_f1", "edge F1, 2 pixels")), strict=True
    ):
        for family in dict.fromkeys(row["family"] for row in means):
            points = points_of(means, [family], name)
            style = {"color": "black", "linewidth": 2.5, "zorder": 3} if family == OURS else {"linewidth": 1.2}
            line = axes.plot(*zip(*frontier(points), strict=True), marker="o", markersize=4, label=family, **style)
            axes.scatter(*zip(*points, strict=True), s=8, color=line[0].get_color(), alpha=0.4)
        axes.set(xscale="log", xlabel="bits per pixel (whole files)", ylabel=title)
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.minorticks_off()
        axes.grid(alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=110)


def default_lambdas() -> list[float]:
    """OURS_POINTS lambdas, geometric, over the range of the bundled codec."""
    from models_ntc import lambda_range

    return [float(f"{lam:.3g}") for lam in np.geomspace(*lambda_range(), OURS_POINTS)]


def number_or_file(text: str) -> float | str:
    """Value of --lambdas: a number, else a file's name."""
    try:
        return float(text)
    except ValueError:
        return text


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; 0 when done, 2 for wrong usage."""
    args = parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    lambdas = [number_or_file(text) for text in args.lambdas] if args.lambdas else default_lambdas()
    try:
        identity(lambdas, args.paper)  # wrong names end here
        sketches = load_sketches(args)
    except (OSError, ValueError) as error:
        print(f"sketch_codec.py: error: {error}", file=sys.stderr)
        return 2
    if missing_programs():
        print(f"JBIG2: not available: no program {', '.join(missing_programs())}", file=sys.stderr)

    rows = measure_all(sketches, lambdas, args.paper, args)
    means = means_of(rows)
    print(table(means), file=sys.stderr)
    timed = [sketch for _, sketch in sketches[: args.timing_sketches]]
    summary = {
        "sketches": len(sketches),
        "jbig2": f"not available: no program {', '.join(missing_programs())}" if missing_programs() else "measured",
        **summary_of_rates(means),
    }
    if args.repeats:
        summary["speed"] = speed(lambdas, args.paper[0] if args.paper else None, timed, args)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        contents = json.dumps({"summary": summary, "settings": means, "rows": rows}, indent=1)
        (args.out / "sketch_codec.json").write_text(contents, encoding="utf-8")
        draw(means, args.out / "sketch_codec.png")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
