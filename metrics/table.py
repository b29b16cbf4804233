"""The table of metrics: what each computes, by whose code, from which source, and what it needs.

python -c "from metrics import METRICS; print(METRICS['psnr'].recipe)"
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from metrics import networks
from metrics.images import (
    MS_SSIM_MIN_SIDE,
    PATTERN_MIN_SIDE,
    bsds_tolerance_px,
    color_distance,
    edge_f1,
    halved,
    ms_ssim,
    pattern,
    psnr,
)
from metrics.sets import frechet_distance, kernel_distance
from metrics.tools import PAPER_KID_SUBSET, Image, Pair, Tools

MAX_PSNR = 100.0  # dB, of equal images: JSON has no infinity, and a mean needs a number

Compare = Callable[[Image, Image], float]  # (original, reconstruction) -> value
Measure = Callable[[Pair], float]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of the table."""

    name: str  # in --metrics and in results.csv
    title: str  # for people
    better: str  # "higher" or "lower"
    recipe: str  # exactly what is computed, and by whose code
    source: str
    needs: str = ""  # weights, or a tool of the caller; "": nothing
    digits: int = 4  # after the point, when written
    smallest_side: int = 1  # pixels; below it the metric is not defined


@dataclass(frozen=True, kw_only=True)
class ImageMetric(Metric):
    """A metric of one image and its reconstruction."""

    load: Callable[[Tools], Measure]  # raises UnavailableError


@dataclass(frozen=True, kw_only=True)
class SetMetric(Metric):
    """A metric of all reconstructions together, on Inception's features."""

    # of features (n, 2048) and (m, 2048), and of the subset size if the row has one
    distance: Callable[..., float]
    # "originals": patches of originals and of reconstructions; "reference": complete images of a
    # reference folder and reconstructions
    against: str = "originals"
    # KID: rows of each random subset, or all rows if there are fewer; against a reference it is
    # `Tools.kid_subset_size`
    subset_size: int | None = None


# ---- how the metrics of one image are loaded


def _of_images(compare: Compare) -> Measure:
    return lambda pair: compare(pair.original, pair.recon)


def _function(compare: Compare) -> Callable[[Tools], Measure]:
    """Return the `load` of a metric that is a function of two images and needs nothing."""
    return lambda tools: _of_images(compare)


def _network(load: Callable[[str], Compare]) -> Callable[[Tools], Measure]:
    """Return the `load` of a metric by a network, which `load` loads for a device."""
    return lambda tools: _of_images(load(tools.device))


def _at_half_size(load: Callable[[str], Compare]) -> Callable[[Tools], Measure]:
    """Return the `load` of the same metric of both images averaged 2x2."""

    def load_half(tools: Tools) -> Measure:
        compare = load(tools.device)
        return lambda pair: compare(halved(pair.original), halved(pair.recon))

    return load_half


def _lent(name: str) -> Callable[[Tools], Measure]:
    """Return the `load` of a metric that is a tool of the caller, by the tool's name."""
    return lambda tools: _of_images(tools.get(name))


def _psnr(original: Image, recon: Image) -> float:
    return min(psnr(original, recon), MAX_PSNR)


def _load_edges(tools: Tools) -> Measure:
    annotate = tools.get("annotator")

    def agreement(pair: Pair) -> float:
        wanted = annotate(pair.original) if pair.sketch is None else pair.sketch
        tolerance = bsds_tolerance_px(*wanted.shape)
        return edge_f1(annotate(pair.recon), wanted, tolerance_px=tolerance).f1

    return agreement


def _load_caption(tools: Tools) -> Measure:
    load_captioner = tools.get("captioner")
    embed = networks.load_sentence_encoder(tools.device, tools.sentence_encoder)
    describe = load_captioner()  # last, since it is the largest
    one_at_a_time = threading.Lock()  # tokenizers are not for several threads

    def similarity(pair: Pair) -> float:
        with one_at_a_time:
            first, second = embed(describe([pair.original, pair.recon]))
        return float(first @ second)

    return similarity


# ---- the table


