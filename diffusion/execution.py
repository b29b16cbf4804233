"""How a text-to-image model runs on a GPU: compiled, with which attention, in how much memory.

execution = Execution(compile="inductor")
check(execution, "cuda")
generator = load_generator(preset, "cuda", execution)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from diffusion.turns import Turns

ATTENTIONS = ("torch", "xformers")
MEMORIES = ("all", "low", "auto")
ROOM = 2  # for ControlNet, CLIP and work: free memory that is enough, in weights of the model


@dataclass(frozen=True)
class Execution:
    """The defaults are those of a CPU, too."""

    # Backend of torch.compile for UNet and ControlNet, such as "inductor"; "": not compiled. Each
    # new size of image or batch is compiled anew.
    compile: str = ""
    attention: str = "torch"  # one of ATTENTIONS
    # One of MEMORIES. "low": text encoder, UNet with ControlNet, VAE and CLIP take turns on the
    # device; see diffusion/turns.py. "auto": they do so if not all may have room there.
    memory: str = "all"


PLAIN = Execution()


def check(execution: Execution, device: str) -> None:
    """Raise ValueError, with the cure, if this device or installation cannot run like that."""
    if execution == PLAIN:
        return
    if device == "cpu":
        flags = "--compile, --attention xformers and --memory"
        raise ValueError(f"{flags} are for a GPU, and this run is on the CPU: leave them out")
    if execution.attention == "xformers" and find_spec("xformers") is None:
        raise ValueError(
            "--attention xformers: the package is not installed: `pip install xformers`, or leave "
            "the flag out for PyTorch's own attention"
        )
    if execution.compile and execution.memory != "all":
        raise ValueError(
            f"--compile and --memory {execution.memory} exclude each other: models that leave "
            "the GPU are not compiled; choose one"
        )


def make_turns(
    memory: str, device: "torch.device", models: Iterable["torch.nn.Module"]
) -> "Turns | None":
    """Return the turns that the models of a generator take on a device, None if all stay there.

    memory: one of MEMORIES. models: those of the pipeline, in the dtype in which they compute.
    """
    if memory == "auto" and not _has_room(device, models):
        memory = "low"
    if memory != "low":
        return None
    from diffusion.turns import Turns

    return Turns(device)


def _has_room(device: "torch.device", models: Iterable["torch.nn.Module"]) -> bool:
    import torch

    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return ROOM * sum(model.get_memory_footprint() for model in models) <= free
