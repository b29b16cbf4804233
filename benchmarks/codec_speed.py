"""Speed of our sketch codec and of the paper's network, in CompressAI's own order and in ours.

    speed([0.2], None, sketches, repeats=3, threads=1)

CompressAI decodes the latents of a network with a context model one position at a time; our coder
decodes one wavefront at a time (models_ntc/zoo.py).
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

PAPER_CHANNELS = 192  # N of the authors' networks
IN_COMPRESSAI = "paper in CompressAI"
IN_WAVEFRONTS = "paper in wavefront order"
WARM_UP = (128, 192)  # height, width of the part of a sketch that is coded first
COMPARED = (256, 384)  # height, width of the part whose symbols are compared; CompressAI is slow


def random_paper(folder: str) -> Path:
    """Write the paper's network with random weights, and return the file.

    As in a trained network, most symbols of a sketch are 0.
    """
    import torch

    from models_ntc.codec import new_network

    torch.manual_seed(0)
    path = Path(folder, "random.pt")
    torch.save(new_network("cheng2020-attn", {"N": PAPER_CHANNELS}).state_dict(), path)
    return path


def compressai_way(net) -> tuple[Callable, Callable]:
    """Return CompressAI's own compress and decompress of a one-channel network, for sketches."""
    import torch
    from einops import rearrange

    @torch.no_grad()
    def encode(sketch: np.ndarray) -> dict:
        pixels = torch.from_numpy(sketch.astype(np.float32) / 255)
        return net.compress(rearrange(pixels, "h w -> 1 1 h w"))

    @torch.no_grad()
    def decode(coded: dict) -> np.ndarray:
        pixels = net.decompress(coded["strings"], coded["shape"])["x_hat"]
        return pixels[0, 0].clamp(0, 1).mul(255).round().byte().numpy()

    return encode, decode


def decoded_latents(net, decode: Callable[[], object]):
    """Return the input of the network's synthesis while `decode` runs, in float64."""
    seen = []
    hook = net.g_s.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double()))
    decode()
    hook.remove()
    return seen[0]


def same_symbols(net, compressai: tuple, wavefront: tuple, sketch: np.ndarray) -> dict:
    """Return how far the symbols of both orders agree, each decoded from its own encoder's data.

    Latents less than half a step apart have the same symbol. compressai, wavefront: (encode,
    decode).
    """
    latents = []
    for encode, decode in (compressai, wavefront):
        latents.append(decoded_latents(net, partial(decode, encode(sketch))))
    apart = (latents[0] - latents[1]).abs()
    return {
        "same_symbols": bool((apart < 0.5).all()),
        "share_of_equal_symbols": float((apart < 0.5).double().mean()),
        "share_of_symbols_not_0": float((latents[1].abs() > 0.5).double().mean()),
        "largest_difference": float(apart.max()),
    }


def time_in_turns(
    ways: dict[str, tuple], net, sketches: list[np.ndarray], repeats: int
) -> dict[str, dict]:
    """Return {way: {"encode", "decode", "symbols"}}, median seconds, after a warm-up.

    All ways run in turns, so that other work on the machine slows all of them. "symbols" is the
    time of decoding before the synthesis begins, for ways that use `net`.

    ways: {name: (encode, decode)}.
    """
    from tqdm import tqdm

    begun: list[float] = []  # when the synthesis began
    hook = net.g_s.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
    height, width = WARM_UP
    for encode, decode in ways.values():
        decode(encode(sketches[0][:height, :width]))
    seconds = {name: defaultdict(list) for name in ways}
    turns = list(product(range(repeats), sketches, ways))
    for _, sketch, name in tqdm(turns, desc="speed", file=sys.stderr):
        encode, decode = ways[name]
        begun.clear()
        started = time.perf_counter()
        data = encode(sketch)
        encoded = time.perf_counter()
        decode(data)
        seconds[name]["decode"].append(time.perf_counter() - encoded)
        seconds[name]["encode"].append(encoded - started)
        seconds[name]["symbols"] += [moment - encoded for moment in begun]
    hook.remove()
    return {name: medians(steps) for name, steps in seconds.items()}


def medians(steps: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each list that is not empty."""
    return {step: median(seconds) for step, seconds in steps.items() if seconds}


def speed(
    lambdas: Sequence[float | str],
    paper: str | None,
    sketches: list[np.ndarray],
    repeats: int,
    threads: int | None,
) -> dict:
    """Return seconds of our codec and of the paper's network in both orders, and their ratios.

    lambdas: lambdas or codec files of ours.
    paper: file of the paper's network; None: random weights.
    threads: of torch; None: its own number.
    """
    import torch

    from models_ntc import load_sketch_codec

    torch.set_num_threads(threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        codec = load_sketch_codec(paper or random_paper(folder))
    net = codec.coder.net
    compressai = compressai_way(net)
    wavefront = (codec.encode, codec.decode)
    ways = {}
    for lam in lambdas:
        own = load_sketch_codec(lam)
        ways[f"ours {lam}"] = (own.encode, own.decode)
    names = list(ways)
    ways[IN_COMPRESSAI] = compressai
    ways[IN_WAVEFRONTS] = wavefront
    seconds = time_in_turns(ways, net, sketches, repeats)
    height, width = COMPARED
    return {
        "threads": torch.get_num_threads(),
        "size": "x".join(map(str, sketches[0].shape[::-1])),
        "weights": Path(paper).name if paper else f"random, N={PAPER_CHANNELS}",
        "seconds": seconds,
        **ratios(seconds, names),
        **same_symbols(net, compressai, wavefront, sketches[0][:height, :width]),
    }


def ratios(seconds: dict[str, dict], ours: Sequence[str]) -> dict[str, float]:
    """Return how many times longer CompressAI takes. ours: names of our codec's ways."""
    slow = seconds[IN_COMPRESSAI]
    wave = seconds[IN_WAVEFRONTS]
    own = median(seconds[name]["encode"] + seconds[name]["decode"] for name in ours)
    return {
        "compressai_over_ours": (slow["encode"] + slow["decode"]) / own,
        "compressai_over_wavefront_decode": slow["decode"] / wave["decode"],
        "compressai_over_wavefront_symbols": slow["symbols"] / wave["symbols"],
    }
