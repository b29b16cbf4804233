import pickle

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from annotator import load_annotator
from annotator.hed import FULL, HED
from metrics import edge_f1
from presets import PresetError


@pytest.fixture
def photo():
    """A bright disc on a dark ground, softly lit, and where its boundary is."""
    y, x = np.mgrid[:192, :256]
    inside = (y - 96) ** 2 + (x - 128) ** 2 < 60**2
    picture = np.where(inside[..., None], (200, 150, 90), (40, 70, 60)) + (x[..., None] // 16)
    ring = cv2.Canny(inside.astype(np.uint8) * 255, 100, 200)
    return picture.astype(np.uint8), ring


@pytest.mark.parametrize("name", ["hed-tiny", "canny"])
def test_sketch_is_the_boundary(name, photo):
    picture, ring = photo
    sketch = load_annotator(name)(picture)
    assert sketch.shape == picture.shape[:2] and sketch.dtype == np.uint8
    assert edge_f1(sketch, ring, tolerance_px=4).f1 > 0.8


def test_hed_tiny_draws_no_frame_and_takes_any_size(photo):
    annotator = load_annotator("hed-tiny")
    flat = np.full((65, 97, 3), 120, np.uint8)
    assert annotator(flat).max() < 64
    assert np.array_equal(annotator(photo[0]), annotator(photo[0]))


def test_full_hed_has_the_keys_of_the_published_file():
    keys = set(HED(FULL).state_dict())
    assert {"norm", "block1.convs.0.weight", "block3.convs.2.bias", "block5.projection.weight"} <= keys
    assert len(keys) == 1 + 2 * (2 + 2 + 3 + 3 + 3) + 2 * 5
    assert HED(FULL).block5.convs[2].weight.shape == (512, 512, 3, 3)


def test_hed_reads_a_published_style_file(tmp_path, photo):
    torch.manual_seed(0)
    weights = {key: value.clone() for key, value in HED(FULL).state_dict().items()}
    weights["norm"] += 100
    torch.save(weights, tmp_path / "ControlNetHED.pth")
    picture = photo[0][:64, :96]
    sketch = load_annotator(str(tmp_path / "ControlNetHED.pth"))(picture)
    assert np.abs(sketch.astype(int) - plain_hed(weights, picture)).max() <= 1


def plain_hed(weights: dict, picture: np.ndarray) -> np.ndarray:
    """ControlNet's annotator written out: five scales, their maps enlarged, averaged, squashed."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() - weights["norm"]
    maps = []
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
        x = F.max_pool2d(x, 2) if block > 1 else x
        for i in range(convs):
            name = f"block{block}.convs.{i}"
            x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).relu()
        side = F.conv2d(x, weights[f"block{block}.projection.weight"], weights[f"block{block}.projection.bias"])
        height, width = picture.shape[:2]
        maps.append(cv2.resize(side[0, 0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR))
    return (255 / (1 + np.exp(-np.mean(maps, 0)))).round().astype(int)


def test_unknown_names_and_missing_weights(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown annotator 'sobel': choose one of"):
        load_annotator("sobel")
    with pytest.raises(PresetError, match="no such file"):
        load_annotator(str(tmp_path / "gone.pth"))


def test_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").write_text, ("",))

    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(PresetError):
        load_annotator(str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()
