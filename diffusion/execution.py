"""How a text-to-image model runs on a GPU: compiled, with which attention, in how much memory.

execution = Execution(compile="inductor")
check(execution, "cuda")
generator = load_generator(preset, "cuda", execution)
"""

from dataclasses import dataclass
from importlib.util import find_spec

ATTENTIONS = ("torch", "xformers")
MEMORIES = ("all", "low")


@dataclass(frozen=True)
class Execution:
    """The defaults are those of a CPU, too."""

    # Backend of torch.compile for UNet and ControlNet, such as "inductor"; "": not compiled. Each
    # new size of image or batch is compiled anew.
    compile: str = ""
    attention: str = "torch"  # one of ATTENTIONS
    # One of MEMORIES. "low": text encoder, UNet with ControlNet, VAE and CLIP take turns on the
    # device; see diffusion/turns.py.
    memory: str = "all"


PLAIN = Execution()


def check(execution: Execution, device: str) -> None:
    """Raise ValueError, with the cure, if this device or installation cannot run like that."""
    if execution == PLAIN:
        return
    if device == "cpu":
        flags = "--compile, --attention xformers and --memory low"
        raise ValueError(f"{flags} are for a GPU, and this run is on the CPU: leave them out")
    if execution.attention == "xformers" and find_spec("xformers") is None:
        raise ValueError(
            "--attention xformers: the package is not installed: `pip install xformers`, or leave "
            "the flag out for PyTorch's own attention"
        )
    if execution.compile and execution.memory == "low":
        raise ValueError(
            "--compile and --memory low exclude each other: models that leave the GPU are not "
            "compiled; choose one"
        )
