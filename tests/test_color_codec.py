"""The color map's codec: budgets, quality, sizes, hostile bytes, and the same map everywhere.

python -m pytest tests/test_color_codec.py
"""

import hashlib
import math

import numpy as np
import pytest
from skimage import data

import color_codec
from color_codec import model, transform
from metrics import psnr

GOLDEN = "52bfc52e0fa80484428a41c12e6d1d2812404cc02c973b7b22b8c96b8933e4b07b5cdbfe8cab8b"
GOLDEN_MAP = "852ed764680ce8b666e88147a9936197d5c7ba20f1fb8e6ba097a6c6fb2222c1"


def load(name: str) -> np.ndarray:
    image = getattr(data, name)()
    return image[: image.shape[0] // 64 * 64, : image.shape[1] // 64 * 64]


def quality(image: np.ndarray, budget: int) -> float:
    height, width = image.shape[:2]
    payload = color_codec.encode(image, budget)
    assert len(payload) <= budget
    color = color_codec.decode(payload, height, width)
    return psnr(image, color_codec.enlarge(color, height, width))


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket"])
def test_more_bytes_are_within_the_budget_and_better(name):
    image = load(name)
    found = [quality(image, budget) for budget in (8, 20, 40, 80, 150, 400)]
    assert found == sorted(found)
    assert found[4] > found[1] + 1.5


def test_the_payload_uses_its_budget():
    image = load("astronaut")
    assert all(len(color_codec.encode(image, budget)) >= budget - 3 for budget in (20, 60, 150))


def test_the_same_map_everywhere():
    color = color_codec.decode(bytes.fromhex(GOLDEN), 128, 192)
    assert hashlib.sha256(color.tobytes()).hexdigest() == GOLDEN_MAP


@pytest.mark.parametrize(
    "size", [(64, 64), (64, 128), (256, 384), (512, 768), (1024, 64), (64, 4096)]
)
def test_sizes(size):
    rng = np.random.default_rng(0)
    image = color_codec.enlarge(rng.integers(0, 256, (4, 4, 3), np.uint8), *size)
    payload = color_codec.encode(image, 200)
    color = color_codec.decode(payload, *size)
    assert color.shape == (size[0] // 8, size[1] // 8, 3) and color.dtype == np.uint8
    assert psnr(image, color_codec.enlarge(color, *size)) > 24


@pytest.mark.parametrize("picture", ["black", "white", "magenta", "noise", "stripes"])
def test_any_picture_fits_the_smallest_budget(picture):
    image = np.zeros((128, 192, 3), np.uint8)
    image[:] = {"black": 0, "white": 255, "magenta": (255, 0, 255)}.get(picture, 0)
    if picture == "noise":
        image = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    if picture == "stripes":
        image[:, ::2] = 255
    quality(image, color_codec.MIN_BYTES)
    if picture in ("black", "white", "magenta"):
        assert quality(image, 40) > 40


def test_blank_fits_whatever_the_tables_say():
    tables = model.load()
    starts = min(np.diff(tables.radii[kind, model.STEPS - 1])[0] for kind in (0, 1))
    bits = 5 + 2 * math.log2(model.RADII_TOTAL / starts)
    bits += 3 + 2 * math.log2(65536 / tables.probabilities.min())
    assert bits / 8 + 1 <= color_codec.MIN_BYTES


def test_hostile_bytes_give_a_map_or_an_error():
    rng = np.random.default_rng(0)
    accepted = 0
    for turn in range(60):
        length = int(rng.choice([0, 1, 3, 10, 60, 400, color_codec.MAX_BYTES, 70000]))
        payloads = [rng.bytes(length), b"\xff" * length, bytes(length), rng.bytes(1) * length]
        payload = payloads[turn % 4]
        size = (256, 384) if turn % 3 else (64, 1024)
        try:
            color = color_codec.decode(payload, *size)
        except color_codec.ColorError as error:
            assert "\n" not in str(error)
        else:
            accepted += 1
            assert color.shape == (size[0] // 8, size[1] // 8, 3)
    assert accepted < 10  # an empty payload is a map


def test_damaged_payloads():
    payload = color_codec.encode(load("coffee"), 60)
    size = load("coffee").shape[:2]
    right = color_codec.decode(payload, *size)
    for more in (b"\0", b"\1", b"\xff", bytes(30)):
        with pytest.raises(color_codec.ColorError, match="never written"):
            color_codec.decode(payload + more, *size)
    spoiled = [payload[:end] for end in range(0, len(payload), 3)]
    for at in range(0, len(payload), 2):
        flipped = bytes([payload[at] ^ 1 << at % 8])
        spoiled.append(payload[:at] + flipped + payload[at + 1 :])
    for damaged in spoiled:
        try:
            assert not np.array_equal(color_codec.decode(damaged, *size), right)
        except color_codec.ColorError:
            continue


def test_wrong_use():
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="at least"):
        color_codec.encode(image, color_codec.MIN_BYTES - 1)
    with pytest.raises(ValueError, match="multiples of 64"):
        color_codec.encode(image[:60], 60)
    with pytest.raises(ValueError, match="multiples of 64"):
        color_codec.decode(b"", 64, 4160)


def test_no_library_can_round_a_table_otherwise():
    angles = [(j, 16 * n) for n in range(1, 65) for j in range(32 * n)]  # of 2 * length
    values = np.array(
        [math.sqrt(2) * math.cos(math.pi * j / n) * (1 << transform.BASIS_BITS) for j, n in angles]
    )
    assert np.abs(values % 1 - 0.5).min() > 1e-7
    logarithms = [64 * math.log2(1 + n / 8) for n in range(16 * transform.RADIUS)]
    assert np.abs(np.array(logarithms) % 1 - 0.5).min() > 1e-7


def test_networks_are_exact_in_float64():
    """No sum of products can reach 2**53, and all numbers are whole."""
    for network in model.load().networks:
        for weights, bias in network:
            assert (weights % 1 == 0).all() and (bias % 1 == 0).all()
            assert (np.abs(weights).sum(0) * 32767 + np.abs(bias)).max() < 2**53


def test_coefficients_are_in_rgb_units():
    """The squared coefficients sum up to the mean square of the RGB values (Parseval)."""
    rng = np.random.default_rng(0)
    image = color_codec.enlarge(rng.integers(0, 256, (4, 6, 3), np.uint8), 256, 384)
    squares = (image.astype(float) ** 2).mean()
    assert np.isclose((transform.analyze(image) ** 2).sum(), squares, rtol=1e-3)


def test_whole_numbers_give_what_real_numbers_give():
    rng = np.random.default_rng(1)
    image = color_codec.enlarge(rng.integers(0, 256, (4, 6, 3), np.uint8), 256, 384)
    coefficients = np.round(transform.analyze(image) * transform.UNIT).astype(np.int64)
    exact = image.reshape(32, 8, 48, 8, 3).mean((1, 3))
    assert np.abs(transform.synthesize(coefficients, 256, 384) - exact).mean() < 1.5
