"""Photograph -> sketch: `load_annotator("hed-tiny", "cpu")(image)`.

    hed        ControlNet's HED (`ControlNetHED.pth` of `lllyasviel/Annotators`, Apache-2.0, 29 MB, fetched once)
    hed-tiny   the same network, narrower, trained by tiny/train_edges.py and bundled
    canny      OpenCV's Canny edges; no weights

A path to a ControlNetHED.pth on this machine stands for `hed` without a download.
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
    if name in ANNOTATORS:
        return ANNOTATORS[name](device)
    if name.endswith(".pth"):
        return _load_hed(device, name)
    raise ValueError(f"unknown annotator {name!r}: choose one of {', '.join(ANNOTATORS)}, or name a ControlNetHED.pth")


def _load_canny(device: str) -> Annotator:
    import cv2

    def canny(image: np.ndarray) -> np.ndarray:
        return cv2.Canny(image, 100, 200)  # thresholds of ControlNet's own annotator

    return canny


def _load_hed(device: str, *sources: str) -> Annotator:
    import torch
    from huggingface_hub import hf_hub_download

    from annotator.hed import FULL

    def load(source: str, revision: str | None) -> dict:
        path = source if source.endswith(".pth") else hf_hub_download(source, HED_FILE, revision=revision)
        return torch.load(path, map_location="cpu", weights_only=True)

    weights = from_mirrors(load, sources or HED_SOURCES, "edge network (HED)")
    return _network_annotator(FULL, weights, device)


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
