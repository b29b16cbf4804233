"""The networks by name, their sizes, and the number formats in which codec files store them.

net = new_network("sketch")     # to train
net = coding_network("sketch", sizes)      # to load a file into
shapes = expected_tensors("cheng2020-attn", {"N": 192})  # takes no memory
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from models_ntc.exact import WEIGHT_BITS
from models_ntc.hyperprior import ExactHyperprior, HyperpriorConfig
from models_ntc.limits import MODEL, PICTURE
from models_ntc.picture_hyperprior import PictureHyperprior, PictureHyperpriorConfig
from models_ntc.sketch_hyperprior import SketchHyperprior
from pretrained.libraries import ZOO, training_packages, without_memory

# Our networks by name, with the classes of their sizes.
OWN: dict[str, tuple[type[ExactHyperprior], type[HyperpriorConfig]]] = {
    MODEL: (SketchHyperprior, HyperpriorConfig),
    PICTURE: (PictureHyperprior, PictureHyperpriorConfig),
}


def new_network(model: str, sizes: dict | None = None) -> nn.Module:
    """Return an untrained network, which needs CompressAI.

    model: one of OWN or of ZOO; ValueError for any other.
    sizes: keyword arguments of the network, as a codec file has them.

    Raises UnavailableError without CompressAI.
    """
    sizes = sizes or {}
    if model not in OWN:
        return coding_network(model, sizes)
    with training_packages(f"the network {model}"):
        from models_ntc.picture_training import PictureTraining
        from models_ntc.sketch_training import SketchTraining

    training = {MODEL: SketchTraining, PICTURE: PictureTraining}
    return training[model](OWN[model][1](**sizes))


def coding_network(model: str, sizes: dict) -> nn.Module:
    """Return a network to load a codec file into, as `new_network`; OWN without CompressAI."""
    if model in OWN:
        network, config = OWN[model]
        return network(config(**sizes))
    if model not in ZOO:
        raise ValueError(f"unknown model {model!r}: choose sketch, {', '.join(ZOO)}")
    return architectures(model)[model](**sizes)


def architectures(model: str) -> dict[str, Callable[..., nn.Module]]:
    """Return CompressAI's networks by name. Raises UnavailableError, with `model`, without it."""
    with training_packages(f"the network {model}"):
        from models_ntc.zoo import ARCHITECTURES

    return ARCHITECTURES


def expected_tensors(model: str, sizes: dict) -> dict[str, Tensor]:
    """Return the state dict of `coding_network` with shapes and dtypes but without memory."""
    # CompressAI's layers compute their first values, which takes more than the meta device.
    without = without_memory() if model in OWN else _fake_tensors(model)
    with torch.random.fork_rng(devices=[]), without:
        return coding_network(model, sizes).state_dict()


def _fake_tensors(model: str) -> AbstractContextManager:
    architectures(model)  # before what follows, which takes a while
    from torch._subclasses.fake_tensor import FakeTensorMode  # imports much of torch's compiler

    return FakeTensorMode()


def sizes_of(net: nn.Module) -> dict:
    """Return the keyword arguments that make a network of the same shape."""
    if isinstance(net, ExactHyperprior):
        return vars(net.config)
    from models_ntc.zoo import zoo_sizes  # here, because it needs CompressAI

    return zoo_sizes(net)


def stored_dtypes(model: str, name: str, dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """Return the formats in which `packed` may store a tensor of the state dict.

    dtype: its format in the network.
    """
    part = name.split(".")[0]
    if model in OWN and part in OWN[model][0].DECODER_PARTS:
        return torch.int16, torch.int32
    if model in OWN and part in OWN[model][0].ENCODER_PARTS:
        return (torch.float16,)
    return (dtype,)


def packed(net: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as it is stored: in number formats no larger than needed."""
    own = isinstance(net, ExactHyperprior)
    state = {}
    for name, value in (net.stored_state() if own else net.state_dict()).items():
        stored = value.detach().cpu().contiguous()
        part = name.split(".")[0]
        if own and part in net.DECODER_PARTS:
            stored = numerators(stored)
        elif own and part in net.ENCODER_PARTS:
            stored = stored.half()
        state[name] = stored
    return state


def numerators(value: Tensor) -> Tensor:
    """Return `value` in units of 2^-WEIGHT_BITS, rounded: int16 if all of it fits, else int32."""
    rounded = value.double().mul(2.0**WEIGHT_BITS).round()
    dtype = torch.int16 if rounded.abs().max() < 2**15 else torch.int32
    return rounded.to(dtype)


def unpacked(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Return the float32 state dict of a stored one; integer tables stay as they are."""
    if isinstance(net, ExactHyperprior):
        for name, value in state.items():
            part = name.split(".")[0]
            if part in net.DECODER_PARTS:
                state[name] = value.float() / 2**WEIGHT_BITS
            elif part in net.ENCODER_PARTS:
                state[name] = value.float()
    return state
