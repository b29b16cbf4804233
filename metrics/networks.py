"""Networks that compare images or texts, each with the weights that its authors published.

    from metrics.networks import load_lpips
    load_lpips("cpu", "squeeze")(original, reconstruction)

Weights come from the cache of torch.hub or of the Hugging Face hub, and are downloaded into it on
first use. A file that is neither there nor reachable within five seconds is an `UnavailableError`,
which says where to put it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange

from common.weights import UnavailableError, fetch_checkpoint, from_mirrors

if TYPE_CHECKING:
    import torch

BATCH = 16  # images that go through Inception together
INCEPTION_WIDTH = 2048  # features of an image
# Apache-2.0, 91 MB
MINILM = "sentence-transformers/all-MiniLM-L6-v2@c9745ed1d9f207416be6d2e6f8de32d1f16199bf"


def load_lpips(device: str, network: str = "alex") -> Callable[[np.ndarray, np.ndarray], float]:
    """Return LPIPS of two images, (h, w, 3) from 0 to 255: 0 upwards, lower is better.

    Version 0.1, by torchmetrics. network: "alex", "vgg" or "squeeze". Raises UnavailableError.
    Source: Zhang et al. 2018, arXiv 1801.03924.
    """
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    weights = {"alex": AlexNet_Weights, "vgg": VGG16_Weights, "squeeze": SqueezeNet1_1_Weights}
    fetch_checkpoint(weights[network].IMAGENET1K_V1.url)
    # Takes seconds, so it is imported only if there are weights.
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    lpips = LearnedPerceptualImagePatchSimilarity(net_type=network, normalize=True)  # type: ignore[arg-type]
    return _distance(lpips.net, device, normalize=True)


def load_st_lpips(device: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return shift-tolerant LPIPS of two images, uint8 (h, w, 3): 0 upwards, lower is better.

    On AlexNet, by stlpips-pytorch, which holds the weights. Raises UnavailableError.
    Source: Ghildyal, Liu 2022, arXiv 2207.13686.
    """
    return _distance(load_st_network("cpu"), device, normalize=True)


def load_st_network(device: str) -> "torch.nn.Module":
    """Return the network of `load_st_lpips`: two (N, 3, h, w) in -1..1 -> distances (N, 1, 1, 1).

    Raises UnavailableError.
    """
    try:
        from stlpips_pytorch.stlpips import LPIPS
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"the package {str(error.name).partition('.')[0]} is not installed: "
            "pip install stlpips-pytorch ipython torchsummary"  # it imports them unasked
        ) from error
    network = LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    return network.eval().requires_grad_(False).to(device)


def load_dists(device: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return DISTS of two images, uint8 (h, w, 3): 0 to 1, lower is better.

    On VGG-16 at the images' own size, by torchmetrics. Raises UnavailableError.
    Source: Ding et al. 2020, arXiv 2004.07728.
    """
    from torchvision.models import VGG16_Weights

    fetch_checkpoint(VGG16_Weights.IMAGENET1K_V1.url)
    from torchmetrics.functional.image.dists import DISTSNetwork

    return _distance(DISTSNetwork(), device)


def load_inception(device: str) -> Callable[[Sequence[np.ndarray] | np.ndarray], np.ndarray]:
    """Return the function from n images to features (n, 2048) float32.

    The images are uint8 (h, w, 3) of one size. TensorFlow's Inception-v3 of 2015 and its bilinear
    resizing to 299x299, by torch-fidelity; the features are those of the last pooling, which FID
    and KID use. Raises UnavailableError.
    """
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    path = str(fetch_checkpoint(URL_INCEPTION_V3))
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
    )
    network.to(device)

    @torch.inference_mode()
    def features(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        found = [np.empty((0, INCEPTION_WIDTH), np.float32)]
        for start in range(0, len(images), BATCH):
            batch = torch.cat([_tensor(image) for image in images[start : start + BATCH]])
            found.append(network(batch.to(device))[0].cpu().numpy())
        return np.concatenate(found)

    return features


def load_sentence_encoder(
    device: str, source: str = MINILM
) -> Callable[[Sequence[str]], np.ndarray]:
    """Return the function from n sentences to embeddings (n, d) float32 of unit length.

    source: a local folder or a hub id "owner/name[@revision]" of a model of sentence-transformers.
    Raises UnavailableError if that package or the model is not available.
    Source: Reimers, Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UnavailableError(
            "the package sentence-transformers is not installed: pip install sentence-transformers"
        ) from error

    def load(source: str, revision: str | None, local_files_only: bool) -> SentenceTransformer:
        return SentenceTransformer(
            source,
            device=device,
            revision=revision,
            local_files_only=local_files_only,
            model_kwargs={"use_safetensors": True},
        )

    model = from_mirrors(load, [source], "sentence encoder")

    def embed(sentences: Sequence[str]) -> np.ndarray:
        return model.encode(list(sentences), normalize_embeddings=True, show_progress_bar=False)

    return embed


def _distance(network, device: str, **options) -> Callable[[np.ndarray, np.ndarray], float]:
    """Wrap a network of two tensors (1, 3, h, w) in 0..1 as a function of two images."""
    import torch

    network = network.eval().to(device)

    @torch.inference_mode()
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        first = (_tensor(a) / 255).to(device)
        second = (_tensor(b) / 255).to(device)
        return float(network(first, second, **options))

    return distance


def _tensor(image: np.ndarray):
    """Return an image, (h, w, 3), as a tensor (1, 3, h, w) of its dtype."""
    import torch

    return torch.from_numpy(np.array(rearrange(image, "h w c -> 1 c h w"), order="C"))
