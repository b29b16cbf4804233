"""Networks that judge pictures: LPIPS, DISTS and Inception, each with the weights its authors published.

    python -c "from metrics.networks import load_lpips; print(load_lpips('cpu')(picture, picture))"

Weights come from torch.hub's cache, and into it from their publisher on first use. A file laid there by hand is as
good; what is neither there nor reachable within five seconds is an `UnavailableError` that says so.
"""

import pickle
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

NIQE_URL = "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/niqe_modelparameters.mat"
REACH_S = 5  # seconds a publisher has to answer
BATCH = 16  # pictures that go through Inception together


class UnavailableError(Exception):
    """A metric cannot be had; the message says why and, where there is one, the cure."""


def fetch(url: str) -> Path:
    """Return the file of `url` in torch.hub's cache, downloaded where it is not there. Raises UnavailableError."""
    import torch

    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if path.exists():
        return path
    reason = _silence(urlsplit(url).netloc)
    if not reason:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
        except OSError as error:
            reason = str(error)
    if reason:
        raise UnavailableError(f"{url} cannot be fetched ({reason}); lay the file at {path}")
    return path


@cache
def _silence(host: str) -> str:
    """Say why a host does not answer, "" where it does. A download has no time limit: a dead network would hang it."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        urlopen(f"https://{host}/", timeout=REACH_S).close()
    except HTTPError:
        return ""  # it answers, if only to say that there is no such page
    except OSError as error:
        return str(getattr(error, "reason", error))
    return ""


def fetch_checkpoint(url: str) -> Path:
    """`fetch` a PyTorch file and make sure that it holds nothing but tensors. Raises UnavailableError."""
    import torch

    path = fetch(url)
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UnavailableError(f"{path} is broken, or holds more than weights: delete it") from error
    return path


def load_lpips(device: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return LPIPS of two pictures (h, w, 3) uint8, 0 upwards, lower is better. Raises UnavailableError.

    Version 0.1 on AlexNet, by torchmetrics. Source: Zhang et al. 2018, arXiv 1801.03924.
    """
    from torchvision.models import AlexNet_Weights

    fetch_checkpoint(AlexNet_Weights.IMAGENET1K_V1.url)
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # seconds; for nothing without weights

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    return _distance(network.net, device, normalize=True)


def load_dists(device: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return DISTS of two pictures (h, w, 3) uint8, 0 to 1, lower is better. Raises UnavailableError.

    On VGG-16 at the pictures' own size, by torchmetrics. Source: Ding et al. 2020, arXiv 2004.07728.
    """
    from torchvision.models import VGG16_Weights

    fetch_checkpoint(VGG16_Weights.IMAGENET1K_V1.url)
    from torchmetrics.functional.image.dists import DISTSNetwork

    return _distance(DISTSNetwork(), device)


def load_inception(device: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return the function from n pictures (h, w, 3) uint8 of one size to features (n, 2048) float32.

    TensorFlow's Inception-v3 of 2015 and its bilinear resizing to 299x299, by torch-fidelity; the features are
    the last pooling's, those of FID and KID. Raises UnavailableError.
    """
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    path = fetch_checkpoint(URL_INCEPTION_V3)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    network.to(device)

    @torch.inference_mode()
    def features(images: Sequence[np.ndarray]) -> np.ndarray:
        found = [np.empty((0, 2048), np.float32)]
        for start in range(0, len(images), BATCH):
            batch = torch.cat([_tensor(image) for image in images[start : start + BATCH]])
            found.append(network(batch.to(device))[0].cpu().numpy())
        return np.concatenate(found)

    return features


def _distance(network, device: str, **options) -> Callable[[np.ndarray, np.ndarray], float]:
    """Wrap a network of two tensors (1, 3, h, w) in 0..1 as a function of two pictures."""
    import torch

    network = network.eval().to(device)

    @torch.inference_mode()
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(network(*((_tensor(x) / 255).to(device) for x in (a, b)), **options))

    return distance


def _tensor(image: np.ndarray):
    """(h, w, 3) uint8 -> (1, 3, h, w) uint8."""
    import torch

    return torch.from_numpy(np.array(image.transpose(2, 0, 1)[None], order="C"))
