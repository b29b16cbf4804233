"""The pretrained codecs of CompressAI's zoo as baselines: images <-> files.

    codec = load_zoo_codec("mbt2018-mean", "cpu")
    codec.decode(codec.encode(image, 3))

The names, each also with "-ms-ssim" behind it for the models that were trained with that loss:

    bmshj2018-factorized    Balle et al. 2018, arXiv 1802.01436: factorized prior
    bmshj2018-hyperprior    the same paper: scale hyperprior
    mbt2018-mean            Minnen et al. 2018, arXiv 1809.02736: mean-scale hyperprior
    mbt2018                 the same paper: with an autoregressive context model; slow
    cheng2020-anchor        Cheng et al. 2020, arXiv 2001.01568: without attention
    cheng2020-attn          the same paper: with attention

Each quality is a model of its own, whose weights are downloaded on first use.
"""

import struct
from functools import cache

import numpy as np
from einops import rearrange

from common.weights import fetch_checkpoint
from metrics.formats import Codec
from pretrained.libraries import ZOO, training_packages

MS_SSIM = "-ms-ssim"
ZOO_CODECS = (*ZOO, *(f"{name}{MS_SSIM}" for name in ZOO))

# quality, height, width, height and width of the latents, length of the first string
HEADER = struct.Struct(">BHHBBH")
MULTIPLE = 64  # of the sides of an image that a model takes, pixels


def load_zoo_codec(name: str, device: str) -> Codec:
    """Return the codec of that name, one of ZOO_CODECS.

    Raises UnavailableError if CompressAI or the weights of its lowest quality are not available.
    """
    with training_packages(f"the codec {name}"):
        from compressai.zoo.image import model_urls

    architecture = name.removesuffix(MS_SSIM)
    metric = "mse" if architecture == name else "ms-ssim"
    urls = model_urls[architecture][metric]  # by quality

    @cache
    def model(quality: int):
        return _load_model(architecture, urls[quality], device)

    model(min(urls))  # so that missing weights are reported before the first image

    return Codec(
        name,
        range(min(urls), max(urls) + 1),
        lambda image, quality: _encode(image, quality, model(quality)),
        lambda data: _decode(data, model(data[0])),
        f"{name} of CompressAI's zoo, quality {min(urls)} to {max(urls)}, "
        f"with a header of {HEADER.size} bytes",
    )


def _load_model(architecture: str, url: str, device: str):
    """Return a model of CompressAI. Raises UnavailableError if its weights are not available."""
    import torch
    from compressai.zoo.image import model_architectures
    from compressai.zoo.pretrained import load_pretrained

    weights = torch.load(fetch_checkpoint(url), map_location="cpu", weights_only=True)
    model = model_architectures[architecture].from_state_dict(load_pretrained(weights))
    model.update()
    return model.eval().to(device)


def _encode(image: np.ndarray, quality: int, model) -> bytes:
    """Return HEADER, the string of the latents and, if the model has them, of the hyper-latents."""
    import torch
    import torch.nn.functional as F

    height, width = image.shape[:2]
    planes = rearrange(image, "h w c -> 1 c h w").astype(np.float32) / 255
    pixels = F.pad(torch.from_numpy(planes), (0, -width % MULTIPLE, 0, -height % MULTIPLE))
    with torch.inference_mode():
        coded = model.compress(pixels.to(next(model.parameters()).device))
    strings = [batch[0] for batch in coded["strings"]]
    header = HEADER.pack(quality, height, width, *coded["shape"], len(strings[0]))
    return header + b"".join(strings)


def _decode(data: bytes, model) -> np.ndarray:
    """Return the image, uint8 (h, w, 3), of a file that `_encode` wrote."""
    import torch

    _, height, width, *shape, length = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    strings = [[part] for part in (body[:length], body[length:]) if part]
    with torch.inference_mode():
        pixels = model.decompress(strings, shape)["x_hat"][0, :, :height, :width]
    levels = (pixels.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return rearrange(levels, "c h w -> h w c")
