"""The low band of a reconstruction is that of the color or base layer.

python -m pytest tests/test_consistency.py
"""

import numpy as np
import pytest

from diffusion.consistency import SCALE, consistent


def blocks(image: np.ndarray) -> np.ndarray:
    """The means of blocks, float (h, w, 3)."""
    height, width = image.shape[:2]
    shape = (height // SCALE, SCALE, width // SCALE, SCALE, 3)
    return image.reshape(shape).astype(float).mean((1, 3))


@pytest.fixture
def generated():
    return np.random.default_rng(0).integers(90, 160, (128, 192, 3), np.uint8)


@pytest.fixture
def base():
    rows = np.linspace(60, 190, 128)[:, None, None]
    return np.broadcast_to(rows, (128, 192, 3)).round().astype(np.uint8)


def test_a_base_layer_gives_the_low_band(generated, base):
    kept = consistent(generated, base)
    assert kept.dtype == np.uint8 and kept.shape == base.shape
    before = np.abs(blocks(generated) - blocks(base)).mean()
    after = np.abs(blocks(kept) - blocks(base)).mean()
    assert after < 0.1 * before


def test_a_color_map_gives_the_low_band(generated, base):
    small = blocks(base).round().astype(np.uint8)
    kept = consistent(generated, small)
    after = np.abs(blocks(kept) - small).mean()
    assert after < 0.1 * np.abs(blocks(generated) - small).mean()


def test_the_detail_is_the_models(generated, base):
    kept = consistent(generated, base)
    flat = consistent(base, base)
    drawn = generated.astype(float) - blocks(generated).repeat(8, 0).repeat(8, 1)
    added = kept.astype(float) - flat
    assert np.corrcoef(drawn.ravel(), added.ravel())[0, 1] > 0.9
