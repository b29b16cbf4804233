"""Rate-distortion curves: ours from 30 to 1,000 bytes against image formats at the same bytes.

    python benchmarks/rate_distortion.py --data_root KODAK --out runs/kodak --workers 2
    python benchmarks/rate_distortion.py --data_root KODAK --out runs/kodak --only formats
    python benchmarks/rate_distortion.py --data_root KODAK --out runs/kodak --sheet sheet.jpg

Ours are runs of eval_PICS.py within each budget, whole files; the formats are JPEG, WebP, AVIF,
JPEG 2000 and JPEG XL, each at its scale of the highest PSNR (benchmarks/format_points.py). A format
has a point where a file of every image fits; one that is not installed is named as not measured.
BD-rates (metrics/bd_rate.py) are ours against each format and against the best of all formats at
each rate, over --bd_range.

`--out` gets points.csv; a plot for each metric and overview of all, as PNG for light and dark pages
and as PDF; formats.csv, from which a stopped run is resumed; and the runs, in a folder for each
commit (those of a tree with changes are made anew). `--record results/kodak.csv` keeps our points
with their commit. `--sheet` is a picture to look at (benchmarks/contact_sheet.py). Tables go to
stderr, the last line on stdout is JSON.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

# So that `python benchmarks/rate_distortion.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contact_sheet import SHEET_BUDGETS, contact_sheet
from benchmarks.format_points import load_metrics, measure_formats, read_rows
from benchmarks.rows import distinct, rows_with
from common.files import ROOT, complain, say, write
from evaluation.flags import metric_names, positive
from metrics import is_per_image
from metrics.baselines import IMAGE_FORMATS
from presets import PresetError, get_preset
from reporting.rows import BASELINE_TITLES

OURS = "PICS"
BEST = "the best format"
BUDGETS = (30, 60, 100, 120, 150, 240, 330, 427, 430, 500, 700, 1000)  # bytes
METRICS = "psnr,ms_ssim,lpips_squeeze,lpips_squeeze_half,edges,pattern"
PARTS = ("ours", "formats")
PANELS = 3  # of a row of the overview


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_root", type=Path, required=True, help="folder of images")
    add("--preset", default="tiny", help="preset of ours (default: %(default)s)")
    help_side = "short side of the images in pixels (default: the preset's)"
    add("--short_side", type=positive, help=help_side)
    help_budgets = "numbers of bytes (default: %(default)s)"
    add("--budgets", nargs="+", type=positive, default=BUDGETS, metavar="B", help=help_budgets)
    help_formats = "image formats to compare with (default: all)"
    add("--formats", nargs="+", choices=IMAGE_FORMATS, default=IMAGE_FORMATS, help=help_formats)
    help_metrics = "metrics of images, separated by commas (default: %(default)s)"
    add("--metrics", type=metric_names, default=METRICS, help=help_metrics)
    add("--only", choices=PARTS, help="measure only one part (default: both)")
    help_range = "lowest and highest number of bytes of BD-rates (default: %(default)s)"
    add("--bd_range", nargs=2, type=positive, default=(60, 500), help=help_range)
    add("--device", default="cpu", help="device of ours: cpu, cuda or cuda:N")
    add("--workers", type=positive, default=1, help="number of processes that measure formats")
    add("--out", type=Path, default=Path("runs/rate_distortion"), help="folder of the results")
    add("--record", type=Path, metavar="CSV", help="table to which our points are added")
    add("--sheet", type=Path, metavar="JPG", help="contact sheet of ours beside WebP")
    help_images = "number of images of the sheet, spread over all (default: %(default)s)"
    add("--sheet_images", type=positive, default=8, help=help_images)
    args = parser.parse_args(argv)
    try:
        short_side = get_preset(args.preset).short_side
    except PresetError as error:
        parser.error(str(error))
    args.short_side = args.short_side or short_side
    if args.only != "formats" and args.short_side != short_side:
        parser.error(f"--short_side {args.short_side}: {args.preset} codes at {short_side}")
    if args.only == "formats" and (args.sheet or args.record):
        parser.error("--sheet and --record are of ours: leave --only out")
    sets = [name for name in args.metrics if not is_per_image(name)]
    if sets:
        parser.error(f"--metrics {','.join(sets)}: metrics of images only")
    if args.sheet:
        args.budgets = sorted({*args.budgets, *SHEET_BUDGETS})
    return args


# ---- ours


def rate_flags(budget: int) -> list[str]:
    """Return the flags of eval_PICS.py that keep each file within a number of bytes."""
    return ["--bytes", str(budget)]


def commit() -> str:
    """Return the short name of the commit at work, with "-dirty" if files were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def run_ours(args: argparse.Namespace, budget: int) -> Path:
    """Run eval_PICS.py within a budget and return the run's folder.

    Raises CalledProcessError if it fails.
    """
    version = commit()
    output = (args.out / "ours" / version / str(budget)).resolve()
    command = [sys.executable, str(ROOT / "eval_PICS.py"), *rate_flags(budget)]
    command += ["--data_root", str(args.data_root.resolve()), "--preset", args.preset]
    command += ["--metrics", ",".join(args.metrics), "--device", args.device]
    command += ["--output", str(output)]
    if version == "unknown" or version.endswith("-dirty"):
        command += ["--overwrite"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (run,) = output.iterdir()
    return run


def our_points(runs: dict[int, Path], names: Sequence[str]) -> list[dict]:
    """Return the points of our runs, which are by budget."""
    from reporting.runs import read_run

    points = []
    for budget, folder in runs.items():
        run = read_run(folder)
        points += curve_points(OURS, budget, run.mean, run.intervals, names)
    return points


def record(path: Path, args: argparse.Namespace, points: Sequence[dict], images: int) -> None:
    """Add our points to a table: their commit, preset, images, budget, mean bytes and metrics."""
    from reporting.tables import csv_file

    rows = read_rows(path, texts=("commit", "preset", "dataset"))
    for budget in distinct(points, "budget"):
        own = rows_with(points, {"budget": budget})
        row = {"commit": commit(), "preset": args.preset, "dataset": args.data_root.resolve().name}
        row |= {"images": images, "short_side": args.short_side}
        row |= {"budget": budget, "bytes": own[0]["bytes"]}
        row |= {point["metric"]: point["mean"] for point in own}
        if row not in rows:
            rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, csv_file(rows))


