"""Photograph -> sketch, by the filters of the ControlNet family: `load_annotator("hed-tiny", "cpu")(image)`.

    python generate_sketches.py --help        # prints the table of filters

`NAME:PATH` takes a filter's weights from this machine: a file, a folder that holds the file, or, for the
filters that run in transformers, a model folder. `hed:annotator/hed_tiny.safetensors` is `hed-tiny`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from annotator import filters
from annotator.filters import Annotator, Weights
from presets import PresetError, from_mirrors

PACKAGE = "controlnet_aux"


@dataclass(frozen=True)
class Filter:
    """One row: what a filter draws and where its weights come from."""

    draws: str
    load: Callable[[Weights, str], Annotator]  # weights and device -> the filter
    sources: tuple[str, ...] = ()  # of the weights: hub ids or paths, mirrors of one another; (): needs none
    file: str = ""  # in the source's folder; "": the source is a model in transformers' layout
    megabytes: int = 0  # to fetch
    licence: str = ""  # of the weights
    package: str = ""  # needed beyond requirements.txt

    @property
    def origin(self) -> str:
        """Say in one line which weights, where from, how large, and under which licence."""
        if not self.megabytes:
            return "comes with the repository" if self.sources else "no weights"
        place = " of ".join(filter(None, (self.file, self.sources[0].partition("@")[0])))
        return f"{place}, {self.megabytes} MB, {self.licence}"


# The weights of ControlNet's own annotators.
_ANNOTATORS = ("lllyasviel/Annotators@982e7edaec38759d914a963c48c4726685de7d96",)
FILTERS = {
    "hed-tiny": Filter("soft edges", filters.hed, (str(Path(__file__).parent / "hed_tiny.safetensors"),)),
    "hed": Filter("soft edges", filters.hed, _ANNOTATORS, "ControlNetHED.pth", 29, "Apache-2.0"),
    "pidinet": Filter(
        "soft edges", filters.pidinet, _ANNOTATORS, "table5_pidinet.pth", 3, "research only, see PiDiNet", PACKAGE
    ),
    "canny": Filter("thin edges, on or off", filters.canny),
    "scribble": Filter(
        "thick strokes, on or off", filters.scribble, _ANNOTATORS, "ControlNetHED.pth", 29, "Apache-2.0"
    ),
    "lineart": Filter("a line drawing", filters.lineart, _ANNOTATORS, "sk_model.pth", 17, "MIT", PACKAGE),
    "mlsd": Filter(
        "straight lines, on or off", filters.mlsd, _ANNOTATORS, "mlsd_large_512_fp32.pth", 6, "Apache-2.0", PACKAGE
    ),
    "depth": Filter("depth, near = 255", filters.depth, ("Intel/dpt-hybrid-midas",), "", 490, "Apache-2.0"),
    "openpose": Filter(
        "people's poses, gray for colours",
        filters.openpose,
        _ANNOTATORS,
        "body_pose_model.pth",
        209,
        "CMU, not commercial",
        PACKAGE,
    ),
    "segmentation": Filter(
        "150 kinds of things, gray for colours",
        filters.segmentation,
        ("openmmlab/upernet-convnext-small",),
        "",
        328,
        "MIT",
    ),
}


def load_annotator(name: str, device: str = "cpu") -> Annotator:
    """Return the function image (H, W, 3) uint8 RGB -> sketch (H, W) uint8 that a row of FILTERS names.

    `name` is a row, or "row:path" for weights on this machine.
    Raises ValueError for an unknown name and `presets.PresetError` where weights or a package cannot be had.
    """
    kind, own = split_name(name)
    row = FILTERS[kind]
    if row.package and find_spec(row.package) is None:
        cure = "pip install -r requirements-annotators.txt"
        raise PresetError(f"annotator {kind} runs in {row.package}, which is not installed: {cure}")
    if not row.sources:
        return row.load(Weights(""), device)

    def load(source: str, revision: str | None) -> Annotator:
        return row.load(Weights(source, revision, row.file), device)

    cure = f"annotator {kind}: {row.origin}; weights on this machine are named {kind}:PATH"
    return from_mirrors(load, [own] if own else row.sources, f"annotator {kind}", cure=cure)


def split_name(name: str) -> tuple[str, str]:
    """Return the row of FILTERS and the path behind its colon, or "". Raises ValueError."""
    kind, _, own = name.partition(":")
    if kind not in FILTERS:
        raise ValueError(f"unknown annotator {kind!r}: choose one of {', '.join(FILTERS)}")
    if own and not FILTERS[kind].sources:
        raise ValueError(f"annotator {name!r}: {kind} has no weights to take from a path")
    return kind, own


def table() -> str:
    """Return the filters, two lines each: what one draws; where its weights come from and what it needs."""
    rows = [
        f"  {name:14}{row.draws}\n{'':16}{row.origin}{f'; needs {row.package}' * bool(row.package)}"
        for name, row in FILTERS.items()
    ]
    return "\n".join(rows)
