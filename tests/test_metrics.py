"""Metrics against closed forms and against the reference implementations.

python -m pytest tests/test_metrics.py
"""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from common import weights
from common.weights import UnavailableError
from metrics import (
    FAST,
    METRICS,
    EdgeAgreement,
    MetricSet,
    Tools,
    Unavailable,
    choose_metrics,
    color_distance,
    edge_f1,
    frechet_distance,
    halved,
    hific_patches,
    is_per_image,
    kernel_distance,
    mean_interval,
    ms_ssim,
    networks,
    pattern,
    psnr,
)

rng = np.random.default_rng(0)


def picture(height=192, width=208, channels=3) -> np.ndarray:
    """Smooth waves, so that structure survives at every scale."""
    y, x = np.mgrid[:height, :width]
    waves = [127.5 + 120 * np.sin(x / (7 + c) + y / 11) for c in range(channels)]
    return np.stack(waves, 2).astype(np.uint8)


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def test_psnr_closed_forms():
    black, white = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 255, np.uint8)
    assert psnr(black, white) == 0
    assert psnr(white, black) == 0
    assert psnr(black, black) == float("inf")
    assert psnr(black, black + 1) == pytest.approx(20 * np.log10(255))
    one = black.copy()
    one[0, 0, 0] = 200
    assert psnr(black, one) == pytest.approx(10 * np.log10(255**2 * 60 / 200**2))


def test_psnr_is_the_reference_s():
    reference = pytest.importorskip("skimage.metrics").peak_signal_noise_ratio
    image = picture()
    other = noisy(image, 12)
    assert psnr(image, other) == pytest.approx(reference(image, other), abs=1e-9)


@pytest.mark.parametrize("sigma", [3, 30, 100])
def test_ms_ssim_is_the_reference_s(sigma):
    from pytorch_msssim import ms_ssim as reference

    image = picture()
    other = noisy(image, sigma)
    a, b = (torch.tensor(x.transpose(2, 0, 1)[None]).float() for x in (image, other))
    assert ms_ssim(image, other) == pytest.approx(float(reference(a, b, data_range=255)), abs=1e-5)


