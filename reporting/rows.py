"""Rows: records (`records.py`) flattened to the columns of results.csv.

    row = as_row(record)
    row["psnr"]

Runs of earlier versions spell color "colour" and have one LPIPS, AlexNet's; they are read as well.
"""

from collections.abc import Sequence

RECORD = "_caption.yaml"  # the ending of a record's file
# The columns of results.csv that hold no numbers; the folder of an image's files is named only
# where it is not the run's own.
TEXTS = ("name", "folder", "prompt")
COSTS = (
    "seconds_",
    "memory_",
)  # prefixes of columns that differ from run to run; pages leave them out
ALLOCATION = ("budget", "lam_sketch")  # the columns of a run with --bytes
BASELINE_TITLES = {
    "jpeg": "JPEG",
    "webp": "WebP",
    "avif": "AVIF",
    "jpeg2000": "JPEG 2000",
    "jpegxl": "JPEG XL",
}
BASELINE_NOTES = (
    "name",
    "baseline",
    "scale",
    "quality",
    "why",
)  # the columns of baselines.csv that are no results
OLD_SPELLING = {
    "colour": "color",
    "bytes_colour": "bytes_color",
    "photographs": "images",
    "lpips": "lpips_alex",
}


# ---- records


def as_row(record: dict, folder: str = "") -> dict:
    """Flatten a record to a row of results.csv. folder: of the image's files in the run's."""
    row = {"name": record["name"]} | ({"folder": folder} if folder else {})
    row["prompt"] = record["prompt"]
    row |= {"bpp": record["bpp"]["total"], "bytes": record["bytes"]["total"]}
    for layer, count in record["bytes"].items():
        if layer != "total":
            row[f"bytes_{layer}"] = count
    for column in ALLOCATION:
        if record.get("allocation", {}).get(column) is not None:
            row[column] = record["allocation"][column]
    row |= record["metrics"]
    for kind in ("seconds", "memory"):
        for what, cost in record.get(kind, {}).items():
            row[f"{kind}_{what}"] = cost
    return new_spelling(row)


def new_spelling(row: dict) -> dict:
    """Rename the columns of earlier versions."""
    return {OLD_SPELLING.get(column, column): value for column, value in row.items()}


def without_costs(row: dict) -> dict:
    """Return a row without the columns that differ from run to run."""
    return {column: value for column, value in row.items() if not column.startswith(COSTS)}


def costs_of(row: dict) -> dict:
    """Return the other part of a row: seconds and bytes of memory."""
    return {column: value for column, value in row.items() if column.startswith(COSTS)}


def baseline_rows(record: dict) -> list[dict]:
    """Return a row of baselines.csv for each baseline of an image."""
    rows = []
    for baseline, results in record.get("baselines", {}).items():
        rows.append(new_spelling({"name": record["name"], "baseline": baseline, **results}))
    return rows


# ---- columns


def columns_of(rows: Sequence[dict]) -> list[str]:
    """Return the names of all columns of some rows, in the order in which they first occur."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    return list(columns)


def layers_of(rows: Sequence[dict]) -> list[str]:
    """Return the columns with the bytes of the layers."""
    return [column for column in columns_of(rows) if column.startswith("bytes_")]


def metrics_of(rows: Sequence[dict]) -> list[str]:
    """Return the columns with a metric of at least one image."""
    others = (*TEXTS, "bytes", "bpp", *ALLOCATION, *layers_of(rows))
    metrics = []
    for column in columns_of(rows):
        if column not in others and numbers_of(rows, column):
            metrics.append(column)
    return metrics


def numbers_of(rows: Sequence[dict], column: str) -> list[float]:
    """Return the numbers in a column."""
    return [row[column] for row in rows if isinstance(row.get(column), float | int)]


def without_notes(row: dict) -> dict:
    """Return the results in a row of baselines.csv."""
    return {column: value for column, value in row.items() if column not in BASELINE_NOTES}
