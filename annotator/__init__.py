"""Photograph -> sketch: `load_annotator("hed-tiny", "cpu")(image)`.

hed        ControlNet's HED (`ControlNetHED.pth` of `lllyasviel/Annotators`, Apache-2.0, 29 MB, fetched once)
hed-tiny   the same network, narrower, trained by tiny/train_edges.py and bundled
canny      OpenCV's Canny edges; no weights
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from presets import from_mirrors

Annotator = Callable[[np.ndarray], np.ndarray]
HED_SOURCES = ("lllyasviel/Annotators",)
HED_FILE = "ControlNetHED.pth"
TINY_FILE = Path(__file__).parent / "hed_tiny.safetensors"


def load_annotator(name: str, device: str = "cpu") -> Annotator:
    """Return the function image (H, W, 3) uint8 RGB -> sketch (H, W) uint8, 255 = edge.

    Raises ValueError for an unknown name and `presets.PresetError` where weights cannot be had.
    """
    if name not in ANNOTATORS:
        raise ValueError(f"unknown annotator {name!r}: choose one of {', '.join(ANNOTATORS)}")
    return ANNOTATORS[name](device)


def _load_canny(device: str) -> Annotator:
    import cv2

    def canny(image: np.ndarray) -> np.ndarray:
        return cv2.Canny(image, 100, 200)  # thresholds of ControlNet's own annotator

    return canny


def _load_hed(device: str) -> Annotator:
    import torch
    from huggingface_hub import hf_hub_download

    from annotator.hed import FULL

    def load(source: str, revision: str | None) -> dict:
        local = Path(source) / HED_FILE
        path = local if local.exists() else hf_hub_download(source, HED_FILE, revision=revision)
        return torch.load(path, map_location="cpu", weights_only=True)

    return _network_annotator(FULL, from_mirrors(load, HED_SOURCES, "the HED edge network"), device)


def _load_hed_tiny(device: str) -> Annotator:
    from safetensors.torch import load_file

    from annotator.hed import TINY

    return _network_annotator(TINY, load_file(TINY_FILE), device, margin=16)


def _network_annotator(blocks: tuple, weights: dict, device: str, margin: int = 0) -> Annotator:
    """Wrap a HED with these weights as an annotator.

    A `margin` of mirrored pixels keeps the network's zero padding from drawing a frame around the picture.
    """
    import torch
    import torch.nn.functional as F

    from annotator.hed import HED

    network = HED(blocks)
    network.load_state_dict(weights)
    network = network.float().eval().to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def hed(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        pixels = F.pad(pixels.to(device, torch.float32), [margin] * 4, mode="reflect")
        soft = torch.sigmoid(network(pixels))[0, 0]
        soft = soft[margin : margin + image.shape[0], margin : margin + image.shape[1]]
        return (soft * 255).round().clamp(0, 255).byte().cpu().numpy()

    return hed


ANNOTATORS = {"hed": _load_hed, "hed-tiny": _load_hed_tiny, "canny": _load_canny}