def _lpips(network: str, title: str, weights: str) -> tuple[ImageMetric, ImageMetric]:
    """Return the rows of LPIPS by a network, at full and at half size."""

    def load(device: str) -> Compare:
        return networks.load_lpips(device, network)

    recipe = f"version 0.1, {title}, inputs in -1..1 at the coded size, by torchmetrics"
    full = ImageMetric(
        name=f"lpips_{network}",
        title=f"LPIPS, {title}",
        better="lower",
        recipe=recipe,
        source="Zhang et al. 2018, arXiv 1801.03924",
        needs=f"torchvision's weights of {title} ({weights}, ImageNet)",
        smallest_side=64,
        load=_network(load),
    )
    half = replace(
        full,
        name=f"lpips_{network}_half",
        title=f"LPIPS, {title}, half size",
        recipe=f"{recipe}, of both images averaged 2x2",
        smallest_side=128,
        load=_at_half_size(load),
    )
    return full, half


CLIP_RECIPE = (
    "cosine of the two images' CLIP image features, each through the checkpoint's own preprocessing"
)
CLIP_SOURCE = "Radford et al. 2021, arXiv 2103.00020"
INCEPTION = "Inception-v3 weights of torch-fidelity (Apache-2.0, 91 MB)"
ON_PATCHES = (
    "originals against reconstructions on 256x256 patches, a grid and the same shifted by 128 "
    "pixels (Mentzer et al. 2020, as NeuralCompression cuts them), Inception-v3 and resizing by "
    "torch-fidelity; "
)
ON_FOLDER = (
    "a reference folder against reconstructions, complete images, resized to 299x299 by "
    "torch-fidelity's Inception-v3, as `fidelity` does and the paper with the resized training "
    "set; "
)
FID_RECIPE = "Frechet distance of the 2048 pooled features, (n - 1) covariances"
FID_SOURCE = "Heusel et al. 2017, arXiv 1706.08500"
KID_RECIPE = "cubic kernel, unbiased, mean over 100 subsets of "
KID_SOURCE = "Binkowski et al. 2018, arXiv 1801.01401"
KID_SUBSET = 1000


