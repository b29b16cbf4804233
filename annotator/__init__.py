"""Image -> sketch, by the annotators of the ControlNet family.

    sketch = load_annotator("hed-tiny", "cpu")(image)
    python generate_sketches.py --help        # prints the table of annotators

`NAME:PATH` takes an annotator's weights from this machine: a file, a folder that holds the file,
or, for the annotators that run in transformers, a model folder. For example,
`hed:annotator/hed_tiny.safetensors` is the same as `hed-tiny`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from annotator import filters
from annotator.filters import Annotator, Weights
from common.weights import UnavailableError, from_mirrors

HED_TINY = Path(__file__).parent / "hed_tiny.safetensors"
# The weights of ControlNet's own annotators.
CONTROLNET = ("lllyasviel/Annotators@982e7edaec38759d914a963c48c4726685de7d96",)
PACKAGE = "controlnet_aux"


@dataclass(frozen=True)
class Filter:
    """One annotator: what it draws and where its weights come from."""

    draws: str
    load: Callable[[Weights, str], Annotator]  # called with weights and device
    # of the weights: hub ids or paths, mirrors of one another; (): the annotator needs no weights
    sources: tuple[str, ...] = ()
    file: str = ""  # in the source's folder; "": the source is a model in transformers' layout
    megabytes: int = 0  # size of the download
    license: str = ""  # of the weights
    package: str = ""  # needed in addition to requirements.txt

    @property
    def origin(self) -> str:
        """One line: which weights, their source, size and license."""
        if not self.megabytes:
            return "comes with the repository" if self.sources else "no weights"
        name = self.sources[0].partition("@")[0]
        if self.file:
            name = f"{self.file} of {name}"
        return f"{name}, {self.megabytes} MB, {self.license}"


FILTERS = {
    "hed-tiny": Filter("soft edges", filters.hed, (str(HED_TINY),)),
    "hed": Filter(
        "soft edges",
        filters.hed,
        CONTROLNET,
        file="ControlNetHED.pth",
        megabytes=29,
        license="Apache-2.0",
    ),
    "hed-bsds500": Filter(
        "soft edges, as the paper's ControlNet and sketch codecs saw them",
        filters.hed_bsds500,
        CONTROLNET,
        file="network-bsds500.pth",
        megabytes=59,
        license="weights of sniklaus/pytorch-hed, whose code is GPL-3.0; fetched, never shipped",
    ),
    "pidinet": Filter(
        "soft edges",
        filters.pidinet,
        CONTROLNET,
        file="table5_pidinet.pth",
        megabytes=3,
        license="research only, see PiDiNet",
        package=PACKAGE,
    ),
    "canny": Filter("thin edges, on or off", filters.canny),
    "scribble": Filter(
        "thick strokes, on or off",
        filters.scribble,
        CONTROLNET,
        file="ControlNetHED.pth",
        megabytes=29,
        license="Apache-2.0",
    ),
    "lineart": Filter(
        "a line drawing",
        filters.lineart,
        CONTROLNET,
        file="sk_model.pth",
        megabytes=17,
        license="MIT",
        package=PACKAGE,
    ),
    "mlsd": Filter(
        "straight lines, on or off",
        filters.mlsd,
        CONTROLNET,
        file="mlsd_large_512_fp32.pth",
        megabytes=6,
        license="Apache-2.0",
        package=PACKAGE,
    ),
    "depth": Filter(
        "depth, near = 255",
        filters.depth,
        ("Intel/dpt-hybrid-midas",),
        megabytes=490,
        license="Apache-2.0",
    ),
    "openpose": Filter(
        "people's poses, gray in place of colors",
        filters.openpose,
        CONTROLNET,
        file="body_pose_model.pth",
        megabytes=209,
        license="CMU, not commercial",
        package=PACKAGE,
    ),
    "segmentation": Filter(
        "ADE20K segmentation, 150 classes, gray in place of colors",
        filters.segmentation,
        ("openmmlab/upernet-convnext-small",),
        megabytes=328,
        license="MIT",
    ),
}


def load_annotator(name: str, device: str = "cpu") -> Annotator:
    """Return a function: image (H, W, 3) uint8 RGB -> sketch (H, W) uint8.

    name: a key of FILTERS, or "key:path" for weights on this machine.

    Raises ValueError for an unknown name, UnavailableError if weights or a package are missing.
    """
    kind, path = split_name(name)
    row = FILTERS[kind]
    if row.package and find_spec(row.package) is None:
        cure = "pip install -r requirements-annotators.txt"
        raise UnavailableError(
            f"annotator {kind} runs in {row.package}, which is not installed: {cure}"
        )
    if not row.sources:
        return row.load(Weights(""), device)

    def load(source: str, revision: str | None, local_files_only: bool) -> Annotator:
        return row.load(Weights(source, revision, local_files_only, row.file), device)

    sources = [path] if path else row.sources
    cure = f"annotator {kind}: {row.origin}; weights on this machine are named {kind}:PATH"
    return from_mirrors(load, sources, f"annotator {kind}", cure=cure)


def split_name(name: str) -> tuple[str, str]:
    """Return the key of FILTERS and the path after its colon, or "". Raises ValueError."""
    kind, _, path = name.partition(":")
    if kind not in FILTERS:
        raise ValueError(f"unknown annotator {kind!r}: choose one of {', '.join(FILTERS)}")
    if path and not FILTERS[kind].sources:
        raise ValueError(f"annotator {name!r}: {kind} has no weights to take from a path")
    return kind, path


def table() -> str:
    """Return two lines for each annotator: what it draws; where its weights come from."""
    lines = []
    for name, row in FILTERS.items():
        needs = f"; needs {row.package}" if row.package else ""
        lines.append(f"  {name:14}{row.draws}")
        lines.append(f"{'':16}{row.origin}{needs}")
    return "\n".join(lines)