# ---- curves


def curve_points(
    series: str, budget: int, mean: dict, intervals: dict, names: Sequence[str]
) -> list[dict]:
    """Return a point for each metric, as in curves.csv of reports, with budget and bytes."""
    from reporting.curves import points_of

    kept = {name: mean[name] for name in ("bpp", *names) if name in mean}
    points = points_of(series, f"{budget} bytes", kept, intervals)
    return [{**point, "budget": budget, "bytes": mean["bytes"]} for point in points]


def format_points(rows: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """Return the points of the formats: means over all images where a file of each fits."""
    from reporting.averages import averages

    points = []
    for name in distinct(rows, "format"):
        for budget in distinct(rows, "budget"):
            own = rows_with(rows, {"format": name, "budget": budget})
            if all(row["bytes"] for row in own):
                numbers = [{key: row[key] for key in ("bytes", "bpp", *names)} for row in own]
                found = averages(numbers)
                title = BASELINE_TITLES[name]
                points += curve_points(title, budget, found["mean"], found["intervals"], names)
    return points


def best_points(points: Sequence[dict], metric: str) -> list[dict]:
    """Return of the points of formats the best by a metric at each budget, ascending."""
    from metrics import METRICS as TABLE

    choose = max if TABLE[metric].better == "higher" else min
    best = []
    for budget in sorted(distinct(points, "budget")):
        own = rows_with(points, {"metric": metric, "budget": budget})
        if own:
            best.append(choose(own, key=itemgetter("mean")))
    return best


def best_formats(points: Sequence[dict]) -> dict[str, dict[int, list]]:
    """Return {metric: {budget: [best format, its value]}}. points: of formats."""
    best: dict[str, dict[int, list]] = {}
    for metric in distinct(points, "metric"):
        found = best_points(points, metric)
        best[metric] = {row["budget"]: [row["series"], row["mean"]] for row in found}
    return best


def bd_rates(points: Sequence[dict], low: int, high: int) -> dict[str, dict[str, float | None]]:
    """Return {anchor: {metric: our BD-rate in percent}}, over budgets of `low` to `high` bytes.

    None where the curves have no range in common. Raises UnavailableError without bjontegaard.
    """
    from metrics.bd_rate import NO_QUALITY, bd_rate

    within = [point for point in points if low <= point["budget"] <= high]
    others = [point for point in within if point["series"] != OURS]
    rates: dict[str, dict[str, float | None]] = {}
    for metric in distinct(within, "metric"):
        if metric in NO_QUALITY:
            continue
        test = curve_of(rows_with(within, {"metric": metric, "series": OURS}))
        anchors = {BEST: best_points(others, metric)}
        for series in distinct(others, "series"):
            anchors[series] = rows_with(others, {"metric": metric, "series": series})
        for anchor, own in anchors.items():
            rates.setdefault(anchor, {})[metric] = bd_rate(curve_of(own), test, metric)
    return rates


def curve_of(points: Sequence[dict]) -> list[tuple[float, float]]:
    """Return (bytes, mean) of points."""
    return [(point["bytes"], point["mean"]) for point in points]


def draw(points: Sequence[dict], out: Path) -> None:
    """Write the plot of each metric and the overview of all, light, dark and PDF.

    Without intervals: photographs differ more from one another than formats on the same ones.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from reporting.curves import DARK, PLOTS, STYLE, curve_names, draw_axes, draw_curve, picture_of

    unknown = dict.fromkeys(("low", "high", "bpp_low", "bpp_high"))
    points = [point | unknown for point in points]
    metrics = distinct(points, "metric")
    for column, name in curve_names(metrics).items():
        draw_curve(points, column, out / name)
    lines = -(-len(metrics) // PANELS)
    for kind, ending in PLOTS.items():
        style: dict = {**STYLE, **(DARK if kind == "dark" else {})}
        with rc_context(style):
            figure = Figure(figsize=(4.4 * PANELS, 3.3 * lines), layout="constrained")
            panels = figure.subplots(lines, PANELS, squeeze=False).flat
            for axes, column in zip(panels, metrics, strict=False):
                draw_axes(axes, rows_with(points, {"metric": column}), column)
            for axes in list(panels)[len(metrics) :]:
                axes.set_visible(False)
            suffix = ending.rpartition(".")[2]
            write(out / f"overview{ending}", picture_of(figure, suffix))


# ---- results


def installed(formats: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the formats that are installed, and why others are not measured, by their titles."""
    from common.weights import UnavailableError
    from metrics.baselines import load_codec

    found, missing = [], {}
    for name in formats:
        try:
            load_codec(name)
            found.append(name)
        except UnavailableError as error:
            missing[BASELINE_TITLES[name]] = str(error)
            complain(f"not measured: {error}")
    return found, missing


def table(points: Sequence[dict]) -> str:
    """Return lines of text: a line for each series and budget, a column for each metric."""
    metrics = distinct(points, "metric")
    lines = [" ".join([f"{'':10} bytes ", *(f"{name:>18}" for name in metrics)])]
    for series in distinct(points, "series"):
        for budget in distinct(rows_with(points, {"series": series}), "budget"):
            own = rows_with(points, {"series": series, "budget": budget})
            means = {point["metric"]: f"{point['mean']:18.3f}" for point in own}
            cells = [means.get(name, f"{'-':>18}") for name in metrics]
            lines.append(" ".join([f"{series:10}{own[0]['bytes']:7.1f}", *cells]))
    return "\n".join(lines)


def measure_ours(args: argparse.Namespace, images: int, missing: dict) -> dict[int, Path]:
    """Return the folders of our runs by budget; a budget whose run fails goes to `missing`."""
    runs = {}
    for budget in args.budgets:
        try:
            runs[budget] = run_ours(args, budget)
        except subprocess.CalledProcessError as error:
            reason = f"eval_PICS.py ended with status {error.returncode}"
            missing[f"{OURS}, {budget} bytes"] = reason
            complain(f"not measured: {OURS} within {budget} bytes: {reason}")
    if args.record:
        record(args.record, args, our_points(runs, args.metrics), images)
    return runs


def measure_others(args: argparse.Namespace, samples: Sequence, missing: dict) -> list[dict]:
    """Return the points of the image formats; one that is not installed goes to `missing`."""
    formats, absent = installed(args.formats)
    missing |= absent
    kept = args.out / "formats.csv"
    rows = measure_formats(samples, formats, args.budgets, args.metrics, kept, args.workers)
    return format_points(rows, args.metrics)


def write_results(args: argparse.Namespace, points: Sequence[dict]) -> None:
    """Print the table and write points.csv and the plots."""
    from reporting.tables import csv_file

    complain(table(points))
    write(args.out / "points.csv", csv_file(points))
    draw(points, args.out)


def write_sheet(args: argparse.Namespace, samples, runs: dict[int, Path]) -> None:
    """Write the contact sheet of some images, spread over all."""
    chosen = samples[:: max(1, len(samples) // args.sheet_images)][: args.sheet_images]
    shown = {budget: runs[budget] for budget in SHEET_BUDGETS if budget in runs}
    write(args.sheet, contact_sheet(chosen, shown))


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write.

    Return 0 when done, 1 if nothing could be measured, 2 for wrong usage.
    """
    args = parse_args(argv)
    from common.weights import UnavailableError
    from dataloaders import load_samples

    try:
        samples = load_samples(args.data_root, None, args.short_side)
    except (OSError, ValueError) as error:
        complain(f"rate_distortion.py: error: {error}")
        return 2
    missing = dict(load_metrics(args.metrics).unavailable)
    args.metrics = tuple(name for name in args.metrics if name not in missing)
    args.out.mkdir(parents=True, exist_ok=True)

    summary: dict = {"images": len(samples), "not_measured": missing}
    runs = measure_ours(args, len(samples), missing) if args.only != "formats" else {}
    points = our_points(runs, args.metrics)
    if args.only != "ours":
        others = measure_others(args, samples, missing)
        summary["best_format"] = best_formats(others)
        points += others
    if not points:
        complain("rate_distortion.py: error: nothing could be measured")
        return 1
    if not args.only:
        try:
            summary["bd_rate"] = bd_rates(points, *args.bd_range)
        except UnavailableError as error:
            complain(error)

    write_results(args, points)
    if args.sheet:
        write_sheet(args, samples, runs)
    say(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