def test_ms_ssim_of_flat_pictures_is_their_luminance_at_the_coarsest_scale():
    a, b = np.full((192, 192, 3), 100, np.uint8), np.full((192, 192, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    # The window's float32 weights sum to 1 but for rounding.
    assert ms_ssim(a, b) == pytest.approx(luminance**0.1333, abs=1e-5)


def test_ms_ssim_properties():
    image = picture()
    assert ms_ssim(image, image) == pytest.approx(1)
    values = [ms_ssim(image, noisy(image, sigma)) for sigma in (2, 10, 50)]
    assert 1 > values[0] > values[1] > values[2] > 0
    gray, other = image[..., 0], noisy(image, 20)[..., 0]
    tripled = ms_ssim(np.stack([gray] * 3, 2), np.stack([other] * 3, 2))
    assert ms_ssim(gray, other) == pytest.approx(tripled)


def test_ms_ssim_needs_161_pixels():
    assert ms_ssim(picture(161, 161), picture(161, 161)) == pytest.approx(1)
    with pytest.raises(ValueError, match="200x160 pixels: MS-SSIM needs sides of 161 or more"):
        ms_ssim(picture(160, 200), picture(160, 200))


def lines(*columns: int, width=40) -> np.ndarray:
    sketch = np.zeros((20, width), np.uint8)
    sketch[:, list(columns)] = 255
    return sketch


def test_edge_f1_closed_forms():
    assert edge_f1(lines(5), lines(5)) == (1, 1, 1)
    assert edge_f1(lines(5), lines(30)) == (0, 0, 0)
    assert edge_f1(lines(5, 30), lines(5)) == (0.5, 1, pytest.approx(2 / 3))
    assert edge_f1(lines(5), lines(5, 30)) == (1, 0.5, pytest.approx(2 / 3))
    assert edge_f1(lines(5, 10, 30), lines(5)).precision == pytest.approx(1 / 3)


def test_edge_f1_tolerance_is_a_distance():
    assert edge_f1(lines(5), lines(7), tolerance_px=2) == (1, 1, 1)
    assert edge_f1(lines(5), lines(8), tolerance_px=2) == (0, 0, 0)
    assert edge_f1(lines(5), lines(6), tolerance_px=0) == (0, 0, 0)
    a, b = np.zeros((2, 9, 9), np.uint8)
    a[2, 2] = b[4, 4] = 255
    assert edge_f1(a, b, tolerance_px=2.8).f1 == 0
    assert edge_f1(a, b, tolerance_px=2.9).f1 == 1


def test_edge_f1_threshold_is_included():
    faint = lines(5) // 255 * 127
    assert edge_f1(faint, lines(5), threshold=127) == (1, 1, 1)
    assert edge_f1(faint, lines(5), threshold=128) == (0, 0, 0)
    assert edge_f1(lines(5) // 255 * 128, lines(5)) == (1, 1, 1)


def test_edge_f1_of_empty_maps():
    empty = lines()
    assert edge_f1(empty, empty) == EdgeAgreement(1, 1, 1)
    assert edge_f1(empty, lines(3)) == edge_f1(lines(3), empty) == EdgeAgreement(0, 0, 0)


def test_edge_f1_is_the_one_by_dilation():
    from scipy.ndimage import binary_dilation

    a, b = rng.random((2, 50, 60)) < 0.03
    y, x = np.mgrid[-2:3, -2:3]
    disc = x**2 + y**2 <= 4
    precision = (a & binary_dilation(b, disc)).sum() / a.sum()
    recall = (b & binary_dilation(a, disc)).sum() / b.sum()
    expected = (precision, recall, 2 * precision * recall / (precision + recall))
    assert edge_f1(a.astype(np.uint8) * 255, b.astype(np.uint8) * 255) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [psnr, ms_ssim, edge_f1])
def test_mistakes(metric):
    with pytest.raises(ValueError, match="one shape"):
        metric(np.zeros((200, 200), np.uint8), np.zeros((200, 201), np.uint8))
    with pytest.raises(ValueError, match="one shape"):
        metric(np.zeros((0, 200), np.uint8), np.zeros((0, 200), np.uint8))
    with pytest.raises(ValueError, match="must be uint8, these are float64"):
        metric(np.zeros((200, 200)), np.zeros((200, 200)))


def test_mistakes_with_edges():
    with pytest.raises(ValueError, match="edge maps are HxW"):
        edge_f1(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="threshold 0"):
        edge_f1(lines(5), lines(5), threshold=0)


def test_color_distance_of_flat_pictures_is_their_delta_e():
    from skimage.color import deltaE_cie76, rgb2lab

    red, teal = (
        np.broadcast_to(np.uint8(rgb), (40, 50, 3)) for rgb in ((200, 30, 40), (20, 130, 140))
    )
    expected = deltaE_cie76(rgb2lab(red[:1, :1]), rgb2lab(teal[:1, :1])).item()
    assert color_distance(red, teal) == pytest.approx(expected, abs=0.001)
    half = np.concatenate([red, teal])
    assert color_distance(half, red) == pytest.approx(expected / 2, abs=0.001)
    # Where a color lies does not count.
    assert color_distance(half, half[::-1]) == pytest.approx(0, abs=1e-6)
    black, white = np.zeros((9, 9, 3), np.uint8), np.full((7, 5, 3), 255, np.uint8)
    assert color_distance(black, white) == pytest.approx(100, abs=0.01)


def test_color_distance_is_the_reference_s():
    """The same transport problem by scipy's linear program, on cells counted the slow way."""
    from scipy.stats import wasserstein_distance_nd
    from skimage.color import rgb2lab

    def signature(image):
        cells = {}
        for color in rgb2lab(image).reshape(-1, 3):
            cells.setdefault(tuple(color // 10), []).append(color)
        means = [np.mean(cell, axis=0) for cell in cells.values()]
        return means, [len(cell) for cell in cells.values()]

    a, b = picture(24, 24), noisy(picture(24, 24)[:, ::-1], 5)[..., ::-1]
    (colors_a, shares_a), (colors_b, shares_b) = signature(a), signature(b)
    expected = wasserstein_distance_nd(colors_a, colors_b, shares_a, shares_b)
    assert expected > 1
    assert color_distance(a, b) == pytest.approx(expected, abs=0.001)


def test_ms_ssim_and_psnr_are_torchmetrics_s():
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        peak_signal_noise_ratio,
    )

    image = picture()
    other = noisy(image, 30)
    a, b = (torch.tensor(x.transpose(2, 0, 1)[None]).double() for x in (image, other))
    theirs = float(peak_signal_noise_ratio(a, b, data_range=255.0))
    assert psnr(image, other) == pytest.approx(theirs, abs=1e-3)
    options = {"data_range": 255.0, "kernel_size": 11, "sigma": 1.5}
    theirs = float(multiscale_structural_similarity_index_measure(a, b, **options))
    assert ms_ssim(image, other) == pytest.approx(theirs, abs=1e-4)


def hatched(image: np.ndarray, period: int) -> np.ndarray:
    """A picture with a faint hatching of vertical lines, two levels up and down."""
    lines = np.arange(image.shape[1]) // (period // 2) % 2
    return np.clip(image + 4.0 * lines[None, :, None] - 2, 0, 255).astype(np.uint8)


def grainy(height=192, width=256) -> list[np.ndarray]:
    """Eight noisy pictures, the same in each run: a single spectrum is as noisy as its picture."""
    own = np.random.default_rng(3)
    smooth = picture(height, width)
    noise = own.normal(0, 10, (8, *smooth.shape))
    return list(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def mean_pattern(images: list[np.ndarray], change) -> float:
    return float(np.mean([pattern(image, change(image)) for image in images]))


@pytest.mark.parametrize("period", [2, 4])
@pytest.mark.parametrize("size", [(192, 256), (258, 195)])
def test_pattern_sees_a_hatching(period, size):
    images = grainy(*size)
    assert mean_pattern(images, lambda image: hatched(image, period)) > 0.3
    lying = [image.swapaxes(0, 1) for image in images]
    assert mean_pattern(lying, lambda image: hatched(image, period)) > 0.3
    other = hatched(images[0], period)
    assert pattern(other, images[0]) == -pattern(images[0], other)


def test_pattern_of_what_repeats_no_more_than_its_original():
    from scipy.ndimage import gaussian_filter

    images = grainy()
    assert pattern(images[0], images[0]) == 0
    assert mean_pattern(images, lambda image: gaussian_filter(image, (1, 1, 0))) < 0.3
    assert abs(mean_pattern(images, lambda image: hatched(image, 8))) < 0.1  # another period
    flat = np.full((64, 64, 3), 9, np.uint8)
    assert pattern(flat, flat) == 0


def test_pattern_is_a_power_of_ten():
    """A spectrum of one height, and lines ten times higher in power: 1 at each of the six bins."""
    from metrics.images import _standing_out

    side = 64
    phases = np.exp(2j * np.pi * rng.random((side, side)))
    flat = np.ones((side, side))
    lines = flat.copy()
    for row, column in ((0, 16), (16, 0), (16, 16), (0, 32), (32, 0), (32, 32)):
        lines[row, column] = lines[-row, -column] = np.sqrt(10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("numpy.fft.fft2", lambda square: lines * phases)
        assert _standing_out(flat) == pytest.approx([1] * 6)


def test_halved_is_the_mean_of_four():
    image = rng.integers(0, 256, (7, 10, 3), np.uint8)
    half = halved(image)
    assert half.shape == (3, 5, 3) and half.dtype == np.float32
    for row, column in ((0, 0), (2, 4)):
        four = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(4, 3)
        np.testing.assert_allclose(half[row, column], four.mean(axis=0))


@pytest.mark.parametrize("network", ["alex", "vgg", "squeeze"])
def test_lpips_at_half_size_is_that_of_halved_images(network, monkeypatch):
    """The network stands for the mean difference of two images and the size it was given."""
    loaded = []

    def load_lpips(device, name):
        loaded.append((device, name))
        return lambda a, b: float(np.abs(a.astype(float) - b).mean()) + a.shape[0]

    monkeypatch.setattr(networks, "load_lpips", load_lpips)
    names = (f"lpips_{network}", f"lpips_{network}_half")
    metrics = MetricSet(names)
    assert loaded == [("cpu", network)] * 2
    image = picture()
    measured = metrics.measure(image, hatched(image, 2))
    assert measured[names[0]] == pytest.approx(192 + 2, abs=0.01)
    assert measured[names[1]] == pytest.approx(96, abs=0.01)  # the hatching is gone
    small = image[:100, :100]
    assert metrics.measure(small, small) == {names[0]: 100, names[1]: None}


def test_lpips_by_squeezenet_is_the_published_one(monkeypatch, tmp_path):
    """torchmetrics's own example, with the published weights if they are at hand."""
    judge = Path(__file__).parents[2] / "shared" / "judge"
    if not judge.exists():
        pytest.skip("no published weights here")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(networks, "_tensor", lambda image: image)
    subprocess.run([sys.executable, str(judge / "install.py")], check=True, capture_output=True)
    torch.manual_seed(42)
    a, b = (255 * torch.rand(10, 3, 100, 100) for _ in range(2))
    distance = networks.load_lpips("cpu", "squeeze")
    values = [distance(*pair) for pair in zip(a.split(1), b.split(1), strict=True)]
    assert np.mean(values) == pytest.approx(0.1005, abs=5e-5)


class STLPIPS(torch.nn.Module):
    """Stands for the network of stlpips-pytorch: the mean difference, inputs in -1..1."""

    def __init__(self, net, variant, verbose):
        assert (net, variant, verbose) == ("alex", "shift_tolerant", False)
        super().__init__()

    def forward(self, a, b, normalize):
        assert normalize
        return (2 * a - 2 * b).abs().mean().reshape(1, 1, 1, 1)


def test_st_lpips_is_that_of_its_package(monkeypatch):
    package = types.ModuleType("stlpips_pytorch")
    package.stlpips = types.ModuleType("stlpips_pytorch.stlpips")
    package.stlpips.LPIPS = STLPIPS
    monkeypatch.setitem(sys.modules, "stlpips_pytorch", package)
    monkeypatch.setitem(sys.modules, "stlpips_pytorch.stlpips", package.stlpips)
    black = np.zeros((64, 64, 3), np.uint8)
    assert MetricSet(["st_lpips"]).measure(black, black + 51) == {"st_lpips": 0.4}


def test_st_lpips_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "stlpips_pytorch", None)
    metrics = MetricSet(["st_lpips", "psnr"])
    assert metrics.unavailable == {
        "st_lpips": "the package stlpips_pytorch is not installed: "
        "pip install stlpips-pytorch ipython torchsummary"
    }
    assert metrics.measure(picture(), picture()) == {"st_lpips": None, "psnr": 100}


def features(
    n: int, d: int = 12, seed: int = 0, scale: float = 1.0, shift: float = 0.0
) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(n, d)) @ generator.normal(size=(d, d))
    return (mixed * scale + shift).astype(np.float32)


# With fewer rows than columns the covariances are singular.
@pytest.mark.parametrize("sizes", [(200, 300), (8, 300), (8, 5)])
def test_frechet_distance_is_torch_fidelity_s(sizes):
    from scipy.linalg import sqrtm
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    a = features(sizes[0]).astype(np.float64)
    b = features(sizes[1], seed=1, scale=1.3, shift=0.5).astype(np.float64)
    statistics = [fid_features_to_statistics(torch.tensor(x)) for x in (a, b)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-3)
    if min(sizes) > 12:
        one, two = (np.cov(x, rowvar=False) for x in (a, b))
        plain = np.sum((a.mean(0) - b.mean(0)) ** 2)
        plain += np.trace(one + two - 2 * sqrtm(one @ two).real)
        assert frechet_distance(a, b) == pytest.approx(plain, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_closed_form():
    a = np.array([[0.0], [2.0], [4.0]])  # mean 2, variance 4
    b = np.array([[9.0], [10.0], [11.0]])  # mean 10, variance 1
    assert frechet_distance(a, b) == pytest.approx(8**2 + (2 - 1) ** 2)


@pytest.mark.parametrize("subset", [20, 60])
def test_kernel_distance_is_the_mean_over_subsets(subset):
    """Written out by the definition, on the subsets that torch-fidelity draws (seed 2020)."""
    a, b = features(60), features(80, seed=1, shift=0.3)
    draws = np.random.RandomState(2020)
    found = []
    for _ in range(100):
        x, y = (s[draws.choice(len(s), subset, replace=False)].astype(float) for s in (a, b))
        inside, across = [(v @ v.T / 12 + 1) ** 3 for v in (x, y)], (x @ y.T / 12 + 1) ** 3
        pairs = subset * (subset - 1)
        found.append(sum((k.sum() - np.trace(k)) / pairs for k in inside) - 2 * across.mean())
    assert kernel_distance(a, b, subset_size=subset) == pytest.approx(np.mean(found), rel=1e-9)


def test_kernel_distance_of_small_sets_uses_all_of_them():
    a, b = features(6, 3), features(6, 3, seed=1)

    def kernel(x, y):
        return (np.dot(x, y) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i, j in pairs) / 30
    across = sum(kernel(x, y) for x in a for y in b) / 36
    assert kernel_distance(a, b, subset_size=1000) == pytest.approx(within - 2 * across, rel=1e-5)


def test_mistakes_with_features():
    for distance in (frechet_distance, lambda a, b: kernel_distance(a, b, 10)):
        with pytest.raises(ValueError, match=r"two rows or more and one d, these have \(1, 12\)"):
            distance(features(1), features(9))
        with pytest.raises(ValueError, match=r"one d"):
            distance(features(9, 3), features(9, 4))


@pytest.mark.parametrize(
    ("height", "width", "count"), [(256, 384, 1), (255, 900, 0), (384, 384, 2), (768, 512, 8)]
)
def test_hific_patches(height, width, count):
    image = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3)
    patches = hific_patches(image)
    assert patches.shape == (count, 256, 256, 3)
    if count == 8:
        np.testing.assert_array_equal(patches[3], image[256:512, 256:])
        np.testing.assert_array_equal(patches[6], image[128:384, 128:384])
        np.testing.assert_array_equal(patches[7], image[384:640, 128:384])


def test_mean_interval():
    from scipy.stats import bootstrap

    values = rng.gamma(2, size=30)
    interval = mean_interval([*values, None])
    options = {"n_resamples": 10_000, "method": "percentile", "batch": (1 << 20) // 30}
    reference = bootstrap((values,), np.mean, rng=np.random.default_rng(0), **options)
    assert interval.mean == pytest.approx(values.mean()) and interval.values == 30
    assert interval[1:3] == pytest.approx(tuple(reference.confidence_interval), abs=1e-12)
    assert mean_interval([*values, None]) == interval  # seeded
    assert mean_interval([2.5]) == (2.5, 2.5, 2.5, 1)
    assert mean_interval([None]) is None


def test_mean_interval_is_wide_where_values_are_few_and_scattered():
    many, few = (mean_interval(rng.normal(size=count)) for count in (400, 8))
    assert few.low < few.mean < few.high
    assert 4 < (few.high - few.low) / (many.high - many.low) < 12
    assert mean_interval([3.0] * 5) == (3, 3, 3, 5)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache, hosts that do not answer, no optional package; returns the cache."""
    monkeypatch.setitem(sys.modules, "stlpips_pytorch", None)
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "why_unreachable", lambda address: f"{address} does not answer")
    return tmp_path / "checkpoints"


def test_the_table():
    assert set(FAST) <= set(METRICS)
    for name, row in METRICS.items():
        assert row.name == name and row.better in ("higher", "lower")
        assert row.recipe and row.source
    assert [name for name in METRICS if not is_per_image(name)] == [
        *("fid_patches", "kid_patches", "fid_folder", "kid_folder")
    ]


def test_choose_metrics():
    assert choose_metrics("fast") == FAST
    assert choose_metrics("all") == tuple(METRICS)
    assert choose_metrics("dists, psnr") == ("psnr", "dists")
    assert set(choose_metrics("fast,lpips")) == {*FAST, "lpips_alex"}
    message = "unknown metric 'vmaf': choose fast, all, or of psnr, ms_ssim"
    with pytest.raises(ValueError, match=message):
        choose_metrics("psnr,vmaf")


def test_metric_set_offline_names_every_absence_once(offline):
    metrics = MetricSet(list(METRICS))
    assert set(metrics.unavailable) == set(METRICS) - {"psnr", "ms_ssim", "color", "pattern"}
    assert metrics.unavailable["clip"] == "no CLIP was given"
    assert metrics.unavailable["fid_folder"] == "no reference folder was given"
    assert "alexnet-owt-7be5be79.pth does not answer" in metrics.unavailable["lpips_alex"]
    missing = "squeezenet1_1-b8a52dc0.pth does not answer"
    assert missing in metrics.unavailable["lpips_squeeze_half"]
    assert str(offline / "vgg16-397923af.pth") in metrics.unavailable["dists"]  # where to put it
    measured = metrics.measure(picture(), noisy(picture(), 9))
    without = {name for name, value in measured.items() if value is None}
    others = {"st_lpips", "dists", "clip", "clip_judge", "caption", "edges"}
    assert without == others | {name for name in METRICS if name.startswith("lpips_")}
    unread = iter([(picture(), picture())])
    assert metrics.over_set(unread)["fid_patches"] == (None, 0, 0, None)
    assert len(list(unread)) == 1  # nothing was read in vain


def test_a_tool_that_is_unavailable_gives_its_reason():
    tools = Tools(clip=Unavailable("its weights are gone"), annotator=lambda image: image[..., 0])
    metrics = MetricSet(("clip", "edges"), tools)
    assert metrics.unavailable == {"clip": "its weights are gone"}
    assert metrics.measure(picture(), picture()) == {"clip": None, "edges": 1}


def test_metric_set_measures_with_what_it_is_lent():
    annotated = []

    def annotate(image):
        annotated.append(image)
        return (image[..., 0] > 128).astype(np.uint8) * 255

    tools = Tools(clip=lambda a, b: 0.51239, judge=lambda a, b: 0.25, annotator=annotate)
    metrics = MetricSet([*FAST, "clip_judge"], tools)
    assert metrics.unavailable == {}
    image = picture()
    same = metrics.measure(image, image)
    expected = {"psnr": 100, "ms_ssim": 1, "clip": 0.5124, "clip_judge": 0.25}
    expected |= {"edges": 1, "color": 0}
    assert list(same.items()) == list(expected.items())
    assert json.loads(json.dumps(same)) == same
    assert len(annotated) == 2
    assert metrics.measure(image, image, sketch=np.zeros(image.shape[:2], np.uint8))["edges"] == 0
    assert len(annotated) == 3  # the original's sketch was at hand
    small = metrics.measure(image[:100], image[:100])
    assert small["ms_ssim"] is None and small["psnr"] == 100


def test_sets_are_compared_as_each_protocol_says(monkeypatch):
    """Inception stands for two numbers of each picture; everything around it is real."""
    seen, loads = [], []

    def numbers(images):
        found = np.zeros((len(images), networks.INCEPTION_WIDTH), np.float32)
        for row, image in zip(found, images, strict=True):
            row[:2] = image.mean(), image.std()
        return found

    def inception(images):
        seen.extend(image.shape for image in images)
        return numbers(images)

    def load_inception(device):
        loads.append(device)
        return inception

    monkeypatch.setattr(networks, "load_inception", load_inception)
    originals = [picture(256, 512) // (i + 1) for i in range(3)]
    pairs = [(image, noisy(image, 40)) for image in originals]
    references = [picture(64, 80) // (i + 1) for i in range(4)]
    names = ["fid_patches", "kid_patches", "fid_folder", "kid_folder"]
    tools = Tools(reference=references, kid_subset_size=2)
    found = MetricSet(names, tools).over_set(iter(pairs))
    assert len(loads) == 1
    assert seen.count((256, 256, 3)) == 12
    assert seen.count((256, 512, 3)) == 3
    assert seen.count((64, 80, 3)) == 4

    def halves(images):
        return [half for image in images for half in (image[:, :256], image[:, 256:])]

    recons = [recon for _, recon in pairs]
    patches = numbers(halves(recons)), numbers(halves(originals))
    expected = {
        "fid_patches": frechet_distance(*patches),
        "kid_patches": kernel_distance(*patches, 6),
        "fid_folder": frechet_distance(numbers(recons), numbers(references)),
        "kid_folder": kernel_distance(numbers(recons), numbers(references), 2),
    }
    values = {name: result.value for name, result in found.items()}
    assert values == pytest.approx(expected, rel=1e-4)
    assert [result[1:] for result in found.values()] == [
        (6, 6, None),
        (6, 6, 6),
        (3, 4, None),
        (3, 4, 2),
    ]


def test_kid_over_fewer_images_than_its_subsets_has_a_reason(monkeypatch):
    features = np.random.default_rng(0).random((1, 2048), np.float32)
    monkeypatch.setattr(
        networks, "load_inception", lambda device: lambda images: features.repeat(len(images), 0)
    )
    pairs = [(picture(), picture())] * 3
    metrics = MetricSet(["fid_folder", "kid_folder"], Tools(reference=[picture()] * 60))
    found = metrics.over_set(pairs)
    assert found["kid_folder"] == (None, 3, 60, None)
    assert found["fid_folder"].value == pytest.approx(0, abs=1e-3)
    assert metrics.unavailable == {"kid_folder": "3 images against 60: 50 of each are the least"}


def test_a_set_too_small_has_a_reason(monkeypatch):
    def inception(images):
        return np.ones((len(images), 2048), np.float32)

    monkeypatch.setattr(networks, "load_inception", lambda device: inception)
    metrics = MetricSet(["fid_patches"])
    found = metrics.over_set([(picture(255, 300), picture(255, 300))])
    assert found == {"fid_patches": (None, 0, 0, None)}
    assert metrics.unavailable["fid_patches"].startswith("0 patches of 256x256 against 0")


def test_a_spoilt_weight_file_is_named(offline):
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = offline / URL_INCEPTION_V3.rpartition("/")[2]
    path.write_bytes(b"not found")
    message = r"6726825d.pth is broken, or holds more than weights"
    with pytest.raises(UnavailableError, match=message):
        networks.load_inception("cpu")
    assert "6726825d.pth is broken" in MetricSet(["fid_patches"]).unavailable["fid_patches"]


def random_weights(name: str) -> tuple[str, dict]:
    """Name of the published file, and random weights of its shapes."""
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )
    from torchvision.models import (
        AlexNet_Weights,
        SqueezeNet1_1_Weights,
        VGG16_Weights,
        alexnet,
        squeezenet1_1,
        vgg16,
    )

    if name == "inception":
        with pytest.MonkeyPatch.context() as patch:  # its constructor loads; here it loads nothing
            patch.setattr("torch.load", lambda *args, **options: {})
            kind = FeatureExtractorInceptionV3
            patch.setattr(kind, "load_state_dict", lambda self, weights: None)
            network = kind("random", ["2048"], feature_extractor_weights_path="none")
        return URL_INCEPTION_V3.rpartition("/")[2], network.state_dict()
    url, network = {
        "lpips_alex": (AlexNet_Weights.IMAGENET1K_V1.url, alexnet),
        "lpips_squeeze": (SqueezeNet1_1_Weights.IMAGENET1K_V1.url, squeezenet1_1),
        "dists": (VGG16_Weights.IMAGENET1K_V1.url, vgg16),
    }[name]
    return url.rpartition("/")[2], network().state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lpips_alex", "lpips_squeeze", "dists"])
def test_distances_with_weights_of_the_cache_are_torchmetrics_s(name, offline):
    from torchmetrics.functional.image import deep_image_structure_and_texture_similarity as dists
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as lpips

    file, tensors = random_weights(name)
    torch.save(tensors, offline / file)
    a, b = picture(), noisy(picture(), 30)
    tensors = [torch.tensor(x.transpose(2, 0, 1)[None]) / 255 for x in (a, b)]
    if name.startswith("lpips"):
        network = name.removeprefix("lpips_")
        theirs = float(lpips(*tensors, net_type=network, normalize=True))
    else:
        theirs = float(dists(*tensors).detach())
    metrics = MetricSet([name])
    assert metrics.unavailable == {}
    assert metrics.measure(a, b)[name] == pytest.approx(theirs, abs=6e-5) and theirs > 0


@pytest.mark.slow
def test_inception_with_weights_of_the_cache(offline):
    file, tensors = random_weights("inception")
    torch.save(tensors, offline / file)
    inception = networks.load_inception("cpu")
    images = [picture(64, 80)] * 16 + [picture(64, 80)[::-1]]  # more than one batch
    found = inception(np.stack(images))
    assert found.shape == (17, 2048) and found.dtype == np.float32
    # The features of random weights are tiny.
    apart = np.linalg.norm(found - found[0], axis=1) / np.linalg.norm(found[0])
    assert apart[:16].max() < 1e-4 and apart[16] > 1e-3
    assert inception([]).shape == (0, 2048)


class SentenceTransformer:
    """Stands for the class of sentence-transformers: the angle of a caption is its length."""

    def __init__(self, source, **options):
        if source != "folder/of/a/copy" or not options["model_kwargs"]["use_safetensors"]:
            raise OSError(f"no {source} with safetensors")

    def encode(self, sentences, normalize_embeddings, show_progress_bar):
        angles = np.array([len(sentence) for sentence in sentences])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


@pytest.fixture
def sentence_transformers(monkeypatch):
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr(weights, "why_unreachable", lambda address: "no route")


def describe(images):
    return ["a barn" if image.mean() > 100 else "a dog" for image in images]


def test_captions_are_compared_by_their_sentence_embeddings(
    sentence_transformers, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder/of/a/copy").mkdir(parents=True)
    tools = Tools(captioner=lambda: describe, sentence_encoder="folder/of/a/copy")
    metrics = MetricSet(["caption"], tools)
    assert metrics.unavailable == {}
    dark = picture() // 4
    assert metrics.measure(picture(), picture()) == {"caption": 1}
    assert metrics.measure(picture(), dark) == {"caption": round(np.cos(1), 4)}
    assert "caption" not in FAST


def test_what_caption_similarity_lacks_is_said(sentence_transformers, monkeypatch):
    def not_called():
        raise AssertionError("loaded in vain")

    def reason(tools):
        return MetricSet(["caption"], tools).unavailable["caption"]

    def gone():
        raise UnavailableError("the captioner is gone")

    assert reason(Tools()) == "no captioner was given"
    tools = Tools(captioner=not_called)
    assert "all-MiniLM-L6-v2" in reason(tools) and "\n" not in reason(tools)
    monkeypatch.setattr(networks, "load_sentence_encoder", lambda *_: None)
    assert reason(Tools(captioner=gone)) == "the captioner is gone"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert "pip install sentence-transformers" in reason(tools)