ROWS: tuple[Metric, ...] = (
    ImageMetric(
        name="psnr",
        title="PSNR, dB",
        better="higher",
        recipe="10 log10(255^2 / MSE) over all pixels and channels, sRGB, 8 bits; 100 at most",
        source="closed form",
        digits=3,
        load=_function(_psnr),
    ),
    ImageMetric(
        name="ms_ssim",
        title="MS-SSIM",
        better="higher",
        recipe="5 scales, 11-pixel Gaussian of sigma 1.5, K 0.01 and 0.03, mean of the RGB "
        "channels, by pytorch-msssim",
        source="Wang, Simoncelli, Bovik 2003",
        smallest_side=MS_SSIM_MIN_SIDE,
        load=_function(ms_ssim),
    ),
    *_lpips("alex", "AlexNet", "233 MB"),
    *_lpips("vgg", "VGG-16", "528 MB"),
    *_lpips("squeeze", "SqueezeNet 1.1", "5 MB"),
    ImageMetric(
        name="st_lpips",
        title="ST-LPIPS, AlexNet",
        better="lower",
        recipe="shift-tolerant LPIPS, version ST0.0, AlexNet, inputs in -1..1 at the coded size, "
        "by stlpips-pytorch",
        source="Ghildyal, Liu 2022, arXiv 2207.13686",
        needs="the packages stlpips-pytorch (with its weights, 69 MB), ipython and torchsummary",
        smallest_side=64,
        load=_network(networks.load_st_lpips),
    ),
    ImageMetric(
        name="dists",
        title="DISTS",
        better="lower",
        recipe="VGG-16, inputs in 0..1 at the coded size, not resized, by torchmetrics",
        source="Ding et al. 2020, arXiv 2004.07728",
        needs="torchvision's VGG-16 weights (528 MB, ImageNet)",
        smallest_side=64,
        load=_network(networks.load_dists),
    ),
    ImageMetric(
        name="clip",
        title="CLIP similarity, encoder's CLIP",
        better="higher",
        recipe=f"{CLIP_RECIPE}; this CLIP also searched the prompt and chose the candidate, "
        "which flatters",
        source=CLIP_SOURCE,
        needs="the preset's CLIP",
        load=_lent("clip"),
    ),
    ImageMetric(
        name="clip_judge",
        title="CLIP similarity, judge's CLIP",
        better="higher",
        recipe=f"{CLIP_RECIPE}; a CLIP that took no part in encoding",
        source=CLIP_SOURCE,
        needs="the preset's judge",
        load=_lent("judge"),
    ),
    ImageMetric(
        name="caption",
        title="caption similarity",
        better="higher",
        recipe="cosine of the sentence embeddings (all-MiniLM-L6-v2, by sentence-transformers) of "
        "the captions that the preset's captioner gives to the two images",
        source="Reimers, Gurevych 2019, arXiv 1908.10084",
        needs="the preset's captioner, the package sentence-transformers, and all-MiniLM-L6-v2 "
        "(Apache-2.0, 91 MB)",
        load=_load_caption,
    ),
    ImageMetric(
        name="edges",
        title="sketch agreement, F1",
        better="higher",
        recipe="F1 of the annotator's edges (128 and up) of the reconstruction against those of "
        "the original, within 0.0075 of the diagonal; edges neither thinned nor matched one to one",
        source="after Martin, Fowlkes, Malik 2004; tolerance of BSDS500",
        needs="the preset's annotator",
        load=_load_edges,
    ),
    ImageMetric(
        name="color",
        title="color distance, delta E",
        better="lower",
        recipe="earth mover's distance of the CIELAB color signatures (cells of side 10, CIE76 "
        "between them), by OpenCV",
        source="Rubner, Tomasi, Guibas 2000",
        digits=3,
        load=_function(color_distance),
    ),
    ImageMetric(
        name="pattern",
        title="pattern of 2 or 4 pixels",
        better="lower",
        recipe="mean over the spectrum's six bins at periods of 2 and 4 pixels of log10(power / "
        "median of the 9x9 bins around), of gray squares under a Hann window at both ends of the "
        "long side, less the original's",
        source="docs/metrics.md",
        digits=3,
        smallest_side=PATTERN_MIN_SIDE,
        load=_function(pattern),
    ),
    SetMetric(
        name="fid_patches",
        title="FID/256",
        better="lower",
        recipe=ON_PATCHES + FID_RECIPE,
        source=FID_SOURCE,
        needs=INCEPTION,
        digits=3,
        distance=frechet_distance,
    ),
    SetMetric(
        name="kid_patches",
        title="KID/256",
        better="lower",
        recipe=f"{ON_PATCHES}{KID_RECIPE}{KID_SUBSET} (all, if there are fewer)",
        source=KID_SOURCE,
        needs=INCEPTION,
        digits=5,
        distance=kernel_distance,
        subset_size=KID_SUBSET,
    ),
    SetMetric(
        name="fid_folder",
        title="FID, reference folder",
        better="lower",
        recipe=ON_FOLDER + FID_RECIPE,
        source=FID_SOURCE,
        needs=f"{INCEPTION}, a reference folder",
        digits=3,
        distance=frechet_distance,
        against="reference",
    ),
    SetMetric(
        name="kid_folder",
        title="KID, reference folder",
        better="lower",
        recipe=f"{ON_FOLDER}{KID_RECIPE}--kid_subset_size images",
        source=KID_SOURCE,
        needs=f"{INCEPTION}, a reference folder",
        digits=5,
        distance=kernel_distance,
        against="reference",
        subset_size=PAPER_KID_SUBSET,
    ),
)
METRICS: dict[str, Metric] = {row.name: row for row in ROWS}
SHORT_NAMES = {"lpips": ("lpips_alex",)}  # the paper's LPIPS
FAST = ("psnr", "ms_ssim", "clip", "edges", "color")


def is_per_image(name: str) -> bool:
    """Return whether a metric, a key of METRICS, has a value for each image."""
    return isinstance(METRICS[name], ImageMetric)


def choose_metrics(text: str) -> tuple[str, ...]:
    """Parse `--metrics`: "fast", "all", or names separated by commas, which may include "fast" and
    "lpips", which is LPIPS by AlexNet.

    Returns names in the table's order. Raises ValueError for an unknown name.
    """
    groups = {"fast": FAST, "all": tuple(METRICS), **SHORT_NAMES}
    chosen: set[str] = set()
    unknown = []
    for word in text.split(","):
        name = word.strip()
        if name in groups:
            chosen.update(groups[name])
        elif name in METRICS:
            chosen.add(name)
        else:
            unknown.append(repr(name))
    if unknown:
        raise ValueError(
            f"unknown metric {', '.join(unknown)}: choose fast, all, or of {', '.join(METRICS)}"
        )
    return tuple(name for name in METRICS if name in chosen)
