"""Metrics against closed forms and against the reference implementations."""

import numpy as np
import pytest

from metrics import EdgeAgreement, edge_f1, ms_ssim, psnr

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
    import torch
    from pytorch_msssim import ms_ssim as reference

    image = picture()
    other = noisy(image, sigma)
    a, b = (torch.tensor(x.transpose(2, 0, 1)[None]).float() for x in (image, other))
    assert ms_ssim(image, other) == pytest.approx(float(reference(a, b, data_range=255)), abs=1e-5)


def test_ms_ssim_of_flat_pictures_is_their_luminance_at_the_coarsest_scale():
    a, b = np.full((192, 192, 3), 100, np.uint8), np.full((192, 192, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ms_ssim(a, b) == pytest.approx(luminance**0.1333, abs=1e-5)  # its window sums to 1 in float32


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
